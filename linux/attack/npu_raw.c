// SPDX-License-Identifier: GPL-2.0
/* The NPU's registers and queues without a driver (abi/npu.h; Virtio 1.2, 2.7 and 4.1.4). */
#include "linux/module/npu.h"

#include <linux/delay.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "linux/module/flexnpu.h"
#include "npu_raw.h"

/* Within a queue's page. */
#define AVAIL_OFFSET 256
#define USED_OFFSET 512
#define RESULT_OFFSET 1024
#define JOB_OFFSET 2048

/* ---- the driver ---- */

static struct npu *driver;
static int (*driver_take_down)(void), (*driver_set_up)(void), (*driver_get_back)(void);
static void (*driver_gate)(enum npu_gate gate);

static bool find_driver(void)
{
	unsigned long (*lookup)(const char *name) = (void *)symbol_address("kallsyms_lookup_name");

	if (driver)
		return true;
	driver_take_down = (void *)symbol_address("npu_take_down");
	driver_set_up = (void *)symbol_address("npu_set_up");
	driver_get_back = (void *)symbol_address("npu_get_back");
	driver_gate = (void *)symbol_address("npu_gate_set");
	if (lookup && driver_take_down && driver_set_up && driver_get_back && driver_gate)
		driver = (struct npu *)lookup("flexserve:npu");
	return driver;
}

static void driver_may_reach(bool reachable)
{
	mutex_lock(&driver->reach_lock);
	driver->reachable = reachable;
	mutex_unlock(&driver->reach_lock);
}

/* ---- where its structures are ---- */

static bool find_structures(struct raw_npu *n)
{
	u8 position, type, bar, window = 0xff;
	u32 offset;

	for (position = pci_find_capability(n->pci, PCI_CAP_ID_VNDR); position;
	     position = pci_find_next_capability(n->pci, position, PCI_CAP_ID_VNDR)) {
		pci_read_config_byte(n->pci, position + offsetof(struct virtio_pci_cap, cfg_type), &type);
		pci_read_config_byte(n->pci, position + offsetof(struct virtio_pci_cap, bar), &bar);
		pci_read_config_dword(n->pci, position + offsetof(struct virtio_pci_cap, offset), &offset);
		switch (type) {
		case VIRTIO_PCI_CAP_COMMON_CFG:
			n->common = offset;
			window = bar;
			break;
		case VIRTIO_PCI_CAP_NOTIFY_CFG:
			n->notify = offset;
			pci_read_config_dword(n->pci, position + sizeof(struct virtio_pci_cap), &n->notify_multiplier);
			break;
		case VIRTIO_PCI_CAP_DEVICE_CFG:
			n->device = offset;
			break;
		}
	}
	if (window >= PCI_STD_NUM_BARS)
		return false;
	n->base = pci_resource_start(n->pci, window);
	n->bytes = pci_resource_len(n->pci, window);
	n->registers = ioremap(n->base, n->bytes);
	return n->registers;
}

static void free_all(struct raw_npu *n)
{
	unsigned int i;

	for (i = 0; i < RAW_QUEUES; i++)
		free_page((unsigned long)n->rings[i]);
	for (i = 0; i < ARRAY_SIZE(n->tables); i++)
		free_page((unsigned long)n->tables[i]);
	if (n->registers)
		iounmap(n->registers);
	pci_dev_put(n->pci);
}

static bool prepare(struct report *r, struct raw_npu *n)
{
	unsigned int i;

	n->pci = pci_get_domain_bus_and_slot(0, 0, PCI_DEVFN(BOARD_NPU_SLOT, 0));
	for (i = 0; i < RAW_QUEUES; i++)
		n->rings[i] = (void *)get_zeroed_page(GFP_KERNEL);
	for (i = 0; i < ARRAY_SIZE(n->tables); i++)
		n->tables[i] = (u64 *)get_zeroed_page(GFP_KERNEL);
	if (n->pci && n->rings[RAW_QUEUES - 1] && n->tables[ARRAY_SIZE(n->tables) - 1] && find_structures(n))
		return true;
	failed(r, n->pci ? "the NPU's registers could not be mapped" : "there is no NPU");
	return false;
}

