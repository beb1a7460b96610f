// SPDX-License-Identifier: GPL-2.0
/* DMA by a device that copies from and to any address it is given: into and out of Flex-Mem and what is not Linux'. */
#include "attack.h"
#include "copier.h"

#define MARK 0x6d61726b6d61726bull /* what the destination holds before the device writes to it */
#define EVIL 0x6576696c6576696cull /* what the device is to write */
#define WORDS (COPIER_BYTES_MAX / 8)

static struct page *window; /* NORMAL, ours */

static u64 *window_words(void)
{
	return page_address(window);
}

static void fill_window(u64 word)
{
	unsigned int i;

	for (i = 0; i < WORDS; i++)
		window_words()[i] = word;
}

static int copy_in(u64 address)
{
	fill_window(MARK);
	return copier_copy(address, page_to_phys(window), COPIER_BYTES_MAX);
}

static int copy_out(u64 address)
{
	fill_window(EVIL);
	return copier_copy(page_to_phys(window), address, COPIER_BYTES_MAX);
}

/* The device can reach memory of ours in both directions: without that, nothing it fails to do proves anything. */
static bool device_works(struct report *r)
{
	struct page *control = pattern_page();
	u64 *words;
	bool works;

	if (!window)
		window = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!window || !control || copier_open()) {
		failed(r, "no e1000: start QEMU with -device e1000,romfile=");
		return false;
	}
	words = page_address(control);
	works = !copy_in(page_to_phys(control)) && window_words()[0] == canary_word(0) &&
		window_words()[WORDS - 1] == canary_word((WORDS - 1) * 8);
	works = works && !copy_out(page_to_phys(control)) && words[0] == EVIL && words[WORDS - 1] == EVIL;
	__free_page(control);
	if (!works)
		failed(r, "the device cannot even copy memory of ours");
	return works;
}

/*
 * What the device brought from there, unless nothing. A refused read may leave what its buffer held before, which is EVIL from the
 * copy before, or zero.
 */
static bool leaks(u64 address, u64 *word)
{
	unsigned int i;

	copy_out(page_to_phys(window) + 2048);
	copy_in(address);
	for (i = 0; i < WORDS; i++) {
		*word = window_words()[i];
		if (*word && *word != MARK && *word != EVIL)
			return true;
	}
	return false;
}

static void dma_read(struct report *r, char *arguments)
{
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), address, word;
	unsigned long pfn = 0, lent, step, index = 0, tried = 1;
	const char *what = "a canary";

	if (!device_works(r))
		return;
	if (arguments[0] && !kstrtou64(arguments, 0, &address)) {
		what = "the address given";
	} else if (canary_get(0, &address)) {
		failed(r, "the canary could not be protected");
		return;
	}
	if (leaks(address, &word)) {
		breach(r, "a device read %#llx, %s: %#llx", address, what, word);
		return;
	}
	lent = lent_frames();
	step = lent / 64 + 1;
	while (next_lent_frame(&pfn, &address)) {
		if (index++ % step)
			continue;
		if (leaks(address, &word)) {
			breach(r, "a device read lent frame %#llx: %#llx", address, word);
			return;
		}
		tried++;
	}
	faults = monitor_stat(FLEX_STAT_DMA_FAULTS) - faults;
	blocked(r, "the device got nothing from %s and %lu lent frames (SMMU faults counted: %llu)", what, tried - 1, faults);
}

/* Written is what can be read back: the device's own way, since the CPU is kept out. */
static bool lands(u64 address)
{
	unsigned int i;

	copy_out(address);
	/* Another word in the device's buffer, so that what comes back comes from there. */
	fill_window(MARK);
	copier_copy(page_to_phys(window), page_to_phys(window) + 2048, COPIER_BYTES_MAX);
	fill_window(0);
	copier_copy(address, page_to_phys(window), COPIER_BYTES_MAX);
	for (i = 0; i < WORDS; i++)
		if (window_words()[i] == EVIL)
			return true;
	return false;
}

static void dma_write(struct report *r, char *arguments)
{
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), address;

	if (!device_works(r))
		return;
	if ((!arguments[0] || kstrtou64(arguments, 0, &address)) && canary_get(0, &address)) {
		failed(r, "the canary could not be protected");
		return;
	}
	if (lands(address)) {
		breach(r, "a device wrote to %#llx", address);
		return;
	}
	faults = monitor_stat(FLEX_STAT_DMA_FAULTS) - faults;
	if (faults)
		blocked(r, "the device's write to %#llx was refused by the SMMU (faults counted: %llu)", address, faults);
	else
		failed(r, "the device's write to %#llx cannot be seen, but the SMMU reported no fault either", address);
}

static void dma_regions(struct report *r, char *arguments)
{
	static const struct {
		const char *what;
		u64 address;
	} regions[] = {
		{ "the monitor", BOARD_MONITOR_BASE },	       { "the monitor's tables", BOARD_MONITOR_BASE + 0x200000 },
		{ "the trusted OS", BOARD_BL32_BASE },	       { "firmware", BOARD_SECURE_RAM_BASE },
		{ "secure flash", BOARD_SECURE_FLASH_BASE },   { "the SMMU", BOARD_SMMU_BASE },
	};
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), word;
	unsigned int i;

	if (!device_works(r))
		return;
	for (i = 0; i < ARRAY_SIZE(regions); i++) {
		if (leaks(regions[i].address, &word)) {
			breach(r, "a device read %s: %#llx", regions[i].what, word);
			return;
		}
	}
	blocked(r, "the device reaches none of %zu regions that are not Linux' memory (SMMU faults counted: %llu)", ARRAY_SIZE(regions),
		monitor_stat(FLEX_STAT_DMA_FAULTS) - faults);
}

const struct attack dma_attacks[] = {
	{ "dma-read", "[ADDRESS]: DMA by a PCI device out of Flex-Mem", dma_read },
	{ "dma-write", "[ADDRESS]: DMA by a PCI device into Flex-Mem", dma_write },
	{ "dma-regions", "DMA by a PCI device from the monitor, secure memory, devices", dma_regions },
	{}
};
