// SPDX-License-Identifier: GPL-2.0
/* Malformed, overlapping, misplaced and changing protect lists. */
#include <linux/cpu.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/slab.h>

#include "attack.h"

/* A list page and NORMAL frames of ours to put into lists. */
struct bench {
	u64 *list;
	struct page *good[2];
	u64 canary;
};

static int bench_init(struct report *r, struct bench *b)
{
	memset(b, 0, sizeof(*b));
	b->list = (u64 *)get_zeroed_page(GFP_KERNEL);
	b->good[0] = pattern_page();
	b->good[1] = pattern_page();
	if (b->list && b->good[0] && b->good[1] && !canary_get(0, &b->canary))
		return 0;
	failed(r, "no memory, or the canary could not be protected");
	return -ENOMEM;
}

static bool good_frames_are_ours(const struct bench *b)
{
	return page_has_pattern(b->good[0]) && page_has_pattern(b->good[1]);
}

static void bench_exit(struct bench *b)
{
	/* A frame that got protected by an attack that succeeded is lost. */
	if (b->good[0] && page_has_pattern(b->good[0]))
		__free_page(b->good[0]);
	if (b->good[1] && page_has_pattern(b->good[1]))
		__free_page(b->good[1]);
	free_page((unsigned long)b->list);
}

static u64 good(const struct bench *b, unsigned int index)
{
	return page_to_phys(b->good[index]);
}

/* A list that must be refused as a whole: nothing changes. Returns false after a breach. */
static bool must_refuse(struct report *r, struct bench *b, const char *what, unsigned int count)
{
	s64 status = hvc(FLEX_HVC_PROTECT, virt_to_phys(b->list), count).a0;
	u64 value;

	if (status >= 0) {
		breach(r, "%s was protected (status %lld)", what, status);
		return false;
	}
	if (!good_frames_are_ours(b)) {
		breach(r, "%s was refused, but took a frame of the list away", what);
		return false;
	}
	if (frame_is_readable(b->canary, &value)) {
		breach(r, "after %s a protected frame can be read", what);
		return false;
	}
	return true;
}

static void twice(struct report *r, char *arguments)
{
	struct bench b;

	if (!bench_init(r, &b)) {
		b.list[0] = b.canary;
		if (must_refuse(r, &b, "a frame that is Flex already", 1)) {
			b.list[0] = good(&b, 0);
			b.list[1] = b.canary;
			if (must_refuse(r, &b, "a list with a frame that is Flex already", 2))
				blocked(r, "a protected frame is not protected again, and the rest of its list stays Normal");
		}
	}
	bench_exit(&b);
}

static void overlap(struct report *r, char *arguments)
{
	struct bench b;
	struct page *pair = alloc_pages(GFP_KERNEL | __GFP_ZERO, 1);
	bool held;

	if (!pair || bench_init(r, &b)) {
		failed(r, "no memory");
		return;
	}
	b.list[0] = b.list[1] = good(&b, 0);
	held = must_refuse(r, &b, "a list with a frame twice", 2);
	b.list[0] = FLEX_RANGE(page_to_phys(pair), 1);
	b.list[1] = FLEX_RANGE(page_to_phys(pair) + PAGE_SIZE, 0);
	held = held && must_refuse(r, &b, "a list whose second range lies in its first", 2);
	b.list[0] = FLEX_RANGE(page_to_phys(pair) + PAGE_SIZE, 0);
	b.list[1] = good(&b, 0);
	b.list[2] = FLEX_RANGE(page_to_phys(pair), 1);
	held = held && must_refuse(r, &b, "a list whose last range covers its first", 3);
	if (held)
		blocked(r, "overlapping lists are refused as a whole");
	if (held)
		__free_pages(pair, 1);
	bench_exit(&b);
}

