// SPDX-License-Identifier: GPL-2.0
/*
 * Asking the framework for memory: a shrinker for when Linux is short, and flex_reclaim_ask() for an administrator.
 * Asking is asynchronous: the frames come as GIVE_BACK when the framework has chosen, zeroed and released them.
 */
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/spinlock.h>

#include "flexserve.h"

/* An ask that brought nothing for this long is taken as refused; for as long again nothing is asked on Linux' own account. */
#define FLEX_ASK_PATIENCE (2 * HZ)
/* Models are dear to read again: 8 times as dear as the shrinker's usual object. */
#define FLEX_SEEKS (8 * DEFAULT_SEEKS)
#define FLEX_SHRINK_BATCH 512

static struct shrinker *shrinker;
static DEFINE_SPINLOCK(ask_lock);
static unsigned long asked_frames;	/* still to come */
static u64 asked_since;			/* ns: when the first of them was asked for */
static unsigned long last_news;		/* jiffies of the last ask or frame that came */
static unsigned long last_ask;		/* jiffies */
static u64 asked_bytes_ever;

u64 flex_reclaim_asked_bytes(void)
{
	return READ_ONCE(asked_bytes_ever);
}

static int ask(unsigned long frames)
{
	u64 start = ktime_get_ns();
	struct arm_smccc_res res;
	unsigned long flags;

	if (!flex_program_running())
		return -ESRCH;
	res = flex_smc(FLEX_TOS_RECLAIM, (u64)frames << FLEX_FRAME_SHIFT, 0, 0);
	if ((s64)res.a0 < 0)
		return flex_errno(res.a0);
	spin_lock_irqsave(&ask_lock, flags);
	/* What never came of an earlier ask is not this one's; what comes meanwhile, for whatever reason, keeps none alive. */
	if (jiffies - last_ask > FLEX_ASK_PATIENCE)
		asked_frames = 0;
	last_ask = jiffies;
	if (!asked_frames)
		asked_since = start;
	asked_frames += frames;
	asked_bytes_ever += (u64)frames << FLEX_FRAME_SHIFT;
	last_news = jiffies;
	spin_unlock_irqrestore(&ask_lock, flags);
	flex_lend_kick(1);
	return 0;
}

int flex_reclaim_ask(u64 bytes)
{
	u64 frames = DIV_ROUND_UP_ULL(bytes, FLEX_FRAME_SIZE);

	if (!frames || frames > totalram_pages())
		return -EINVAL;
	return ask(frames);
}

void flex_reclaim_note(unsigned long frames)
{
	unsigned long flags;

	spin_lock_irqsave(&ask_lock, flags);
	if (asked_frames && asked_frames <= frames) {
		flex_count(FLEX_COUNT_ASKS_MET, 1);
		flex_count(FLEX_COUNT_ASKED_NS, ktime_get_ns() - asked_since);
	}
	asked_frames -= min(asked_frames, frames);
	last_news = jiffies;
	spin_unlock_irqrestore(&ask_lock, flags);
}

static unsigned long reclaim_count(struct shrinker *s, struct shrink_control *control)
{
	unsigned long lent = flex_frames_lent() - flex_frames_spare();
	unsigned long count, flags, quiet;

	if (!flex_program_running())
		return SHRINK_EMPTY;
	spin_lock_irqsave(&ask_lock, flags);
	quiet = jiffies - last_news;
	if (asked_frames && quiet > 2 * FLEX_ASK_PATIENCE)
		asked_frames = 0;
	if (asked_frames && quiet > FLEX_ASK_PATIENCE)
		count = 0;
	else
		count = lent - min(lent, asked_frames);
	spin_unlock_irqrestore(&ask_lock, flags);
	return count ? count : SHRINK_EMPTY;
}

static unsigned long reclaim_scan(struct shrinker *s, struct shrink_control *control)
{
	/* Frames on their way count as progress, or Linux would kill processes while they come. */
	return ask(control->nr_to_scan) ? SHRINK_STOP : control->nr_to_scan;
}

int flex_reclaim_init(void)
{
	shrinker = shrinker_alloc(0, "flexserve");
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = reclaim_count;
	shrinker->scan_objects = reclaim_scan;
	shrinker->seeks = FLEX_SEEKS;
	shrinker->batch = FLEX_SHRINK_BATCH;
	shrinker_register(shrinker);
	return 0;
}

void flex_reclaim_exit(void)
{
	shrinker_free(shrinker);
}
