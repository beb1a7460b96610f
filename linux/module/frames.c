// SPDX-License-Identifier: GPL-2.0
/*
 * Which frames are lent, and their life as pages.
 *
 * Invariant: a frame that may be anything but NORMAL has its bit in `lent`, its page is allocated to this driver and marked
 * offline. Offline pages are what a balloon has taken away: /proc/kcore, kdump and hibernation leave them alone.
 *
 * Three bitmaps over the frames of the monitor's table, allocated once, so that taking memory back never has to allocate.
 *   lent   see above
 *   head   the first frame of an unsplit chunk; its order is in page_private()
 *   spare  lent and known to be FLEX, but owned by no program
 * A chunk comes back as it was lent (one call of the allocator) or in parts (it is split into single pages first).
 */
#include <linux/bitmap.h>
#include <linux/log2.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/vmalloc.h>

#include "flexserve.h"

/* 2 MiB: the largest block a stage-2 table profits from that the allocator still finds in a fragmented system. */
static unsigned int max_order = 9;
module_param(max_order, uint, 0644);
MODULE_PARM_DESC(max_order, "largest order of pages asked of the allocator (0..9)");

static unsigned long reserve_mib = 48;
module_param(reserve_mib, ulong, 0644);
MODULE_PARM_DESC(reserve_mib, "memory that is left to Linux: nothing is lent when less would be available");

#define FLEX_CHUNK_ORDER_MAX 9

static DEFINE_MUTEX(frames_lock);
static unsigned long *lent, *head, *spare;
static unsigned long frame_count;	/* bits in each */
static unsigned long first_pfn;
static unsigned long lent_count, spare_count;

int flex_frames_init(u64 dram_base, u64 dram_bytes)
{
	first_pfn = PHYS_PFN(dram_base);
	frame_count = dram_bytes >> FLEX_FRAME_SHIFT;
	lent = bitmap_zalloc(frame_count, GFP_KERNEL);
	head = bitmap_zalloc(frame_count, GFP_KERNEL);
	spare = bitmap_zalloc(frame_count, GFP_KERNEL);
	if (lent && head && spare)
		return 0;
	flex_frames_exit();
	return -ENOMEM;
}

void flex_frames_exit(void)
{
	bitmap_free(lent);
	bitmap_free(head);
	bitmap_free(spare);
	lent = NULL;
	head = NULL;
	spare = NULL;
}

unsigned long flex_frames_lent(void)
{
	return READ_ONCE(lent_count);
}

unsigned long flex_frames_spare(void)
{
	return READ_ONCE(spare_count);
}

/* ---- chunks of pages ---- */

/* Only a chunk of one page can be moved by Linux: the others lie in blocks that compaction need not make. */
static bool is_movable(unsigned int order)
{
	return order == 0;
}

static void mark_movable(struct page *page, bool movable)
{
	lock_page(page);
	if (movable)
		__SetPageMovable(page, &flex_movable_operations);
	else if (__PageMovable(page))
		__ClearPageMovable(page);
	unlock_page(page);
}

/*
 * Free pages that each core keeps at hand (per-cpu lists). si_mem_available() leaves them out; of what was just given back it can be
 * 10 MiB, which whoever gave it to make room for something else would look for in vain.
 */
static long pages_at_hand(void)
{
	long pages = 0;
	int node, i, cpu;

	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[i];

			if (!populated_zone(zone))
				continue;
			for_each_online_cpu(cpu)
				pages += READ_ONCE(per_cpu_ptr(zone->per_cpu_pageset, cpu)->count);
		}
	}
	return pages;
}

/* What Linux sets aside for a while because memory came to be in pieces (vm.watermark_boost_factor): MemAvailable does not know of it. */
static unsigned long pages_set_aside(void)
{
	unsigned long pages = 0;
	int node, i;

	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++)
			pages += READ_ONCE(NODE_DATA(node)->node_zones[i].watermark_boost);
	}
	return pages;
}

static bool linux_can_spare(unsigned long pages)
{
	const long wanted = pages + pages_set_aside() + (reserve_mib << (20 - PAGE_SHIFT));
	const long available = si_mem_available();

	return available > wanted || available + pages_at_hand() > wanted;
}

struct page *flex_chunk_alloc(unsigned int wanted_order, bool file_pages, unsigned int *order)
{
	/* Unmovable but for single pages: what compaction wants to have of those, move.c brings elsewhere. */
	const gfp_t light = (GFP_HIGHUSER | __GFP_NOMEMALLOC | __GFP_NOWARN) & ~__GFP_RECLAIM;
	const gfp_t hard = GFP_HIGHUSER | __GFP_NOMEMALLOC | __GFP_NOWARN | __GFP_NORETRY;
	int o = min3(wanted_order, READ_ONCE(max_order), (unsigned int)FLEX_CHUNK_ORDER_MAX);
	struct page *page = NULL;