static void addresses(struct report *r, char *arguments)
{
	static const struct {
		const char *what;
		u64 range;
	} bad[] = {
		{ "the monitor's first frame", FLEX_RANGE(BOARD_MONITOR_BASE, 0) },
		{ "2 MiB of the monitor", FLEX_RANGE(BOARD_MONITOR_BASE, 9) },
		{ "a range that holds the monitor", FLEX_RANGE(BOARD_DRAM_BASE, 18) },
		{ "the normal world's UART", FLEX_RANGE(BOARD_UART0_BASE, 0) },
		{ "the interrupt controller", FLEX_RANGE(BOARD_GICD_BASE, 0) },
		{ "the SMMU's registers", FLEX_RANGE(BOARD_SMMU_BASE, 0) },
		{ "PCI memory space", FLEX_RANGE(BOARD_PCIE_MMIO_BASE, 0) },
		{ "PCI configuration space", FLEX_RANGE(BOARD_PCIE_ECAM_BASE, 0) },
		{ "secure RAM", FLEX_RANGE(BOARD_BL32_BASE, 0) },
		{ "secure flash", FLEX_RANGE(BOARD_SECURE_FLASH_BASE, 0) },
		{ "a frame below DRAM", FLEX_RANGE(BOARD_DRAM_BASE - PAGE_SIZE, 0) },
		{ "1 GiB below DRAM", FLEX_RANGE(0, 18) },
		{ "a frame behind the largest DRAM", FLEX_RANGE(BOARD_DRAM_BASE + BOARD_DRAM_BYTES_MAX, 0) },
		{ "the last frame of the address space", FLEX_RANGE(~0ull << PAGE_SHIFT, 0) },
		{ "1 GiB that ends at 2^64", FLEX_RANGE(~0ull << 30, 18) },
		{ "an address of 2^63", FLEX_RANGE(1ull << 63, 0) },
		{ "an address of 2^48", FLEX_RANGE(1ull << 48, 0) },
		{ "a frame of DRAM with bit 52 set", FLEX_RANGE(BOARD_DRAM_BASE | 1ull << 52, 0) },
	};
	struct bench b;
	unsigned int i;

	if (bench_init(r, &b))
		goto out;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		b.list[0] = good(&b, 0);
		b.list[1] = bad[i].range;
		b.list[2] = good(&b, 1);
		if (!must_refuse(r, &b, bad[i].what, 3))
			goto out;
		b.list[0] = bad[i].range;
		if (!must_refuse(r, &b, bad[i].what, 1))
			goto out;
	}
	blocked(r, "%zu kinds of frames that are not Linux' to give are refused, their lists as a whole", ARRAY_SIZE(bad));
out:
	bench_exit(&b);
}

static void orders(struct report *r, char *arguments)
{
	struct bench b;
	unsigned int order, bit;

	if (bench_init(r, &b))
		goto out;
	for (order = FLEX_RANGE_ORDER_MAX + 1; order < 64; order++) {
		b.list[0] = FLEX_RANGE(good(&b, 0), order);
		if (!must_refuse(r, &b, "a range of more than the largest order", 1))
			goto out;
		b.list[0] = FLEX_RANGE(0, order);
		if (!must_refuse(r, &b, "a range of everything", 1))
			goto out;
	}
	for (bit = 6; bit < 12; bit++) {
		b.list[0] = good(&b, 0) | BIT_ULL(bit);
		if (!must_refuse(r, &b, "a range with a reserved bit set", 1))
			goto out;
	}
	for (order = 1; order <= FLEX_RANGE_ORDER_MAX; order++) {
		/* Not aligned to its size: it would reach beyond what its bits say. */
		b.list[0] = FLEX_RANGE((good(&b, 0) & ~((PAGE_SIZE << order) - 1)) + (PAGE_SIZE << order) / 2, order);
		if (!must_refuse(r, &b, "a misaligned range", 1))
			goto out;
	}
	blocked(r, "orders above %u, reserved bits and misaligned ranges are refused", FLEX_RANGE_ORDER_MAX);
out:
	bench_exit(&b);
}

static void counts(struct report *r, char *arguments)
{
	static const u64 bad[] = { 0, FLEX_LIST_MAX + 1, 4096, 1ull << 29, 1ull << 32, (1ull << 32) + 1, 1ull << 60, 1ull << 61,
				   (1ull << 61) + 1, 1ull << 63, (1ull << 63) + 1, ~0ull };
	struct bench b;
	unsigned int i;
	s64 status;

	if (bench_init(r, &b))
		goto out;
	for (i = 0; i < FLEX_LIST_MAX; i++)
		b.list[i] = good(&b, i % 2);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		status = hvc(FLEX_HVC_PROTECT, virt_to_phys(b.list), bad[i]).a0;
		if (status >= 0 || !good_frames_are_ours(&b)) {
			breach(r, "a list of %#llx ranges was taken (status %lld)", bad[i], status);
			goto out;
		}
		status = hvc(FLEX_HVC_RECALL, virt_to_phys(b.list), bad[i]).a0;
		if (status >= 0) {
			breach(r, "a recall list of %#llx ranges was taken", bad[i]);
			goto out;
		}
	}
	blocked(r, "counts of 0, above %llu, and up to 2^64 - 1 are refused", FLEX_LIST_MAX);
out:
	bench_exit(&b);
}

/* The list itself lies where the monitor must not read on the normal world's behalf, or crosses a frame. */
static void prepare_list(void *page, u64 address)
{
	/* A list that would be accepted if it were read: the canary cannot name itself, so the frame is given later. */
	struct page *bait = pattern_page();

	*(u64 *)(page + 2048) = bait ? page_to_phys(bait) : 0;
}