bool raw_seize(struct report *r, struct raw_npu *n)
{
	int ret;

	memset(n, 0, sizeof(*n));
	if (!find_driver()) {
		failed(r, "Linux' driver of the NPU cannot be found");
		return false;
	}
	mutex_lock(&driver->switch_lock);
	ret = READ_ONCE(driver->gate) == NPU_GATE_AWAY ? driver_get_back() : 0;
	if (READ_ONCE(driver->gate) == NPU_GATE_ASLEEP)
		driver_set_up();
	if (ret || READ_ONCE(driver->gate) != NPU_GATE_OPEN) {
		failed(r, "Linux has not got the NPU (%d)", ret);
	} else {
		driver_gate(NPU_GATE_CLOSED);
		wait_event_timeout(driver->wait, !READ_ONCE(driver->running), HZ);
		driver_take_down();
		driver_may_reach(false);
		if (prepare(r, n)) {
			pci_set_master(n->pci);
			return true;
		}
		free_all(n);
		driver_may_reach(true);
		driver_set_up();
	}
	mutex_unlock(&driver->switch_lock);
	return false;
}

void raw_yield(struct report *r, struct raw_npu *n)
{
	u64 state = hvc(FLEX_HVC_NPU_STATE, 0, 0).a1;

	if (state == FLEX_NPU_GIVEN || state == FLEX_NPU_RETURNED)
		hvc(FLEX_HVC_NPU_TAKE, 0, 0);
	state = hvc(FLEX_HVC_NPU_STATE, 0, 0).a1;
	if (state == FLEX_NPU_NORMAL) {
		raw_reset(n);
		driver_may_reach(true);
		if (driver_set_up())
			failed(r, "Linux' driver cannot set the NPU up again");
	} else {
		failed(r, "the NPU is left in state %llu", state);
	}
	mutex_unlock(&driver->switch_lock);
	free_all(n);
}

/* ---- registers ---- */

static u32 access(struct raw_npu *n, u32 word)
{
	u32 sequence = (ioread32(n->registers + n->device + FLEX_NPU_CONFIG_ACCESS) >> 16) + 1;

	iowrite32(word | FLEX_NPU_ACCESS(sequence, 0), n->registers + n->device + FLEX_NPU_CONFIG_ACCESS);
	return ioread32(n->registers + n->device + FLEX_NPU_CONFIG_VALUE);
}

u32 raw_read(struct raw_npu *n, u32 reg)
{
	return access(n, reg);
}

void raw_write(struct raw_npu *n, u32 reg, u32 value)
{
	iowrite32(value, n->registers + n->device + FLEX_NPU_CONFIG_DATA);
	access(n, FLEX_NPU_ACCESS_WRITE | reg);
}

void raw_reset(struct raw_npu *n)
{
	unsigned int i;

	iowrite8(0, n->registers + n->common + RAW_STATUS);
	for (i = 0; i < 1000 && ioread8(n->registers + n->common + RAW_STATUS); i++)
		usleep_range(100, 200);
	iowrite32(FLEX_NPU_ACCESS_RESET, n->registers + n->device + FLEX_NPU_CONFIG_ACCESS);
	ioread32(n->registers + n->device + FLEX_NPU_CONFIG_ACCESS);
}

/* ---- queues ---- */

static void write_address(struct raw_npu *n, u32 where, u64 address)
{
	iowrite32(lower_32_bits(address), n->registers + n->common + where);
	iowrite32(upper_32_bits(address), n->registers + n->common + where + 4);
}

static void add_status(struct raw_npu *n, u8 bits)
{
	iowrite8(ioread8(n->registers + n->common + RAW_STATUS) | bits, n->registers + n->common + RAW_STATUS);
}

int raw_start(struct raw_npu *n)
{
	return raw_start_at(n, virt_to_phys(n->rings[0]), true);
}

