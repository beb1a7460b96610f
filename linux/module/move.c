// SPDX-License-Identifier: GPL-2.0
/*
 * One given frame back: its content and its place in the program go to another frame (FLEX_TOS_MOVE), so that what Linux wants to do
 * with that very page (compaction, contiguous allocation, offlining) need not wait until the framework can do without it.
 *
 * Lent chunks of a single page are movable pages to Linux (struct movable_operations): those are what fragments its memory. A page
 * that moves is locked by whoever moves it; everything else that takes pages back locks them only to clear that mark, and never while
 * it holds flex_recall_lock's waiters up: see migrate().
 */
#include <linux/gfp.h>
#include <linux/ktime.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/version.h>

#include "flexserve.h"

/* Before, compaction took a page that migrate() has kept for a free one all the same (compaction_free()). */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 9, 0)
#error "flexserve.ko needs Linux 6.9 or later"
#endif

static flex_range_t range_of(struct page *page)
{
	return FLEX_RANGE(page_to_phys(page), 0);
}

/*
 * With flex_recall_lock; @to is marked lent. 0: @from is NORMAL and claimed, @to has its place. Otherwise nothing has moved, and
 * *@kept says whether @to is protected all the same: then it is spare.
 */
static int move(flex_range_t from, flex_range_t to, bool *kept)
{
	u64 start = ktime_get_ns();
	struct arm_smccc_res res;
	int ret;

	*kept = false;
	/* What is protected for nothing only the next program can use. */
	res = flex_smc(FLEX_TOS_MOVE, from, 0, 0);
	ret = flex_errno(res.a0);
	if (ret) {
		flex_count(FLEX_COUNT_MOVES_REFUSED, 1);
		return ret;
	}
	ret = flex_memory_protect_one(to);
	if (ret)
		return ret;
	*kept = true;
	res = flex_smc(FLEX_TOS_MOVE, from, to, 0);
	ret = flex_errno(res.a0);
	if (ret) {
		flex_frames_add_spare(to);
		flex_count(FLEX_COUNT_MOVES_REFUSED, 1);
		return ret;
	}
	/* A frame that cannot be had back now stays lent; the end of the program collects it. */
	ret = flex_frames_claim(from);
	if (ret)
		return ret;
	ret = flex_memory_recall_one(from);
	if (ret) {
		flex_frames_unclaim(from);
		return ret;
	}
	flex_count(FLEX_COUNT_MOVED, 1);
	flex_count(FLEX_COUNT_MOVE_NS, ktime_get_ns() - start);
	return 0;
}

/* ---- because Linux wants the page: both are locked by the caller ---- */

static bool isolate(struct page *page, isolate_mode_t mode)
{
	return flex_program_running() && flex_frames_is_lent_page(page);
}

static int migrate(struct page *to, struct page *from, enum migrate_mode mode)
{
	int ret = -EAGAIN;
	bool kept = false;

	/* Who holds it may be waiting for this page's lock. */
	if (!mutex_trylock(&flex_recall_lock))
		return -EAGAIN;
	if (flex_frames_is_lent_page(from)) {
		__SetPageMovable(to, &flex_movable_operations);
		flex_frames_lend_marked(range_of(to));
		ret = move(range_of(from), range_of(to), &kept);
		if (kept) {
			get_page(to); /* ours from here on; the caller gives up his reference */
		} else {
			flex_frames_unlend_marked(range_of(to));
			__ClearPageMovable(to);
		}
	}
	if (!ret) {
		flex_frames_forget_page(from);
		__ClearPageMovable(from);
		put_page(from);
		flex_count(FLEX_COUNT_MOVED_BY_LINUX, 1);
	} else if (kept) {
		/* Not -EAGAIN: Linux would try @from again with the same @to, which is protected now and may be the program's. */
		ret = -EBUSY;
	} else if (ret == -EBUSY || ret == -EPROTO) {
		ret = -EAGAIN;
	}
	mutex_unlock(&flex_recall_lock);
	return ret;
}

static void put_back(struct page *page)
{
	/* It never left: what is lent is known by its frame, not by a list. */
}

const struct movable_operations flex_movable_operations = {
	.isolate_page = isolate,
	.migrate_page = migrate,
	.putback_page = put_back,
};

/* ---- because somebody asks for it ---- */

static int move_one(void)
{
	flex_range_t from;
	struct page *to;
	bool kept;
	int ret;

	to = alloc_page(GFP_HIGHUSER_MOVABLE | __GFP_NOWARN | __GFP_NORETRY);
	if (!to)
		return -ENOMEM;
	flex_frames_lend(range_of(to));
	mutex_lock(&flex_recall_lock);
	ret = flex_frames_pick(get_random_long(), &from) ? move(from, range_of(to), &kept) : -ENOENT;
	mutex_unlock(&flex_recall_lock);
	if (!ret) {
		flex_frames_free(from);
	} else if (ret == -ENOENT || !kept) {
		flex_frames_unlend(range_of(to));
		__free_page(to);
	}
	return ret;
}

long flex_move_some(unsigned long count)
{
	unsigned long i;
	long moved = 0;
	int ret = 0;

	if (!flex_program_running())
		return -ESRCH;
	for (i = 0; i < count && !fatal_signal_pending(current); i++) {
		ret = move_one();
		if (!ret)
			moved++;
		else if (ret != -EBUSY && ret != -EPROTO)
			break;
		cond_resched();
	}
	return moved || !ret ? moved : ret;
}
