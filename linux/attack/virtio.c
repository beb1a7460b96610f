// SPDX-License-Identifier: GPL-2.0
/*
 * DMA by a doctored virtio queue. A spare virtio-rng device (`-device virtio-rng-pci,iommu_platform=on`) is taken from its driver and
 * given queues whose rings and buffers lie in Flex-Mem (virtio 1.2, 2.7 and 4.1). The device writes random bytes into
 * buffers, so an effect is a buffer that changes.
 */
#include <linux/delay.h>
#include <linux/pci.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "attack.h"
#include "copier.h"

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_RNG_MODERN (0x1040 + VIRTIO_ID_RNG)
#define VIRTIO_RNG_TRANSITIONAL 0x1005
#define QUEUE_SIZE 4
#define BUFFER_BYTES 64
/* Within a page that holds a whole queue. */
#define AVAIL_OFFSET 1024
#define USED_OFFSET 2048

static struct pci_dev *device;
static struct virtio_pci_common_cfg __iomem *common;
static void __iomem *notify;
static u32 notify_multiplier;
static struct page *queue, *buffer;

static void __iomem *map_capability(unsigned int type, u32 *multiplier)
{
	u8 position;

	for (position = pci_find_capability(device, PCI_CAP_ID_VNDR); position;
	     position = pci_find_next_capability(device, position, PCI_CAP_ID_VNDR)) {
		u8 found, bar;
		u32 offset, length;

		pci_read_config_byte(device, position + offsetof(struct virtio_pci_cap, cfg_type), &found);
		if (found != type)
			continue;
		pci_read_config_byte(device, position + offsetof(struct virtio_pci_cap, bar), &bar);
		pci_read_config_dword(device, position + offsetof(struct virtio_pci_cap, offset), &offset);
		pci_read_config_dword(device, position + offsetof(struct virtio_pci_cap, length), &length);
		if (multiplier)
			pci_read_config_dword(device, position + sizeof(struct virtio_pci_cap), multiplier);
		return pci_iomap_range(device, bar, offset, length);
	}
	return NULL;
}

static int open_device(void)
{
	if (common)
		return 0;
	queue = alloc_page(GFP_KERNEL | __GFP_ZERO);
	buffer = alloc_page(GFP_KERNEL | __GFP_ZERO);
	device = pci_get_device(VIRTIO_VENDOR, VIRTIO_RNG_MODERN, NULL);
	if (!device)
		device = pci_get_device(VIRTIO_VENDOR, VIRTIO_RNG_TRANSITIONAL, NULL);
	if (!queue || !buffer || !device)
		return -ENODEV;
	device_release_driver(&device->dev);
	if (pci_enable_device(device))
		return -ENODEV;
	pci_set_master(device);
	pci_intx(device, 0);
	notify = map_capability(VIRTIO_PCI_CAP_NOTIFY_CFG, &notify_multiplier);
	common = map_capability(VIRTIO_PCI_CAP_COMMON_CFG, NULL);
	return common && notify ? 0 : -ENODEV;
}

static void write_address(__le32 __iomem *low, u64 address)
{
	iowrite32(lower_32_bits(address), low);
	iowrite32(upper_32_bits(address), low + 1);
}

static void add_status(u8 bits)
{
	iowrite8(ioread8(&common->device_status) | bits, &common->device_status);
}

/* One kick of a fresh device whose queue lies at these addresses. */
static int run_queue(u64 descriptors, u64 avail, u64 used)
{
	u16 offset;

	iowrite8(0, &common->device_status);
	while (ioread8(&common->device_status))
		udelay(10);
	add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	iowrite32(1, &common->guest_feature_select);
	iowrite32(BIT(VIRTIO_F_VERSION_1 - 32) | BIT(VIRTIO_F_ACCESS_PLATFORM - 32), &common->guest_feature);
	iowrite32(0, &common->guest_feature_select);
	iowrite32(0, &common->guest_feature);
	add_status(VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(ioread8(&common->device_status) & VIRTIO_CONFIG_S_FEATURES_OK))
		return -EIO;
	iowrite16(0, &common->queue_select);
	iowrite16(QUEUE_SIZE, &common->queue_size);
	write_address(&common->queue_desc_lo, descriptors);
	write_address(&common->queue_avail_lo, avail);
	write_address(&common->queue_used_lo, used);
	offset = ioread16(&common->queue_notify_off);
	iowrite16(1, &common->queue_enable);
	add_status(VIRTIO_CONFIG_S_DRIVER_OK);
	iowrite16(0, notify + (u64)offset * notify_multiplier);
	msleep(50);
	return 0;
}

static void write_descriptor(void *table, u64 address)
{
	struct vring_desc *descriptor = table;

	descriptor->addr = cpu_to_le64(address);
	descriptor->len = cpu_to_le32(BUFFER_BYTES);
	descriptor->flags = cpu_to_le16(VRING_DESC_F_WRITE);
	descriptor->next = 0;
}