static void placement(struct report *r, char *arguments)
{
	const struct {
		const char *what;
		u64 address;
	} bad[] = {
		{ "the monitor's memory", BOARD_MONITOR_BASE },
		{ "the trusted OS's memory", BOARD_BL32_BASE },
		{ "secure flash", BOARD_SECURE_FLASH_BASE },
		{ "the UART", BOARD_UART0_BASE },
		{ "the interrupt controller", BOARD_GICD_BASE },
		{ "memory behind DRAM", BOARD_DRAM_BASE + BOARD_DRAM_BYTES_MAX },
		{ "the end of the address space", ~0ull << PAGE_SHIFT },
		{ "address 2^63", 1ull << 63 },
	};
	struct bench b;
	struct arm_smccc_res res;
	u64 canary;
	unsigned int i;

	if (bench_init(r, &b) || canary_get_prepared(1, &canary, prepare_list)) {
		failed(r, "no canary");
		goto out;
	}
	res = hvc(FLEX_HVC_PROTECT, canary + 2048, 1);
	if ((s64)res.a0 >= 0) {
		breach(r, "a list in Flex-Mem was read and protected");
		goto out;
	}
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		res = hvc(FLEX_HVC_PROTECT, bad[i].address, FLEX_LIST_MAX);
		if ((s64)res.a0 >= 0 || (res.a1 && res.a1 < FLEX_LIST_MAX)) {
			breach(r, "a list in %s was read (status %lld, range %llu)", bad[i].what, (s64)res.a0, (u64)res.a1);
			goto out;
		}
	}
	b.list[511] = good(&b, 0);
	res = hvc(FLEX_HVC_PROTECT, virt_to_phys(b.list) + 511 * 8, 2);
	if ((s64)res.a0 >= 0) {
		breach(r, "a list that crosses a frame was taken");
		goto out;
	}
	b.list[0] = good(&b, 0) << 8;
	res = hvc(FLEX_HVC_PROTECT, virt_to_phys(b.list) + 1, 1);
	if ((s64)res.a0 >= 0)
		breach(r, "a misaligned list was taken");
	else if (!good_frames_are_ours(&b))
		breach(r, "a refused list took a frame away");
	else
		blocked(r, "lists in Flex-Mem, the monitor, secure memory, devices, and across a frame are refused");
out:
	bench_exit(&b);
}

/* ---- the list changes while it is read ---- */

/* Calls during which the other core did change the list: without some of these the attack has not taken place. */
#define LIVE_ROUNDS_MIN 20
#define LIVE_ROUNDS_DEFAULT 2000
/* Of calls that may succeed, each of which costs Linux two frames. */
#define TAKEN_ROUNDS_MAX 256
#define FLIP_PATIENCE (15 * HZ)

struct flipper {
	u64 *entry;
	u64 values[2];
	unsigned long flips;
	unsigned int live; /* calls that saw flips */
	struct task_struct *task;
};

static int flip(void *argument)
{
	struct flipper *f = argument;

	while (!kthread_should_stop()) {
		WRITE_ONCE(*f->entry, READ_ONCE(f->values[f->flips & 1]));
		WRITE_ONCE(f->flips, f->flips + 1);
		if (!(f->flips & 0xfffff))
			cond_resched();
	}
	return 0;
}

static bool start_flipper(struct report *r, struct flipper *f)
{
	unsigned int here = raw_smp_processor_id(), cpu;

	for_each_online_cpu(cpu)
		if (cpu != here)
			break;
	f->task = cpu < nr_cpu_ids ? kthread_create_on_cpu(flip, f, cpu, "flexflip/%u") : ERR_PTR(-ENODEV);
	if (IS_ERR(f->task)) {
		failed(r, "no second core to change the list on");
		return false;
	}
	wake_up_process(f->task);
	return true;
}

static bool stop_flipper(struct report *r, struct flipper *f)
{
	kthread_stop(f->task);
	if (f->live >= LIVE_ROUNDS_MIN)
		return true;
	failed(r, "the other core changed the list during %u calls only", f->live);
	return false;
}

static s64 protect_while_flipping(struct bench *b, unsigned int count, struct flipper *f)
{
	unsigned long before = READ_ONCE(f->flips);
	s64 status = hvc(FLEX_HVC_PROTECT, virt_to_phys(b->list), count).a0;

	f->live += READ_ONCE(f->flips) - before > 1;
	return status;
}

