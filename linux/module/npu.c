// SPDX-License-Identifier: GPL-2.0
/*
 * The NPU as a virtio device (abi/npu.h): found, set up, its registers.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "board.h"
#include "flexnpu.h"
#include "npu.h"

struct npu npu = {
	.switch_lock = __MUTEX_INITIALIZER(npu.switch_lock),
	.reach_lock = __MUTEX_INITIALIZER(npu.reach_lock),
	.lock = __SPIN_LOCK_UNLOCKED(npu.lock),
	.waiting = LIST_HEAD_INIT(npu.waiting),
	.wait = __WAIT_QUEUE_HEAD_INITIALIZER(npu.wait),
};

/* ---- registers ---- */

static u32 config_word(unsigned int offset)
{
	__le32 word;

	npu.transport->get(npu.vdev, offset, &word, sizeof(word));
	return le32_to_cpu(word);
}

static void set_config_word(unsigned int offset, u32 value)
{
	__le32 word = cpu_to_le32(value);

	npu.transport->set(npu.vdev, offset, &word, sizeof(word));
}

/* Each access to a word is a round trip to the device's process: none more than needed. */
int npu_register(bool write, u32 number, u32 *value)
{
	int ret = 0;

	mutex_lock(&npu.reach_lock);
	if (!npu.vdev) {
		ret = -ENODEV;
	} else if (!npu.reachable) {
		ret = -EBUSY;
	} else {
		/* Any other number than the last, whoever made that access. */
		if (!npu.sequence_known)
			npu.sequence = config_word(FLEX_NPU_CONFIG_ACCESS) >> 16;
		npu.sequence_known = true;
		npu.sequence++;
		if (write)
			set_config_word(FLEX_NPU_CONFIG_DATA, *value);
		set_config_word(FLEX_NPU_CONFIG_ACCESS,
				FLEX_NPU_ACCESS(npu.sequence, number) | (write ? FLEX_NPU_ACCESS_WRITE : 0));
		if (!write)
			*value = config_word(FLEX_NPU_CONFIG_VALUE);
	}
	mutex_unlock(&npu.reach_lock);
	return ret;
}

int flexnpu_read_register(enum flex_npu_register number, u32 *value)
{
	npu_wake();
	return npu_register(false, number, value);
}
EXPORT_SYMBOL_GPL(flexnpu_read_register);

int flexnpu_write_register(enum flex_npu_register number, u32 value)
{
	npu_wake();
	return npu_register(true, number, &value);
}
EXPORT_SYMBOL_GPL(flexnpu_write_register);

u32 npu_state(void)
{
	struct arm_smccc_res res;

	if (!READ_ONCE(npu.vdev))
		return FLEX_NPU_ABSENT;
	res = flex_hvc(FLEX_HVC_NPU_STATE, 0, 0);
	return (s64)res.a0 == FLEX_OK ? res.a1 : FLEX_NPU_NORMAL;
}

/* ---- where it is ---- */

/* With switch_lock or reach_lock. */
struct pci_dev *npu_pci(void)
{
	return to_pci_dev(npu.vdev->dev.parent);
}

struct pci_dev *flexnpu_pci_device(void)
{
	struct pci_dev *pci = NULL;

	mutex_lock(&npu.reach_lock);
	if (npu.vdev)
		pci = pci_dev_get(npu_pci());
	mutex_unlock(&npu.reach_lock);
	return pci;
}
EXPORT_SYMBOL_GPL(flexnpu_pci_device);

static int window_bar = -1;

/* Virtio 1.2, 4.1.4: a vendor capability names the BAR of each structure. All of QEMU's lie in one. */
static int find_window(struct pci_dev *pci)
{
	u8 position, type, bar;

	for (position = pci_find_capability(pci, PCI_CAP_ID_VNDR); position;
	     position = pci_find_next_capability(pci, position, PCI_CAP_ID_VNDR)) {
		pci_read_config_byte(pci, position + offsetof(struct virtio_pci_cap, cfg_type), &type);
		pci_read_config_byte(pci, position + offsetof(struct virtio_pci_cap, bar), &bar);
		if (type == VIRTIO_PCI_CAP_COMMON_CFG && bar < PCI_STD_NUM_BARS)
			return bar;
	}
	return -ENODEV;
}

