// SPDX-License-Identifier: GPL-2.0
/* Getting frames back that were not released, and forging releases. */
#include <linux/random.h>

#include "attack.h"

#define FRAMES_MAX 256

/* RECALL of one frame must be refused and must not open it. */
static bool recall_is_refused(struct report *r, u64 *list, u64 address, const char *what)
{
	s64 status;
	u64 value;

	list[0] = FLEX_RANGE(address, 0);
	status = hvc(FLEX_HVC_RECALL, virt_to_phys(list), 1).a0;
	if (status >= 0 || frame_is_readable(address, &value)) {
		breach(r, "%s at %#llx was recalled (status %lld)", what, address, status);
		return false;
	}
	return true;
}

static void recall_flex(struct report *r, char *arguments)
{
	u64 *list = (u64 *)get_zeroed_page(GFP_KERNEL);
	u64 canary;

	if (!list || canary_get(0, &canary))
		failed(r, "no canary");
	else if (recall_is_refused(r, list, canary, "a Flex frame"))
		blocked(r, "a frame that was never released stays protected");
	free_page((unsigned long)list);
}

static void recall_adopted(struct report *r, char *arguments)
{
	u64 *list = (u64 *)get_zeroed_page(GFP_KERNEL);
	unsigned long pfn = 0, step = lent_frames() / FRAMES_MAX + 1, index = 0, tried = 0;
	u64 address;

	if (!list) {
		failed(r, "no memory");
		return;
	}
	while (next_lent_frame(&pfn, &address)) {
		if (index++ % step)
			continue;
		if (!recall_is_refused(r, list, address, "a frame in use by the secure world"))
			goto out;
		tried++;
		cond_resched();
	}
	/* And all at once, as one list of 2 MiB ranges: one that is released must not carry others along. */
	pfn = 0;
	if (next_lent_frame(&pfn, &address)) {
		list[0] = FLEX_RANGE(address & ~((PAGE_SIZE << 9) - 1), 9);
		if ((s64)hvc(FLEX_HVC_RECALL, virt_to_phys(list), 1).a0 >= 0) {
			breach(r, "2 MiB around %#llx were recalled", address);
			goto out;
		}
	}
	if (tried)
		blocked(r, "%lu frames in use by the secure world stay protected", tried);
	else
		failed(r, "nothing is lent: load a model first");
out:
	free_page((unsigned long)list);
}

/* Odd calls and arguments that could be taken for a release, then the proof that the frame was not released. */
static void forge_release(struct report *r, char *arguments)
{
	u64 *list = (u64 *)get_zeroed_page(GFP_KERNEL);
	u64 canary, call, value, aborts = monitor_stat(FLEX_STAT_ABORTS_WRITE), offset, written = 0;
	unsigned int argument;

	if (!list || canary_get(0, &canary)) {
		failed(r, "no canary");
		return;
	}
	list[0] = canary;
	for (call = FLEX_HVC_PROTECT; call < FLEX_HVC_VERSION + 0x100; call++) {
		const u64 values[] = { canary, canary | FLEX_FRAME_RELEASED, canary >> PAGE_SHIFT, virt_to_phys(list),
				       (canary - BOARD_DRAM_BASE) >> PAGE_SHIFT };

		for (argument = 0; argument < ARRAY_SIZE(values); argument++) {
			hvc(call, values[argument], FLEX_FRAME_RELEASED);
			hvc(call, values[argument], 1);
			/* The trusted OS's known calls are attacks of their own. */
			if ((call & 0xff) > (FLEX_TOS_QUIESCE & 0xff))
				smc(FLEX_TOS_VERSION | (call & 0xff), values[argument], FLEX_FRAME_RELEASED, 1);
		}
	}
	/* The frame table lies somewhere in the monitor's region: the byte of the canary, were it at any page's start. */
	for (offset = 0; offset < monitor_stat(FLEX_STAT_MONITOR_BYTES); offset += PAGE_SIZE) {
		void *mapping = map_frame(BOARD_MONITOR_BASE + offset, MAP_UNCACHED);

		if (!mapping)
			continue;
		written += !poke64(mapping + ((canary >> PAGE_SHIFT) & 0xff8), 0x0606060606060606ull);
		unmap_frame(mapping, BOARD_MONITOR_BASE + offset, MAP_UNCACHED);
		cond_resched();
	}
	aborts = monitor_stat(FLEX_STAT_ABORTS_WRITE) - aborts;
	if (written)
		breach(r, "%llu writes to the monitor's region went through", written);
	else if (frame_is_readable(canary, &value))
		breach(r, "an odd call opened a protected frame");
	else if (recall_is_refused(r, list, canary, "a Flex frame"))
		blocked(r, "odd calls change nothing, %llu writes to the frame table's region aborted", aborts);
	free_page((unsigned long)list);
}

const struct attack recall_attacks[] = {
	{ "recall-flex", "recall a frame that was protected but never released", recall_flex },
	{ "recall-adopted", "recall frames that the secure world uses", recall_adopted },
	{ "forge-release", "make the monitor take a frame for released", forge_release },
	{}
};
