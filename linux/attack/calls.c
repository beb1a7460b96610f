// SPDX-License-Identifier: GPL-2.0
/* Calls that EL1 may not make, or with arguments it may not use. */
#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/prandom.h>
#include <linux/random.h>

#include "attack.h"

/* ---- BOOT and QUIESCE belong to the monitor ---- */

static void boot_calls(struct report *r, char *arguments)
{
	struct page *table = alloc_pages(GFP_KERNEL | __GFP_ZERO, 9);
	u64 canary, value;
	s64 boot, quiesce;

	if (!table || canary_get(0, &canary)) {
		failed(r, "no memory");
		return;
	}
	/* A frame table of ours, in which everything would be what we write. */
	memset(page_address(table), FLEX_FRAME_RELEASED, PAGE_SIZE << 9);
	boot = smc(FLEX_TOS_BOOT, page_to_phys(table), BOARD_DRAM_BASE, PAGE_SIZE << 9).a0;
	quiesce = smc(FLEX_TOS_QUIESCE, 0, 0, 0).a0;
	if (boot >= 0)
		breach(r, "the trusted OS took a frame table from the normal world");
	else if (quiesce >= 0)
		breach(r, "the normal world quiesced the trusted OS");
	else if (smc(FLEX_TOS_VERSION, 0, 0, 0).a1 != FLEX_ABI_VERSION || frame_is_readable(canary, &value))
		breach(r, "the calls were refused (%lld, %lld), but left damage", boot, quiesce);
	else
		blocked(r, "BOOT and QUIESCE are refused to EL1 (%lld, %lld)", boot, quiesce);
	__free_pages(table, 9);
}

/* ---- a shared area that is not the normal world's to share ---- */

/* If the program was started after all: end it, which takes lending until it is gone. */
static void end_program(void)
{
	unsigned int i;

	smc(FLEX_TOS_STOP, 0, 0, 0);
	for (i = 0; i < 100000; i++) {
		struct arm_smccc_res res = smc(FLEX_TOS_LEND, 0, 0, 0);

		if (res.a0 == FLEX_LEND_EXITED || (s64)res.a0 < 0)
			return;
		if (res.a0 == FLEX_LEND_IDLE)
			usleep_range(100, 200);
		cond_resched();
	}
}

static bool start_is_refused(struct report *r, const char *what, u64 address, u64 bytes)
{
	s64 status = smc(FLEX_TOS_START, address, bytes, 1).a0;

	if (status >= 0) {
		breach(r, "the program was started with %s as its shared area", what);
		end_program();
		return false;
	}
	return true;
}

/* 2 MiB of NORMAL memory but for one frame in its middle, which is FLEX. */
static struct page *holed_area(void)
{
	struct page *area = alloc_pages(GFP_KERNEL | __GFP_ZERO, 9);
	u64 *list = (u64 *)get_zeroed_page(GFP_KERNEL);
	s64 status;

	if (!area || !list)
		return NULL;
	split_page(area, 9);
	list[0] = page_to_phys(area + 256);
	status = hvc(FLEX_HVC_PROTECT, virt_to_phys(list), 1).a0;
	if (status == FLEX_OK)
		mark_lost(area + 256);
	free_page((unsigned long)list);
	return status == FLEX_OK ? area : NULL;
}

static void shared_area(struct report *r, char *arguments)
{
	static struct page *area;
	u64 canary, value, flex, hole;

	if (!area)
		area = holed_area();
	if (!area || canary_get(0, &canary)) {
		failed(r, "no memory");
		return;
	}
	flex = monitor_stat(FLEX_STAT_FRAMES_BASE + FLEX_FRAME_SHARED);
	if (flex) {
		failed(r, "the program is running, so START is refused for that reason alone: stop it first");
		return;
	}
	hole = page_to_phys(area);
	if (start_is_refused(r, "2 MiB with a Flex frame in them", hole, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "Flex-Mem", canary & ~(FLEX_RPC_AREA_BYTES - 1ull), FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "the monitor", BOARD_MONITOR_BASE, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "the trusted OS", BOARD_BL32_BASE, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "secure RAM", BOARD_SECURE_RAM_BASE, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "secure flash", BOARD_SECURE_FLASH_BASE, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "the secure UART", BOARD_SECURE_UART_BASE, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "the end of the address space", ~0ull << PAGE_SHIFT, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "a misaligned area", hole + 8, FLEX_RPC_AREA_BYTES) &&
	    start_is_refused(r, "no bytes", hole, 0) && start_is_refused(r, "2^63 bytes", hole, 1ull << 63) &&
	    start_is_refused(r, "too few bytes", hole, FLEX_RPC_AREA_BYTES - PAGE_SIZE)) {
		if (monitor_stat(FLEX_STAT_FRAMES_BASE + FLEX_FRAME_SHARED))
			breach(r, "a refused START left frames pinned");
		else if (frame_is_readable(canary, &value) || frame_is_readable(hole + 256 * PAGE_SIZE, &value))
			breach(r, "a refused START opened a Flex frame");
		else
			blocked(r, "12 shared areas that are not wholly Normal, or not sound, are refused");
	}
}