/* Ends in refusal whatever the flipped entry is: nothing may change, however often it is tried. */
static bool flip_refused(struct report *r, struct bench *b, u64 bad, unsigned int rounds)
{
	struct flipper f = { .entry = &b->list[0], .values = { good(b, 0), bad } };
	unsigned long end = jiffies + FLIP_PATIENCE;
	u64 value;

	b->list[0] = bad;
	b->list[1] = good(b, 1);
	b->list[2] = b->canary;
	if (!start_flipper(r, &f))
		return false;
	while (f.live < rounds && time_before(jiffies, end) && r->verdict == VERDICT_NONE) {
		s64 status = protect_while_flipping(b, 3, &f);

		if (status >= 0)
			breach(r, "a list with a frame that is Flex already was taken while it changed");
		else if (!good_frames_are_ours(b))
			breach(r, "a refused list took a frame away");
		else if (frame_is_readable(b->canary, &value))
			breach(r, "a protected frame became readable");
		cond_resched();
	}
	if (stop_flipper(r, &f) && monitor_stat(FLEX_STAT_FRAMES_BASE + FLEX_FRAME_CLAIMED))
		breach(r, "refused lists left frames that belong to nobody");
	return r->verdict == VERDICT_NONE;
}

/* What one call left behind of two pages that were either both taken or both not. */
static void judge_taken(struct report *r, struct bench *b, struct page **pages, s64 status)
{
	bool readable[2] = { page_has_pattern(pages[0]), page_has_pattern(pages[1]) };
	u64 value;

	if (frame_is_readable(b->canary, &value))
		breach(r, "a protected frame became readable");
	else if (status == FLEX_OK && (readable[0] || readable[1]))
		breach(r, "the list that was checked is not the one that was taken");
	else if (status != FLEX_OK && (!readable[0] || !readable[1]))
		breach(r, "a refused list took a frame");
}

/* Entry 0 flips between a Flex frame, which is refused, and a Normal one: what was checked must be what is taken. */
static bool flip_taken(struct report *r, struct bench *b, unsigned int rounds)
{
	struct page *pages[2] = { pattern_page(), pattern_page() };
	struct flipper f = { .entry = &b->list[0] };
	unsigned long end = jiffies + FLIP_PATIENCE;
	unsigned int taken = 0, k;

	while (f.live < rounds && taken < TAKEN_ROUNDS_MAX && time_before(jiffies, end) && r->verdict == VERDICT_NONE) {
		s64 status;

		if (!pages[0] || !pages[1]) {
			failed(r, "no memory");
			break;
		}
		WRITE_ONCE(f.values[0], b->canary);
		WRITE_ONCE(f.values[1], page_to_phys(pages[0]));
		WRITE_ONCE(b->list[1], page_to_phys(pages[1]));
		if (!f.task) {
			b->list[0] = b->canary; /* not what the rounds before have left there */
			if (!start_flipper(r, &f))
				return false;
		}
		status = protect_while_flipping(b, 2, &f);
		judge_taken(r, b, pages, status);
		cond_resched();
		if (status != FLEX_OK)
			continue;
		/* Both are lost; go on with fresh ones. A late flip to a lost one is refused, as it should be. */
		taken++;
		for (k = 0; k < 2; k++) {
			mark_lost(pages[k]);
			pages[k] = pattern_page();
		}
	}
	if (stop_flipper(r, &f) && !taken)
		failed(r, "no call found the frame that may be taken");
	return r->verdict == VERDICT_NONE;
}

static void flipping(struct report *r, char *arguments)
{
	unsigned int rounds = LIVE_ROUNDS_DEFAULT;
	struct bench b;

	if (arguments[0] && kstrtouint(arguments, 0, &rounds)) {
		failed(r, "usage: list-flip [ROUNDS]");
		return;
	}
	if (!bench_init(r, &b) && flip_taken(r, &b, rounds) && flip_refused(r, &b, FLEX_RANGE(BOARD_MONITOR_BASE, 0), rounds) &&
	    flip_refused(r, &b, FLEX_RANGE(~0ull << 30, 18), rounds) && flip_refused(r, &b, b.canary, rounds))
		blocked(r, "lists that another core changed during the call were taken as they were checked, or not at all");
	bench_exit(&b);
}

const struct attack list_attacks[] = {
	{ "list-twice", "protect a frame that is Flex", twice },
	{ "list-overlap", "protect lists with overlaps", overlap },
	{ "list-address", "protect monitor frames, devices, secure memory, addresses that wrap", addresses },
	{ "list-order", "ranges of too large orders, misaligned, with reserved bits", orders },
	{ "list-count", "counts of 0, too large, 2^63", counts },
	{ "list-placement", "lists in Flex-Mem, the monitor, secure memory, devices", placement },
	{ "list-flip", "[ROUNDS]: a second core changes the list while it is read", flipping },
	{}
};