int flexnpu_window(phys_addr_t *base, resource_size_t *bytes)
{
	int ret = -ENODEV;

	mutex_lock(&npu.reach_lock);
	if (npu.vdev && window_bar >= 0) {
		*base = pci_resource_start(npu_pci(), window_bar);
		*bytes = pci_resource_len(npu_pci(), window_bar);
		ret = 0;
	}
	mutex_unlock(&npu.reach_lock);
	return ret;
}
EXPORT_SYMBOL_GPL(flexnpu_window);

/* ---- what the virtio core may do at any time ---- */

static u8 guarded_get_status(struct virtio_device *vdev)
{
	u8 status = 0;

	mutex_lock(&npu.reach_lock);
	if (npu.reachable)
		status = npu.transport->get_status(vdev);
	mutex_unlock(&npu.reach_lock);
	return status;
}

static void guarded_set_status(struct virtio_device *vdev, u8 status)
{
	mutex_lock(&npu.reach_lock);
	if (npu.reachable)
		npu.transport->set_status(vdev, status);
	mutex_unlock(&npu.reach_lock);
}

static void guarded_reset(struct virtio_device *vdev)
{
	mutex_lock(&npu.reach_lock);
	if (npu.reachable)
		npu.transport->reset(vdev);
	mutex_unlock(&npu.reach_lock);
}

static struct virtio_config_ops guarded;

/* ---- set up and taken down ---- */

static int find_queues(struct virtio_device *vdev)
{
	struct virtqueue_info info[NPU_QUEUES];
	struct virtqueue *queues[NPU_QUEUES];
	unsigned int i;
	int ret;

	memset(info, 0, sizeof(info));
	for (i = 0; i < NPU_QUEUES; i++) {
		info[i].name = "jobs";
		info[i].callback = npu_queue_done;
	}
	ret = virtio_find_vqs(vdev, NPU_QUEUES, queues, info, NULL);
	if (ret)
		return ret;
	spin_lock_irq(&npu.lock);
	npu.queue = queues[0];
	spin_unlock_irq(&npu.lock);
	return 0;
}

static int power(u32 on)
{
	return npu_register(true, FLEX_NPU_REG_POWER, &on);
}

/* Also called by the core when the system is suspended. */
static int npu_freeze(struct virtio_device *vdev)
{
	npu_gate_set(NPU_GATE_CLOSED);
	virtio_reset_device(vdev);
	npu_jobs_lost();
	vdev->config->del_vqs(vdev);
	return 0;
}

static int npu_restore(struct virtio_device *vdev)
{
	int ret = find_queues(vdev);

	if (ret)
		return ret;
	virtio_device_ready(vdev);
	ret = power(1);
	if (!ret)
		npu_gate_set(NPU_GATE_OPEN);
	return ret;
}

int npu_take_down(void)
{
	return virtio_device_freeze(npu.vdev);
}

int npu_set_up(void)
{
	int ret = virtio_device_restore(npu.vdev);

	if (ret) {
		npu_gate_set(NPU_GATE_ABSENT);
		dev_err(&npu.vdev->dev, "it cannot be set up again: %d\n", ret);
	}
	return ret;
}

void npu_wake(void)
{
	u64 start = ktime_get_ns();

	if (READ_ONCE(npu.gate) != NPU_GATE_ASLEEP)
		return;
	mutex_lock(&npu.switch_lock);
	if (READ_ONCE(npu.gate) == NPU_GATE_ASLEEP && !npu_set_up()) {
		npu.costs.wakes++;
		npu.costs.wake_ns += ktime_get_ns() - start;
	}
	mutex_unlock(&npu.switch_lock);
}

static int read_registers(struct virtio_device *vdev)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(npu.registers); i++)
		npu_register(false, i, &npu.registers[i]);
	if (npu.registers[FLEX_NPU_REG_ID] == FLEX_NPU_ID && npu.registers[FLEX_NPU_REG_VERSION] == FLEX_NPU_VERSION)
		return 0;
	dev_err(&vdev->dev, "no NPU of version %u (it says %#x, version %u)\n", FLEX_NPU_VERSION,
		npu.registers[FLEX_NPU_REG_ID], npu.registers[FLEX_NPU_REG_VERSION]);
	return -ENODEV;
}

