// SPDX-License-Identifier: GPL-2.0
/* Calls about the NPU in every state, and changes of hands in a row. */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/prandom.h>

#include "npu_raw.h"

struct caller {
	struct task_struct *task;
	u64 seed;
	unsigned int count;
	atomic_t *gives, *takes;
	s64 odd;	/* an answer that no state allows */
	bool recalled;	/* a recall of what is not held was accepted */
	bool ended;
};

static void call_around(struct caller *c)
{
	struct rnd_state random;
	unsigned int i;
	s64 status;

	prandom_seed_state(&random, c->seed);
	for (i = 0; i < c->count; i++) {
		switch (prandom_u32_state(&random) % 9) {
		case 0 ... 2:
			status = raw_give();
			if (status == FLEX_OK)
				atomic_inc(c->gives);
			break;
		case 3 ... 5:
			status = raw_take();
			if (status == FLEX_OK)
				atomic_inc(c->takes);
			break;
		case 6:
			status = raw_state() <= FLEX_NPU_RETURNED ? FLEX_OK : FLEX_ERR_DENIED;
			break;
		case 7:
			status = hvc(FLEX_HVC_NPU_INTERRUPT, prandom_u32_state(&random), 0).a0;
			break;
		default:
			status = smc(FLEX_TOS_NPU_RECALL, prandom_u32_state(&random), 0, 0).a0;
			c->recalled |= status == FLEX_OK;
		}
		if (status != FLEX_OK && status != FLEX_ERR_STATE && status != FLEX_ERR_BUSY)
			c->odd = status;
		cond_resched();
	}
	smp_store_release(&c->ended, true);
}

static int caller_thread(void *argument)
{
	call_around(argument);
	while (!kthread_should_stop())
		msleep(1);
	return 0;
}

static void calls(struct report *r, char *arguments)
{
	atomic_t gives = ATOMIC_INIT(0), takes = ATOMIC_INIT(0);
	u64 switches;
	struct caller here = { .seed = 1, .count = 400, .gives = &gives, .takes = &takes }, there;
	struct raw_npu n;

	if (arguments[0] && kstrtouint(arguments, 0, &here.count)) {
		failed(r, "COUNT is a number");
		return;
	}
	if (!raw_seize(r, &n))
		return;
	/* Only now: to seize it may have been a switch. */
	switches = monitor_stat(FLEX_STAT_NPU_SWITCHES);
	there = here;
	there.seed = 2;
	there.task = kthread_run(caller_thread, &there, "flexnpucalls");
	if (IS_ERR(there.task)) {
		failed(r, "no thread");
	} else {
		call_around(&here);
		while (!smp_load_acquire(&there.ended))
			msleep(1);
		kthread_stop(there.task);
		switches = monitor_stat(FLEX_STAT_NPU_SWITCHES) - switches;
		if (here.odd || there.odd)
			breach(r, "a call was answered with %lld", here.odd ? here.odd : there.odd);
		else if (here.recalled || there.recalled)
			breach(r, "a recall was accepted of what is not held");
		else if (atomic_read(&gives) - atomic_read(&takes) != (raw_state() == FLEX_NPU_GIVEN))
			breach(r, "%d gives and %d takes were accepted, and the state is %llu", atomic_read(&gives), atomic_read(&takes), raw_state());
		else if (switches != atomic_read(&gives) + atomic_read(&takes))
			breach(r, "%llu switches are counted, %d were accepted", switches, atomic_read(&gives) + atomic_read(&takes));
		else if ((raw_state() != FLEX_NPU_GIVEN || raw_taken(r)) && raw_works(r, &n))
			blocked(r, "%u calls from two cores, %llu switches: each from the state it needs", 2 * here.count, switches);
	}
	raw_yield(r, &n);
}

static void switches(struct report *r, char *arguments)
{
	unsigned int count = 100, i;
	struct raw_npu n;
	u64 start, ns = 0;
	u32 value;

	if (arguments[0] && kstrtouint(arguments, 0, &count)) {
		failed(r, "COUNT is a number");
		return;
	}
	if (!raw_seize(r, &n))
		return;
	for (i = 0; i < count && r->verdict == VERDICT_NONE; i++) {
		if (i % 16 == 0 && !raw_works(r, &n))
			break;
		start = ktime_get_ns();
		if (!raw_given(r))
			break;
		ns += ktime_get_ns() - start;
		if (raw_touches(n.base, &value))
			breach(r, "its registers answer in Flex mode, at switch %u", i);
		start = ktime_get_ns();
		if (!raw_taken(r))
			break;
		ns += ktime_get_ns() - start;
		if (raw_read(&n, FLEX_NPU_REG_ID) != FLEX_NPU_ID)
			failed(r, "it does not answer after switch %u", i);
		cond_resched();
	}
	if (r->verdict == VERDICT_NONE && raw_works(r, &n))
		blocked(r, "%u times there and back, %llu us a switch; it works", count, ns / 2000 / max(count, 1u));
	raw_yield(r, &n);
}

const struct attack npu_call_attacks[] = {
	{ "npu-calls", "[COUNT]: give, take and recall the NPU in every state, from two cores", calls },
	{ "npu-switches", "[COUNT]: the NPU there and back", switches },
	{}
};