/* ---- every call there is, with random arguments ---- */

#define FUZZ_DEFAULT 100000

/*
 * Not tried, because by design they stop this core or the machine, or end the program, or give away a core in a way
 * that only the driver can pick up again:
 */
static const u32 skipped[] = {
	0x84000001, 0xC4000001, /* PSCI CPU_SUSPEND */
	0x84000002,		/* CPU_OFF */
	0x84000008,		/* SYSTEM_OFF */
	0x84000009,		/* SYSTEM_RESET */
	0x8400000B,		/* CPU_FREEZE */
	0x8400000C, 0xC400000C, /* CPU_DEFAULT_SUSPEND */
	0x8400000E, 0xC400000E, /* SYSTEM_SUSPEND */
	0x84000012, 0xC4000012, /* SYSTEM_RESET2 */
	0x8400000F, 0xC400000F, /* PSCI_SET_SUSPEND_MODE: changes what Linux relies on */
	0xF2000001,		/* FLEX_TOS_START: an attack of its own */
	0xF2000002,		/* FLEX_TOS_STOP */
	0xF2000003,		/* FLEX_TOS_RECLAIM */
	0x72000001,		/* FLEX_TOS_LEND */
};

static bool is_skipped(u64 call)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(skipped); i++)
		if ((u32)call == skipped[i])
			return true;
	return false;
}

/* Groups of numbers that somebody may listen to; the rest of 2^64 is tried as well. */
static u64 random_call(struct rnd_state *rnd)
{
	static const u64 bases[] = { 0x80000000, 0x80008000, 0xC0000000, 0x82000000, 0xC2000000, 0x83000000, 0xC3000000,
				     0x84000000, 0xC4000000, 0x84000050, 0xC4000020, 0x84000060, 0xC4000060, 0xC4000150,
				     0x86000000, 0xC6000000, 0xC6000F00, 0xC600FF00, 0xBE000000, 0xBF000000, 0x32000000,
				     0xB2000000, 0xF2000000, 0x72000000, 0xB2000020, 0xBF00FF00, 0x00000000, 0xFFFFFF00 };
	u32 dice = prandom_u32_state(rnd);
	u64 call;

	if (dice % 8 == 0)
		return (u64)prandom_u32_state(rnd) << 32 | prandom_u32_state(rnd);
	if (dice % 8 == 1)
		return prandom_u32_state(rnd);
	call = bases[(dice >> 8) % ARRAY_SIZE(bases)] + ((dice >> 16) & 0x1f);
	/* The upper half of x0 is not part of a function number. */
	return dice % 8 == 2 ? call | (u64)prandom_u32_state(rnd) << 32 : call;
}

struct fuzz {
	struct rnd_state rnd;
	u64 own, canary;
	bool lists; /* the call takes a list: no address of a page that somebody uses */
};

static u64 random_argument(struct fuzz *f)
{
	u32 dice = prandom_u32_state(&f->rnd);

	switch (dice % 10) {
	case 0:
		return f->canary;
	case 1:
		return f->own + (dice >> 20);
	case 2:
		return BOARD_MONITOR_BASE + (dice & 0x1ffff000);
	case 3:
		return BOARD_BL32_BASE + (dice & 0xfff000);
	case 4:
		return dice >> 24;
	case 5:
		return ~0ull - (dice >> 16);
	case 6:
		return 1ull << (dice >> 26);
	case 7:
		return BOARD_SECURE_FLASH_BASE + (dice & 0x3fff000);
	case 8:
		/* Behind all DRAM there can be: no list of Linux' own is named by accident. */
		return (u64)prandom_u32_state(&f->rnd) << 36 | dice;
	default:
		return f->lists ? dice & 0x1ff : ((u64)prandom_u32_state(&f->rnd) << 32 | dice);
	}
}

static void random_calls(struct fuzz *f, u32 count)
{
	u32 i;

	for (i = 0; i < count; i++) {
		u64 call = random_call(&f->rnd);
		bool by_hvc = prandom_u32_state(&f->rnd) & 1;
		struct arm_smccc_res res;
		u64 a[7];
		unsigned int k;

		if (is_skipped(call))
			continue;
		f->lists = (u32)call >= (u32)FLEX_HVC_VERSION && (u32)call <= (u32)FLEX_HVC_STAT;
		for (k = 0; k < ARRAY_SIZE(a); k++)
			a[k] = random_argument(f);
		if (by_hvc)
			arm_smccc_hvc(call, a[0], a[1], a[2], a[3], a[4], a[5], a[6], &res);
		else
			arm_smccc_smc(call, a[0], a[1], a[2], a[3], a[4], a[5], a[6], &res);
		if (!(i % 64))
			cond_resched();
	}
	/* Immediates other than 0 are not the calling convention's. */
	asm volatile("mov x0, %0\n\thvc #1\n\thvc #0xffff\n\tsmc #1\n\tsmc #0xffff"
		     :
		     : "r"(0xC6000F00ul)
		     : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
		       "x16", "x17", "memory");
}