static void attach(struct virtio_device *vdev)
{
	mutex_lock(&npu.reach_lock);
	npu.vdev = vdev;
	npu.reachable = true;
	npu.sequence_known = false;
	npu.transport = vdev->config;
	guarded = *vdev->config;
	guarded.get_status = guarded_get_status;
	guarded.set_status = guarded_set_status;
	guarded.reset = guarded_reset;
	vdev->config = &guarded;
	mutex_unlock(&npu.reach_lock);
}

static void detach(struct virtio_device *vdev)
{
	mutex_lock(&npu.reach_lock);
	vdev->config = npu.transport;
	npu.vdev = NULL;
	mutex_unlock(&npu.reach_lock);
}

/* With switch_lock. */
static int start(struct virtio_device *vdev)
{
	int ret = read_registers(vdev);

	if (ret)
		return ret;
	ret = find_queues(vdev);
	if (ret)
		return ret;
	virtio_device_ready(vdev);
	ret = power(1);
	/* Beside the queues' own handler: it stays when they go. */
	if (!ret)
		ret = request_irq(npu_pci()->irq, npu_away_interrupt, IRQF_SHARED, "flexnpu", &npu);
	if (!ret) {
		ret = misc_register(&npu_misc);
		if (ret)
			free_irq(npu_pci()->irq, &npu);
	}
	if (ret) {
		virtio_reset_device(vdev);
		vdev->config->del_vqs(vdev);
		return ret;
	}
	npu_gate_set(NPU_GATE_OPEN);
	return 0;
}

static int npu_probe(struct virtio_device *vdev)
{
	int ret = -EBUSY;

	if (!vdev->dev.parent || !dev_is_pci(vdev->dev.parent) || !virtio_has_feature(vdev, VIRTIO_F_ACCESS_PLATFORM))
		return -ENODEV;
	mutex_lock(&npu.switch_lock);
	if (npu.vdev)
		goto out;
	attach(vdev);
	window_bar = find_window(npu_pci());
	ret = start(vdev);
	if (ret)
		detach(vdev);
	else
		dev_info(&vdev->dev, "NPU with %u cores, %u KiB of SRAM\n", npu.registers[FLEX_NPU_REG_CORES],
			 npu.registers[FLEX_NPU_REG_SRAM_BYTES] >> 10);
out:
	mutex_unlock(&npu.switch_lock);
	return ret;
}

static void npu_remove(struct virtio_device *vdev)
{
	u32 off = 0;

	misc_deregister(&npu_misc);
	mutex_lock(&npu.switch_lock);
	if (npu_get_back()) {
		/* Its registers stay out of reach for good, and our guards in front of them. */
		npu_gate_set(NPU_GATE_ABSENT);
		__module_get(THIS_MODULE);
		dev_err(&vdev->dev, "the secure world does not return it: lost until the next boot\n");
	} else {
		npu_register(true, FLEX_NPU_REG_POWER, &off);
		free_irq(npu_pci()->irq, &npu);
		npu_take_down();
		npu_gate_set(NPU_GATE_ABSENT);
		detach(vdev);
	}
	mutex_unlock(&npu.switch_lock);
}

static const struct virtio_device_id npu_ids[] = { { BOARD_NPU_VIRTIO_ID, VIRTIO_DEV_ANY_ID }, {} };

static struct virtio_driver npu_driver = {
	.driver.name = "flexnpu",
	.id_table = npu_ids,
	.probe = npu_probe,
	.remove = npu_remove,
	.freeze = npu_freeze,
	.restore = npu_restore,
};

int npu_init(void)
{
	int ret = npu_switch_init();

	if (ret)
		return ret;
	ret = register_virtio_driver(&npu_driver);
	if (ret)
		npu_switch_exit();
	return ret;
}

void npu_exit(void)
{
	unregister_virtio_driver(&npu_driver);
	npu_switch_exit();
}