/* A queue in our own page with one buffer on offer. */
static void offer(u64 address)
{
	void *page = page_address(queue);
	struct vring_avail *avail = page + AVAIL_OFFSET;

	memset(page, 0, PAGE_SIZE);
	memset(page_address(buffer), 0, PAGE_SIZE);
	write_descriptor(page, address);
	avail->flags = cpu_to_le16(VRING_AVAIL_F_NO_INTERRUPT);
	avail->ring[0] = 0;
	avail->idx = cpu_to_le16(1);
	dma_wmb();
}

static struct vring_used *used_ring(void)
{
	return page_address(queue) + USED_OFFSET;
}

static bool buffer_changed(void)
{
	return memchr_inv(page_address(buffer), 0, BUFFER_BYTES);
}

static void release_device(void)
{
	iowrite8(0, &common->device_status);
}

static bool device_works(struct report *r)
{
	u64 q;

	if (open_device()) {
		failed(r, "no spare virtio-rng: start QEMU with -device virtio-rng-pci,iommu_platform=on");
		return false;
	}
	q = page_to_phys(queue);
	offer(page_to_phys(buffer));
	if (!run_queue(q, q + AVAIL_OFFSET, q + USED_OFFSET) && buffer_changed() && le16_to_cpu(used_ring()->idx) == 1)
		return true;
	failed(r, "virtio-rng does not fill even our own memory");
	return false;
}

/* A canary whose content no longer is what it was, as far as another device can see it; false when it cannot. */
static bool canary_changed(u64 canary)
{
	const u64 *words = page_address(buffer);
	unsigned int i;

	memset(page_address(buffer), 0, PAGE_SIZE);
	if (copier_open() || copier_copy(canary, page_to_phys(buffer), COPIER_BYTES_MAX))
		return false;
	/* The copy came through when the part behind the buffer is the canary's. */
	if (words[BUFFER_BYTES / 8] != canary_word(BUFFER_BYTES))
		return false;
	for (i = 0; i < BUFFER_BYTES / 8; i++)
		if (words[i] != canary_word(i * 8))
			return true;
	return false;
}

static void into(struct report *r, char *arguments)
{
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), canary, q;

	if (!device_works(r))
		return;
	/* One of its own: a success spoils it for others. */
	if (canary_get(3, &canary)) {
		failed(r, "the canary could not be protected");
		return;
	}
	q = page_to_phys(queue);
	offer(canary);
	if (run_queue(q, q + AVAIL_OFFSET, q + USED_OFFSET)) {
		failed(r, "the device refused its features");
		return;
	}
	faults = monitor_stat(FLEX_STAT_DMA_FAULTS) - faults;
	if (le32_to_cpu(used_ring()->ring[0].len) && !faults)
		breach(r, "virtio-rng wrote %u bytes into Flex-Mem at %#llx", le32_to_cpu(used_ring()->ring[0].len), canary);
	offer(page_to_phys(buffer));
	run_queue(q, q + AVAIL_OFFSET, canary);
	if (canary_changed(canary))
		breach(r, "virtio-rng changed Flex-Mem at %#llx", canary);
	blocked(r, "a buffer and a used ring in Flex-Mem were refused (SMMU faults counted: %llu)", faults);
	release_device();
}

static void prepare_descriptors(void *page, u64 address)
{
	struct vring_avail *avail = page + AVAIL_OFFSET;

	write_descriptor(page, page_to_phys(buffer));
	avail->flags = cpu_to_le16(VRING_AVAIL_F_NO_INTERRUPT);
	avail->idx = cpu_to_le16(1);
	avail->ring[0] = 0;
}

static void out_of(struct report *r, char *arguments)
{
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), canary, q;

	if (!device_works(r))
		return;
	/* Protected with a valid queue in it: a device that can read it fills our buffer. */
	if (canary_get_prepared(2, &canary, prepare_descriptors)) {
		failed(r, "the canary could not be protected");
		return;
	}
	q = page_to_phys(queue);
	offer(page_to_phys(buffer));
	memset(page_address(queue), 0, 16);
	if (run_queue(canary, q + AVAIL_OFFSET, q + USED_OFFSET))
		failed(r, "the device refused its features");
	else if (buffer_changed())
		breach(r, "virtio-rng read a descriptor table in Flex-Mem");
	offer(page_to_phys(buffer));
	((struct vring_avail *)(page_address(queue) + AVAIL_OFFSET))->idx = 0;
	run_queue(q, canary + AVAIL_OFFSET, q + USED_OFFSET);
	if (buffer_changed())
		breach(r, "virtio-rng read an avail ring in Flex-Mem");
	blocked(r, "rings in Flex-Mem were not read (SMMU faults counted: %llu)", monitor_stat(FLEX_STAT_DMA_FAULTS) - faults);
	release_device();
}

const struct attack virtio_attacks[] = {
	{ "virtio-write", "a virtio device with its buffer and used ring in Flex-Mem", into },
	{ "virtio-read", "a virtio device with its descriptors and avail ring in Flex-Mem", out_of },
	{}
};