	if (!linux_can_spare(1))
		return NULL;
	while (o > 0 && !linux_can_spare(1ul << o))
		o--;
	/* Orders the allocator calls costly are taken only when they lie ready: compacting for them is not cheap. */
	for (; o >= 0 && !page; o--) {
		page = alloc_pages((o > PAGE_ALLOC_COSTLY_ORDER ? light : hard) | (is_movable(o) ? __GFP_MOVABLE : 0), o);
		if (page)
			*order = o;
	}
	if (page && file_pages && *order)
		split_page(page, *order);
	return page;
}

void flex_chunk_free(struct page *page, unsigned int order, bool file_pages)
{
	unsigned long i;

	if (!file_pages) {
		__free_pages(page, order);
		return;
	}
	for (i = 0; i < 1ul << order; i++)
		__free_page(page + i);
}

/* ---- marks ---- */

static unsigned long frame_of(flex_range_t range)
{
	return PHYS_PFN(range) - first_pfn;
}

static unsigned long frames_in(flex_range_t range)
{
	return 1ul << flex_range_order(range);
}

static void mark_offline(unsigned long frame, unsigned long count, bool offline)
{
	struct page *page = pfn_to_page(first_pfn + frame);

	for (; count; count--, page++) {
		if (offline)
			__SetPageOffline(page);
		else
			__ClearPageOffline(page);
	}
}

void flex_frames_lend(flex_range_t range)
{
	if (is_movable(flex_range_order(range)))
		mark_movable(pfn_to_page(PHYS_PFN(range)), true);
	flex_frames_lend_marked(range);
}

void flex_frames_lend_marked(flex_range_t range)
{
	unsigned long frame = frame_of(range), count = frames_in(range);

	/* Readers of /proc/kcore look at the mark and then at the page: wait until the ones under way are through. */
	page_offline_begin();
	mark_offline(frame, count, true);
	page_offline_end();
	mutex_lock(&frames_lock);
	bitmap_set(lent, frame, count);
	__set_bit(frame, head);
	set_page_private(pfn_to_page(first_pfn + frame), flex_range_order(range));
	lent_count += count;
	mutex_unlock(&frames_lock);
}

/* Forgets a range that is wholly Linux' again and was never split by flex_frames_free(). */
void flex_frames_unlend_marked(flex_range_t range)
{
	unsigned long frame = frame_of(range), count = frames_in(range);

	mutex_lock(&frames_lock);
	bitmap_clear(lent, frame, count);
	__clear_bit(frame, head);
	set_page_private(pfn_to_page(first_pfn + frame), 0);
	lent_count -= count;
	mutex_unlock(&frames_lock);
	mark_offline(frame, count, false);
}

void flex_frames_unlend(flex_range_t range)
{
	flex_frames_unlend_marked(range);
	if (is_movable(flex_range_order(range)))
		mark_movable(pfn_to_page(PHYS_PFN(range)), false);
}

static bool range_is_sound(flex_range_t range)
{
	unsigned int order = flex_range_order(range);
	u64 pfn = PHYS_PFN(range);

	return order <= FLEX_RANGE_ORDER_MAX && !(range & FLEX_RANGE_ZERO_MASK) &&
	       IS_ALIGNED(pfn, 1ull << order) && pfn >= first_pfn &&
	       pfn - first_pfn + (1ull << order) <= frame_count;
}

int flex_frames_claim(flex_range_t range)
{
	unsigned long frame, count, end;
	int ret = -EINVAL;

	if (!range_is_sound(range))
		return ret;
	frame = frame_of(range);
	count = frames_in(range);
	end = frame + count;
	mutex_lock(&frames_lock);
	if (find_next_zero_bit(lent, end, frame) == end && find_next_bit(spare, end, frame) == end) {
		bitmap_clear(lent, frame, count);
		lent_count -= count;
		ret = 0;
	}
	mutex_unlock(&frames_lock);
	return ret;
}

void flex_frames_unclaim(flex_range_t range)
{
	mutex_lock(&frames_lock);
	bitmap_set(lent, frame_of(range), frames_in(range));
	lent_count += frames_in(range);
	mutex_unlock(&frames_lock);
}

/* The unsplit chunk that @frame lies in, other than as its first frame, or a miss. */
static bool find_chunk(unsigned long frame, unsigned long *first, unsigned int *order)
{
	unsigned int o;

	for (o = 0; o <= FLEX_CHUNK_ORDER_MAX; o++) {
		/* Chunks are aligned by address, not by index. */
		unsigned long pfn = round_down(first_pfn + frame, 1ul << o);

		if (pfn < first_pfn || !test_bit(pfn - first_pfn, head))
			continue;
		*first = pfn - first_pfn;
		*order = page_private(pfn_to_page(pfn));
		return frame - *first < 1ul << *order;
	}
	return false;
}