static void fuzz(struct report *r, char *arguments)
{
	u32 count = FUZZ_DEFAULT, seed = 1;
	u64 flex, adopted, value, denied, *list = (u64 *)get_zeroed_page(GFP_KERNEL);
	struct page *own = alloc_page(GFP_KERNEL);
	struct fuzz f;

	if (arguments[0] && sscanf(arguments, "%u %u", &count, &seed) < 1) {
		failed(r, "usage: calls [COUNT [SEED]]");
		return;
	}
	/* CPU_ON is tried, too: it would start a core in the middle of nowhere, but all are on. */
	if (num_online_cpus() != num_present_cpus()) {
		failed(r, "bring all cores online first");
		return;
	}
	if (!own || !list || canary_get(0, &f.canary)) {
		failed(r, "no memory");
		return;
	}
	/* Our page as a list: no entry of it is a range. */
	memset(page_address(own), 0xff, PAGE_SIZE);
	f.own = page_to_phys(own);
	prandom_seed_state(&f.rnd, seed);
	flex = monitor_stat(FLEX_STAT_FRAMES_BASE + FLEX_FRAME_FLEX);
	adopted = monitor_stat(FLEX_STAT_FRAMES_BASE + FLEX_FRAME_ADOPTED);
	denied = monitor_stat(FLEX_STAT_CALLS_DENIED);
	random_calls(&f, count);
	denied = monitor_stat(FLEX_STAT_CALLS_DENIED) - denied;
	list[0] = f.canary;
	if (hvc(FLEX_HVC_VERSION, 0, 0).a1 != FLEX_ABI_VERSION)
		breach(r, "the monitor does not answer any more");
	else if (smc(FLEX_TOS_VERSION, 0, 0, 0).a1 != FLEX_ABI_VERSION)
		breach(r, "the trusted OS does not answer any more");
	else if (frame_is_readable(f.canary, &value) || (s64)hvc(FLEX_HVC_RECALL, virt_to_phys(list), 1).a0 >= 0)
		breach(r, "a protected frame was opened");
	else if (monitor_stat(FLEX_STAT_FRAMES_BASE + FLEX_FRAME_FLEX) < flex && !adopted)
		breach(r, "Flex frames have disappeared");
	else
		blocked(r, "%u random calls (seed %u, %zu functions skipped): all answer, nothing opened, %llu denied", count, seed,
			ARRAY_SIZE(skipped), denied);
	__free_page(own);
	free_page((unsigned long)list);
}

/* ---- lending with false completions ---- */

#define FORGED_LENDS 2000

/*
 * Says that every slot is answered, while nobody has written an answer. Slots that this very call brings out are passed on to the
 * driver: losing them would only starve the program.
 */
static void forged_completions(struct report *r, char *arguments)
{
	void (*posted)(u64 mask) = (void *)symbol_address("flex_rpc_posted");
	u64 refused = tos_stat(FLEX_TOS_STAT_RPC_ANSWERS_REFUSED), lends = 0, value, canary;
	u64 starts = tos_stat(FLEX_TOS_STAT_PROGRAM_STARTS);
	unsigned int i;

	if (!posted || canary_get(0, &canary)) {
		failed(r, "flexserve.ko is not loaded");
		return;
	}
	for (i = 0; i < FORGED_LENDS; i++) {
		/* Also bits of slots that do not exist. */
		struct arm_smccc_res res = smc(FLEX_TOS_LEND, i & 1 ? ~0ull : 1ull << (i / 2 % 64), 0, 0);

		if ((s64)res.a0 < 0) {
			failed(r, "the trusted OS takes no core (%lld): is the program running?", (s64)res.a0);
			return;
		}
		lends++;
		if (res.a1)
			posted(res.a1);
		cond_resched();
	}
	refused = tos_stat(FLEX_TOS_STAT_RPC_ANSWERS_REFUSED) - refused;
	if (smc(FLEX_TOS_VERSION, 0, 0, 0).a1 != FLEX_ABI_VERSION)
		breach(r, "the trusted OS does not answer any more");
	else if (frame_is_readable(canary, &value))
		breach(r, "a protected frame was opened");
	else if (tos_stat(FLEX_TOS_STAT_PROGRAM_STARTS) != starts)
		breach(r, "the program ended and was started again");
	else if (!refused)
		breach(r, "completions of slots that were not out were accepted");
	else
		blocked(r, "%llu forged completions: %llu refused, the program goes on", lends, refused);
}

const struct attack call_attacks[] = {
	{ "boot-calls", "call BOOT and QUIESCE of the trusted OS from EL1", boot_calls },
	{ "shared-area", "name Flex-Mem, the monitor, secure memory as shared area (program stopped)", shared_area },
	{ "completions", "lend with forged completions of RPC slots", forged_completions },
	{ "calls", "[COUNT [SEED]]: random SMCs and HVCs with random arguments", fuzz },
	{}
};
