// SPDX-License-Identifier: GPL-2.0
/*
 * DMA by QEMU's `edu` device (docs/specs/edu): it copies between its 4 KiB buffer and any address it is given. The machine needs
 * `-device edu,dma_mask=0xffffffffffffffff`; with the default mask of 28 bits it cannot name DRAM.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/pci.h>

#include "attack.h"
#include "edu.h"

#define EDU_VENDOR 0x1234
#define EDU_DEVICE 0x11e8
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_DESTINATION 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_START 1
#define EDU_DMA_TO_MEMORY 2
#define EDU_BUFFER 0x40000
#define EDU_BYTES 4096ul

static struct pci_dev *device;
static void __iomem *registers;
static struct page *own;

int edu_open(void)
{
	if (registers)
		return 0;
	own = alloc_page(GFP_KERNEL | __GFP_ZERO);
	device = pci_get_device(EDU_VENDOR, EDU_DEVICE, NULL);
	if (!own || !device || pci_enable_device(device))
		return -ENODEV;
	pci_set_master(device);
	registers = pci_iomap(device, 0, 0);
	return registers ? 0 : -ENODEV;
}

static int transfer(u64 source, u64 destination, u64 command)
{
	unsigned int tries;

	writeq(source, registers + EDU_DMA_SOURCE);
	writeq(destination, registers + EDU_DMA_DESTINATION);
	writeq(EDU_BYTES, registers + EDU_DMA_COUNT);
	writeq(command | EDU_DMA_START, registers + EDU_DMA_COMMAND);
	for (tries = 0; tries < 2000; tries++) {
		if (!(readq(registers + EDU_DMA_COMMAND) & EDU_DMA_START))
			return 0;
		usleep_range(500, 1000);
	}
	return -ETIMEDOUT;
}

int edu_read(u64 address)
{
	return transfer(address, EDU_BUFFER, 0);
}

int edu_write(u64 address)
{
	return transfer(EDU_BUFFER, address, EDU_DMA_TO_MEMORY);
}

int edu_load(u64 word)
{
	u64 *words = page_address(own);
	unsigned int i;

	for (i = 0; i < EDU_BYTES / 8; i++)
		WRITE_ONCE(words[i], word);
	dma_wmb();
	return edu_read(page_to_phys(own));
}

const u64 *edu_fetch(void)
{
	memset(page_address(own), 0xee, PAGE_SIZE);
	dma_wmb();
	if (edu_write(page_to_phys(own)))
		return NULL;
	dma_rmb();
	return page_address(own);
}

#define MARK 0x6d61726b6d61726bull /* what the device's buffer holds before it reads */
#define EVIL 0x6576696c6576696cull /* what it is to write */

/* The device can reach memory of ours in both directions: without that, nothing it fails to do proves anything. */
static bool edu_works(struct report *r)
{
	struct page *control;
	const u64 *words;
	bool works;

	if (edu_open()) {
		failed(r, "no edu device: start QEMU with -device edu,dma_mask=0xffffffffffffffff");
		return false;
	}
	control = pattern_page();
	works = control && !edu_load(MARK) && !edu_read(page_to_phys(control)) && (words = edu_fetch()) &&
		words[0] == canary_word(0) && words[511] == canary_word(511 * 8);
	works = works && !edu_load(EVIL) && !edu_write(page_to_phys(control)) &&
		*(u64 *)page_address(control) == EVIL;
	if (control)
		__free_page(control);
	if (!works)
		failed(r, "edu cannot even reach our own memory (is its dma_mask 64 bits wide?)");
	return works;
}

/* Device memory read: what it got, unless nothing. */
static bool leaks(u64 address, u64 *word)
{
	const u64 *words;
	unsigned int i;

	if (edu_load(MARK))
		return false;
	edu_read(address);
	words = edu_fetch();
	for (i = 0; words && i < EDU_BYTES / 8; i++) {
		*word = words[i];
		if (words[i] != MARK)
			return true;
	}
	return false;
}

static void dma_read(struct report *r, char *arguments)
{
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), address, word;
	unsigned long pfn = 0, lent, step, index = 0, tried = 1;
	const char *what = "a canary";

	if (!edu_works(r))
		return;
	if (arguments[0] && !kstrtou64(arguments, 0, &address)) {
		what = "the address given";
	} else if (canary_get(0, &address)) {
		failed(r, "the canary could not be protected");
		return;
	}
	if (leaks(address, &word)) {
		breach(r, "edu read %#llx, %s: %#llx", address, what, word);
		return;
	}
	/* edu takes 0.1 s a transfer. */
	lent = lent_frames();
	step = lent / 8 + 1;
	while (next_lent_frame(&pfn, &address)) {
		if (index++ % step)
			continue;
		if (leaks(address, &word)) {
			breach(r, "edu read lent frame %#llx: %#llx", address, word);
			return;
		}
		tried++;
	}
	faults = monitor_stat(FLEX_STAT_DMA_FAULTS) - faults;
	blocked(r, "edu got nothing from %s and %lu lent frames (SMMU faults counted: %llu)", what, tried - 1, faults);
}

/* Written is what can be read back: the device's own way, since the CPU is kept out. */
static bool lands(u64 address)
{
	const u64 *words;

	if (edu_load(EVIL))
		return false;
	edu_write(address);
	if (edu_load(MARK))
		return false;
	edu_read(address);
	words = edu_fetch();
	return words && words[0] == EVIL;
}

static void dma_write(struct report *r, char *arguments)
{
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), address;

	if (!edu_works(r))
		return;
	if ((!arguments[0] || kstrtou64(arguments, 0, &address)) && canary_get(0, &address)) {
		failed(r, "the canary could not be protected");
		return;
	}
	if (lands(address)) {
		breach(r, "edu wrote to %#llx", address);
		return;
	}
	faults = monitor_stat(FLEX_STAT_DMA_FAULTS) - faults;
	if (faults)
		blocked(r, "edu's write to %#llx was refused by the SMMU (faults counted: %llu)", address, faults);
	else
		failed(r, "edu's write to %#llx cannot be seen, but the SMMU reported no fault either", address);
}

static void dma_regions(struct report *r, char *arguments)
{
	static const struct {
		const char *what;
		u64 address;
	} regions[] = {
		{ "the monitor", BOARD_MONITOR_BASE },	       { "the monitor's tables", BOARD_MONITOR_BASE + 0x200000 },
		{ "the trusted OS", BOARD_BL32_BASE },	       { "firmware", BOARD_SECURE_RAM_BASE },
		{ "secure flash", BOARD_SECURE_FLASH_BASE },   { "the UART", BOARD_UART0_BASE },
		{ "the interrupt controller", BOARD_GICD_BASE }, { "the SMMU", BOARD_SMMU_BASE },
	};
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), word;
	unsigned int i;

	if (!edu_works(r))
		return;
	for (i = 0; i < ARRAY_SIZE(regions); i++) {
		if (leaks(regions[i].address, &word)) {
			breach(r, "edu read %s: %#llx", regions[i].what, word);
			return;
		}
	}
	blocked(r, "edu reaches none of %zu regions that are not Linux' memory (SMMU faults counted: %llu)", ARRAY_SIZE(regions),
		monitor_stat(FLEX_STAT_DMA_FAULTS) - faults);
}

const struct attack edu_attacks[] = {
	{ "dma-read", "[ADDRESS]: DMA by the edu device out of Flex-Mem", dma_read },
	{ "dma-write", "[ADDRESS]: DMA by the edu device into Flex-Mem", dma_write },
	{ "dma-regions", "DMA by the edu device from the monitor, secure memory, devices", dma_regions },
	{}
};