/* The next piece of [frame, frame + left) that can be given to the allocator in one call: takes it out of its chunk. */
static unsigned int detach_piece(unsigned long frame, unsigned long left)
{
	unsigned long first;
	unsigned int order;
	struct page *page;

	if (!find_chunk(frame, &first, &order))
		return 0;
	page = pfn_to_page(first_pfn + first);
	__clear_bit(first, head);
	set_page_private(page, 0);
	if (first == frame && 1ul << order <= left)
		return order;
	split_page(page, order);
	return 0;
}

void flex_frames_forget_page(struct page *page)
{
	unsigned long frame = page_to_pfn(page) - first_pfn;

	mark_offline(frame, 1, false);
	mutex_lock(&frames_lock);
	detach_piece(frame, 1);
	mutex_unlock(&frames_lock);
}

bool flex_frames_is_lent_page(struct page *page)
{
	unsigned long frame = page_to_pfn(page) - first_pfn;
	bool lent_alone;

	mutex_lock(&frames_lock);
	lent_alone = frame < frame_count && test_bit(frame, lent) && !test_bit(frame, spare) && test_bit(frame, head) &&
		     !page_private(page);
	mutex_unlock(&frames_lock);
	return lent_alone;
}

bool flex_frames_pick(unsigned long random, flex_range_t *range)
{
	unsigned long frame = frame_count;

	mutex_lock(&frames_lock);
	/* Every frame as likely as any other: the next one after a random place would nearly always be the first behind the largest gap. */
	if (lent_count > spare_count)
		frame = find_nth_andnot_bit(lent, spare, frame_count, random % (lent_count - spare_count));
	mutex_unlock(&frames_lock);
	*range = FLEX_RANGE(PFN_PHYS(first_pfn + frame), 0);
	return frame < frame_count;
}

void flex_frames_free(flex_range_t range)
{
	unsigned long frame = frame_of(range), left = frames_in(range), i;

	/* Before the lock: whoever moves a page holds it while he takes ours. */
	for (i = 0; i < left; i++) {
		struct page *page = pfn_to_page(first_pfn + frame + i);

		if (__PageMovable(page))
			mark_movable(page, false);
	}
	mark_offline(frame, left, false);
	mutex_lock(&frames_lock);
	while (left) {
		unsigned int order = detach_piece(frame, left);

		__free_pages(pfn_to_page(first_pfn + frame), order);
		frame += 1ul << order;
		left -= 1ul << order;
	}
	mutex_unlock(&frames_lock);
}

/* ---- frames without a program ---- */

void flex_frames_add_spare(flex_range_t range)
{
	mutex_lock(&frames_lock);
	bitmap_set(spare, frame_of(range), frames_in(range));
	spare_count += frames_in(range);
	mutex_unlock(&frames_lock);
}

/* The largest aligned range that starts at @frame, has all its bits in @map and is no larger than @order_max. */
static flex_range_t range_at(const unsigned long *map, unsigned long frame, unsigned int order_max)
{
	unsigned long pfn = first_pfn + frame;
	unsigned int order = min_t(unsigned int, order_max, pfn ? __ffs(pfn) : order_max);

	for (; order; order--) {
		unsigned long end = frame + (1ul << order);

		if (end <= frame_count && find_next_zero_bit(map, end, frame) == end)
			break;
	}
	return FLEX_RANGE(PFN_PHYS(pfn), order);
}

bool flex_frames_take_spare(unsigned int order_max, flex_range_t *range)
{
	unsigned long frame;
	bool found = false;

	if (!READ_ONCE(spare_count))
		return false;
	mutex_lock(&frames_lock);
	frame = find_first_bit(spare, frame_count);
	if (frame < frame_count) {
		*range = range_at(spare, frame, order_max);
		bitmap_clear(spare, frame, frames_in(*range));
		spare_count -= frames_in(*range);
		found = true;
	}
	mutex_unlock(&frames_lock);
	return found;
}

bool flex_frames_next_lent(unsigned long *frame, unsigned int order_max, flex_range_t *range)
{
	bool found = false;

	mutex_lock(&frames_lock);
	*frame = find_next_andnot_bit(lent, spare, frame_count, *frame);
	if (*frame < frame_count) {
		*range = range_at(lent, *frame, order_max);
		*frame += frames_in(*range);
		found = true;
	}
	mutex_unlock(&frames_lock);
	return found;
}