int raw_start_at(struct raw_npu *n, u64 queue, bool used_is_ours)
{
	void __iomem *common = n->registers + n->common;
	unsigned int i;

	raw_reset(n);
	add_status(n, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	iowrite32(1, common + RAW_DRIVER_FEATURE_SELECT);
	iowrite32(BIT(VIRTIO_F_VERSION_1 - 32) | BIT(VIRTIO_F_ACCESS_PLATFORM - 32), common + RAW_DRIVER_FEATURE);
	iowrite32(0, common + RAW_DRIVER_FEATURE_SELECT);
	iowrite32(0, common + RAW_DRIVER_FEATURE);
	add_status(n, VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(ioread8(common + RAW_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK))
		return -EIO;
	for (i = 0; i < RAW_QUEUES; i++) {
		struct vring_avail *avail = n->rings[i] + AVAIL_OFFSET;
		u64 own = virt_to_phys(n->rings[i]), where = i && used_is_ours ? own : queue;

		memset(n->rings[i], 0, PAGE_SIZE);
		avail->flags = cpu_to_le16(VRING_AVAIL_F_NO_INTERRUPT);
		n->given[i] = 0;
		iowrite16(i, common + RAW_QUEUE_SELECT);
		iowrite16(RAW_QUEUE_SIZE, common + RAW_QUEUE_SIZE_REGISTER);
		write_address(n, RAW_QUEUE_DESC, where);
		write_address(n, RAW_QUEUE_AVAIL, where + AVAIL_OFFSET);
		write_address(n, RAW_QUEUE_USED, (used_is_ours ? own : queue) + USED_OFFSET);
		iowrite16(1, common + RAW_QUEUE_ENABLE);
	}
	add_status(n, VIRTIO_CONFIG_S_DRIVER_OK);
	raw_write(n, FLEX_NPU_REG_POWER, 1);
	return 0;
}

static u32 write_job(void *to, const struct raw_job *job)
{
	struct flex_npu_job head = { .magic = FLEX_NPU_JOB_MAGIC, .version = FLEX_NPU_VERSION, .regions = job->region_count,
				     .commands = job->command_count };
	u32 regions = job->region_count * sizeof(job->regions[0]), commands = job->command_count * sizeof(job->commands[0]);

	memcpy(to, &head, sizeof(head));
	memcpy(to + sizeof(head), job->regions, regions);
	memcpy(to + sizeof(head) + regions, job->commands, commands);
	return sizeof(head) + regions + commands;
}

/* The chain of a page's job, and its result behind it. */
static void write_chain(void *page, u64 address, const struct raw_job *job)
{
	struct vring_desc *descriptors = page;
	u32 bytes = write_job(page + JOB_OFFSET, job);

	memset(page + RESULT_OFFSET, 0, sizeof(struct flex_npu_result));
	descriptors[0] = (struct vring_desc){ cpu_to_le64(address + JOB_OFFSET), cpu_to_le32(bytes), cpu_to_le16(VRING_DESC_F_NEXT),
					      cpu_to_le16(1) };
	descriptors[1] = (struct vring_desc){ cpu_to_le64(address + RESULT_OFFSET), cpu_to_le32(sizeof(struct flex_npu_result)),
					      cpu_to_le16(VRING_DESC_F_WRITE), 0 };
}

void raw_prepare_queue(void *page, u64 address)
{
	struct vring_avail *avail = page + AVAIL_OFFSET;
	struct raw_job job = { .command_count = 1 };

	raw_job_table(&job, address);
	memset(page, 0, PAGE_SIZE);
	write_chain(page, address, &job);
	avail->flags = cpu_to_le16(VRING_AVAIL_F_NO_INTERRUPT);
	avail->idx = cpu_to_le16(1);
}

void raw_ring(struct raw_npu *n, unsigned int queue)
{
	iowrite16(queue, n->registers + n->common + RAW_QUEUE_SELECT);
	iowrite16(queue, n->registers + n->notify +
				 ioread16(n->registers + n->common + RAW_QUEUE_NOTIFY_OFF) * n->notify_multiplier);
}

void raw_submit(struct raw_npu *n, unsigned int queue, struct raw_job *job)
{
	struct vring_avail *avail = n->rings[queue] + AVAIL_OFFSET;

	write_chain(n->rings[queue], virt_to_phys(n->rings[queue]), job);
	avail->ring[n->given[queue] % RAW_QUEUE_SIZE] = 0;
	dma_wmb();
	WRITE_ONCE(avail->idx, cpu_to_le16(++n->given[queue]));
	dma_wmb();
	raw_ring(n, queue);
}

const struct flex_npu_result *raw_result(struct raw_npu *n, unsigned int queue, unsigned int ms)
{
	struct vring_used *used = n->rings[queue] + USED_OFFSET;
	unsigned int i;

	for (i = 0; i < ms * 10; i++) {
		if (le16_to_cpu(READ_ONCE(used->idx)) == n->given[queue]) {
			dma_rmb();
			return n->rings[queue] + RESULT_OFFSET;
		}
		usleep_range(100, 150);
	}
	return NULL;
}

/* ---- jobs ---- */

u32 raw_job_table(struct raw_job *job, u64 table)
{
	job->regions[job->region_count] = (struct flex_npu_region){ .table = table, .bytes = PAGE_SIZE };
	return job->region_count++;
}

u32 raw_job_page(struct raw_npu *n, struct raw_job *job, u64 address)
{
	u64 *table = n->tables[job->region_count];

	table[0] = address | FLEX_NPU_ENTRY_BLOCK;
	return raw_job_table(job, virt_to_phys(table));
}

void raw_job_add(struct raw_job *job, u32 y, u32 x, u32 floats)
{
	job->commands[job->command_count++] =
		(struct flex_npu_command){ .op = FLEX_NPU_ADD, .count = 1, .columns = floats, .x = { .region = x }, .y = { .region = y } };
}

void raw_job_signal(struct raw_job *job, u32 y, u64 value)
{
	job->commands[job->command_count++] =
		(struct flex_npu_command){ .op = FLEX_NPU_SIGNAL, .y = { .region = y }, .u.fence.scalar64 = value };
}

void raw_job_wait(struct raw_job *job, u32 x, u64 value, u32 us)
{
	job->commands[job->command_count++] = (struct flex_npu_command){ .op = FLEX_NPU_WAIT, .count = us, .x = { .region = x },
									  .u.fence.scalar64 = value };
}

/* ---- what the attacks have in common ---- */

s64 raw_give(void)
{
	return hvc(FLEX_HVC_NPU_GIVE, 0, 0).a0;
}

s64 raw_take(void)
{
	return hvc(FLEX_HVC_NPU_TAKE, 0, 0).a0;
}

u64 raw_state(void)
{
	return hvc(FLEX_HVC_NPU_STATE, 0, 0).a1;
}

bool raw_given(struct report *r)
{
	s64 status = raw_give();

	if (status != FLEX_OK)
		failed(r, "the monitor does not give the NPU to the secure world: %lld", status);
	return status == FLEX_OK;
}

bool raw_taken(struct report *r)
{
	s64 status = raw_take();

	if (status != FLEX_OK)
		failed(r, "the monitor does not take the NPU back: %lld", status);
	return status == FLEX_OK;
}

/* A job over memory of ours: without that, nothing the NPU fails to do proves anything. */
bool raw_works(struct report *r, struct raw_npu *n)
{
	struct page *from = pattern_page(), *to = alloc_page(GFP_KERNEL | __GFP_ZERO);
	const struct flex_npu_result *result = NULL;
	struct raw_job job = {};
	bool works = false;

	if (from && to && !raw_start(n)) {
		u32 y = raw_job_page(n, &job, page_to_phys(to)), x = raw_job_page(n, &job, page_to_phys(from));

		raw_job_add(&job, y, x, FLOATS);
		raw_submit(n, 0, &job);
		result = raw_result(n, 0, JOB_MS);
		works = result && result->status == FLEX_NPU_OK && memchr_inv(page_address(to), 0, FLOATS * 4);
	}
	if (!works)
		failed(r, "the NPU does not even add up memory of ours (%s, status %d)", result ? "it answers" : "it does not answer",
		       result ? result->status : -1);
	if (from)
		__free_page(from);
	if (to)
		__free_page(to);
	return works;
}

/* Any way to touch a page of registers; what it read is in *@value. */
bool raw_touches(u64 address, u32 *value)
{
	void *mapping = map_frame(address, MAP_UNCACHED);
	bool reached;

	if (!mapping)
		return false;
	reached = !peek32(mapping, value) || !poke32(mapping, 0);
	unmap_frame(mapping, address, MAP_UNCACHED);
	return reached;
}
