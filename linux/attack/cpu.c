// SPDX-License-Identifier: GPL-2.0
/* The CPU reads, writes and executes what is not its own: Flex-Mem, the monitor, the secure world's memory and devices. */
#include <linux/kernel.h>
#include <asm/cacheflush.h>
#include <linux/slab.h>

#include "attack.h"

/* Lent frames looked at by one attack: spread over all of them. */
#define FRAMES_MAX 512

/* The canary first: its content is known. Then the frames that hold a model, by every mapping there is. */
static void try_frames(struct report *r, bool write)
{
	unsigned long lent = lent_frames(), step = lent / FRAMES_MAX + 1, index = 0, pfn = 0, tried = 0;
	u64 aborts = monitor_stat(write ? FLEX_STAT_ABORTS_WRITE : FLEX_STAT_ABORTS_READ);
	u64 address, value;
	enum map_kind kind;
	bool more;

	if (canary_get(0, &address)) {
		failed(r, "the canary could not be protected");
		return;
	}
	for (more = true; more; more = next_lent_frame(&pfn, &address)) {
		if (index++ % step)
			continue;
		for (kind = 0; kind < MAP_KINDS; kind++) {
			void *mapping = map_frame(address, kind);
			/* Not the first word of a canary: that is its code. */
			void *word = mapping + 8 * (1 + index % 500);
			int ret;

			if (!mapping)
				continue;
			/* Writing back what is there does no harm where the defence is missing. */
			ret = peek64(word, &value);
			if (write)
				ret = poke64(word, ret ? 0x4141414141414141ull : value);
			unmap_frame(mapping, address, kind);
			tried++;
			if (!ret) {
				breach(r, "%s %#llx of Flex-Mem through %s (value %#llx)", write ? "wrote" : "read", address,
				       map_kind_names[kind], value);
				return;
			}
		}
		cond_resched();
	}
	aborts = monitor_stat(write ? FLEX_STAT_ABORTS_WRITE : FLEX_STAT_ABORTS_READ) - aborts;
	if (aborts < tried) {
		failed(r, "%lu accesses aborted, but the monitor counted %llu", tried, aborts);
		return;
	}
	blocked(r, "%lu %ss of %lu lent frames and a canary aborted, each counted by the monitor", tried,
		write ? "write" : "read", (lent + step - 1) / step);
}

static void cpu_read(struct report *r, char *arguments)
{
	try_frames(r, false);
}

static void cpu_write(struct report *r, char *arguments)
{
	try_frames(r, true);
}

static void cpu_execute(struct report *r, char *arguments)
{
	u64 address, result = 0, aborts;
	struct page *control = pattern_page();
	int ret;

	if (!control || canary_get(0, &address)) {
		failed(r, "no canary");
		return;
	}
	caches_clean_inval_pou((unsigned long)page_address(control), (unsigned long)page_address(control) + PAGE_SIZE);
	ret = call_page(page_to_phys(control), &result);
	__free_page(control);
	if (ret || result != CANARY_MAGIC) {
		failed(r, "even code in a frame of our own does not run (%d)", ret);
		return;
	}
	aborts = monitor_stat(FLEX_STAT_ABORTS_FETCH);
	result = 0;
	ret = call_page(address, &result);
	if (!ret && result == CANARY_MAGIC)
		breach(r, "executed code in Flex-Mem at %#llx", address);
	else if (ret == -EFAULT)
		blocked(r, "the fetch aborted (the monitor counted %llu)", monitor_stat(FLEX_STAT_ABORTS_FETCH) - aborts);
	else
		failed(r, "the code did not run, but nothing stopped it either (%d)", ret);
}

/* ---- regions that are never the normal world's ---- */

struct region {
	const char *name;
	u64 base, bytes;
	bool device; /* every read counts; look at few words */
};

/* Each page of it, or as many as is reasonable. */
static void try_region(struct report *r, const struct region *region, bool write)
{
	u64 pages = region->bytes >> PAGE_SHIFT, step = region->device ? 1 : pages / 1024 + 1, i, tried = 0;

	for (i = 0; i < pages && tried < 1024; i += step) {
		u64 address = region->base + (i << PAGE_SHIFT), value = 0;
		void *mapping = map_frame(address, MAP_UNCACHED);
		u32 word = 0;
		int ret;

		if (!mapping)
			continue;
		if (region->device)
			ret = write ? poke32(mapping, 0) : peek32(mapping, &word);
		else
			ret = write ? poke64(mapping + 8, 0x4141414141414141ull) : peek64(mapping + 8, &value);
		unmap_frame(mapping, address, MAP_UNCACHED);
		tried++;
		if (!ret) {
			breach(r, "%s %s at %#llx (value %#llx)", write ? "wrote" : "read", region->name, address, value | word);
			return;
		}
		cond_resched();
	}
	if (tried)
		blocked(r, "all of %llu accesses to %s aborted", tried, region->name);
	else
		failed(r, "%s could not be mapped", region->name);
}

static void monitor_region(struct report *r, bool write)
{
	struct region region = { "the monitor's memory", BOARD_MONITOR_BASE, monitor_stat(FLEX_STAT_MONITOR_BYTES), false };

	try_region(r, &region, write);
}

static void read_monitor(struct report *r, char *arguments)
{
	monitor_region(r, false);
}

static void write_monitor(struct report *r, char *arguments)
{
	monitor_region(r, true);
}

static const struct region tos_region = { "the trusted OS's memory", BOARD_BL32_BASE, BOARD_BL32_BYTES, false };
static const struct region firmware_region = { "the firmware's memory", BOARD_SECURE_RAM_BASE,
					       BOARD_BL32_BASE - BOARD_SECURE_RAM_BASE, false };
static const struct region flash_region = { "the secure flash", BOARD_SECURE_FLASH_BASE, BOARD_SECURE_FLASH_BYTES, false };
static const struct region key_region = { "the device key", BOARD_SECURE_FLASH_BASE + BOARD_FLASH_ROOT_KEY_OFFSET, PAGE_SIZE,
					  false };
static const struct region uart_region = { "the secure UART", BOARD_SECURE_UART_BASE, PAGE_SIZE, true };

static void read_tos(struct report *r, char *arguments)
{
	try_region(r, &tos_region, false);
}

static void write_tos(struct report *r, char *arguments)
{
	try_region(r, &tos_region, true);
}

static void read_firmware(struct report *r, char *arguments)
{
	try_region(r, &firmware_region, false);
}

static void read_flash(struct report *r, char *arguments)
{
	try_region(r, &flash_region, false);
	if (r->verdict == VERDICT_BLOCKED)
		try_region(r, &key_region, false);
}

static void read_uart(struct report *r, char *arguments)
{
	try_region(r, &uart_region, false);
	if (r->verdict == VERDICT_BLOCKED)
		try_region(r, &uart_region, true);
}

const struct attack cpu_attacks[] = {
	{ "cpu-read", "read lent frames and a canary", cpu_read },
	{ "cpu-write", "write to lent frames and a canary", cpu_write },
	{ "cpu-execute", "execute code in a protected frame", cpu_execute },
	{ "read-monitor", "read the monitor's memory", read_monitor },
	{ "write-monitor", "write to the monitor's memory, the frame table among it", write_monitor },
	{ "read-tos", "read the trusted OS's memory", read_tos },
	{ "write-tos", "write to the trusted OS's memory", write_tos },
	{ "read-firmware", "read the firmware's secure RAM", read_firmware },
	{ "read-flash", "read the secure flash, the device key among it", read_flash },
	{ "secure-uart", "read and write the secure UART", read_uart },
	{}
};
