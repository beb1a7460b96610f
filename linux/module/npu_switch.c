// SPDX-License-Identifier: GPL-2.0
/*
 * The NPU changes hands: NPU_GIVE and NPU_RETURN of abi/rpc.h, and taking it back.
 *
 * Neither world starves. A job that waits for longer than npu_patience_ms while the NPU is away has it recalled. When it comes back and
 * jobs wait, the normal world keeps it until it pauses, for npu_slice_ms at most; only then the next NPU_GIVE is served.
 */
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>
#include <linux/suspend.h>
#include <linux/workqueue.h>

#include "npu.h"

static unsigned int npu_patience_ms = 200;
module_param(npu_patience_ms, uint, 0644);
MODULE_PARM_DESC(npu_patience_ms, "how long jobs wait for the NPU before it is recalled from the secure world");

static unsigned int npu_recall_ms = FLEX_NPU_RECALL_MS_MIN;
module_param(npu_recall_ms, uint, 0644);
MODULE_PARM_DESC(npu_recall_ms, "what a recall grants the secure world to end its job");

static unsigned int npu_slice_ms = 200;
module_param(npu_slice_ms, uint, 0644);
MODULE_PARM_DESC(npu_slice_ms, "how long jobs that had to wait keep the NPU at most before it is given again");

/* A program that is between two jobs for longer than this has paused. */
#define NPU_PAUSE_NS (4 * NSEC_PER_MSEC)
/* Longest wait for jobs to end that an NPU_GIVE can ask for. */
#define NPU_GIVE_MS_MAX 10000
#define NPU_REMOVE_TRIES 50

static bool suspending;			/* switch_lock */
static bool secure;			/* it is the secure world's, or about to be: so is its interrupt */
static unsigned long slice_end;		/* jiffies; only while in_slice */
static bool in_slice;			/* switch_lock */

static void recall_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(recall, recall_work);

/* ---- there and back ---- */

static int call_monitor(u64 call, bool reachable_after)
{
	struct arm_smccc_res res;
	u64 start;

	mutex_lock(&npu.reach_lock);
	start = ktime_get_ns();
	res = flex_hvc(call, 0, 0);
	npu.costs.call_ns += ktime_get_ns() - start;
	if ((s64)res.a0 == FLEX_OK)
		npu.reachable = reachable_after;
	npu.sequence_known = false;
	mutex_unlock(&npu.reach_lock);
	return flex_errno(res.a0);
}

int npu_give(unsigned int ms)
{
	u64 start = ktime_get_ns();
	enum npu_gate gate = READ_ONCE(npu.gate);
	int ret;

	if (!npu.vdev || gate == NPU_GATE_ABSENT)
		return -ENODEV;
	if ((gate != NPU_GATE_OPEN && gate != NPU_GATE_ASLEEP) || suspending)
		return -EBUSY;
	npu_gate_set(NPU_GATE_CLOSED);
	if (gate == NPU_GATE_OPEN) {
		wait_event_timeout(npu.wait, !READ_ONCE(npu.running), msecs_to_jiffies(ms));
		npu_take_down();
	}
	WRITE_ONCE(secure, true);
	ret = call_monitor(FLEX_HVC_NPU_GIVE, false);
	if (ret) {
		dev_warn_ratelimited(&npu.vdev->dev, "the monitor does not pass it on: %d\n", ret);
		WRITE_ONCE(secure, false);
		npu_set_up();
		return -EBUSY;
	}
	npu_gate_set(NPU_GATE_AWAY);
	npu.costs.gives++;
	npu.costs.give_ns += ktime_get_ns() - start;
	npu_recall_soon();
	return 0;
}

int npu_take(void)
{
	u64 start = ktime_get_ns();
	int ret;

	if (!npu.vdev || READ_ONCE(npu.gate) != NPU_GATE_AWAY)
		return -EPROTO;
	ret = call_monitor(FLEX_HVC_NPU_TAKE, true);
	if (ret)
		return ret;
	WRITE_ONCE(secure, false);
	cancel_delayed_work(&recall);
	in_slice = !list_empty_careful(&npu.waiting);
	slice_end = jiffies + msecs_to_jiffies(READ_ONCE(npu_slice_ms));
	/* Set up when it is used: often the secure world is the next one again. */
	if (!npu_gate_sleep())
		ret = npu_set_up();
	npu.costs.takes++;
	npu.costs.take_ns += ktime_get_ns() - start;
	return ret;
}

void npu_reset_for(struct npu_job *job)
{
	mutex_lock(&npu.switch_lock);
	/* Whoever else closed the gate ends the jobs, too. */
	if (READ_ONCE(npu.gate) == NPU_GATE_OPEN && READ_ONCE(npu.running) == job) {
		dev_warn(&npu.vdev->dev, "reset, because a job of a killed program does not end\n");
		npu.costs.resets++;
		npu_take_down();
		npu_set_up();
	}
	mutex_unlock(&npu.switch_lock);
}

/*
 * The device says that it ended a job, on a line that others may share. Nobody here can ask the device whether it was the one, nor make it
 * lower the line: the monitor does both.
 */
irqreturn_t npu_away_interrupt(int irq, void *data)
{
	struct arm_smccc_res res;

	if (!READ_ONCE(secure))
		return IRQ_NONE;
	res = flex_hvc(FLEX_HVC_NPU_INTERRUPT, 0, 0);
	if ((s64)res.a0 != FLEX_OK || !res.a1)
		return IRQ_NONE;
	npu.costs.forwarded++;
	flex_lend_npu_rings();
	return IRQ_HANDLED;
}

/* ---- recall ---- */

static int ask_for_recall(void)
{
	struct arm_smccc_res res = flex_smc(FLEX_TOS_NPU_RECALL, READ_ONCE(npu_recall_ms), 0, 0);

	flex_lend_kick(1);
	return flex_errno(res.a0);
}

void npu_recall_soon(void)
{
	if (READ_ONCE(npu.gate) == NPU_GATE_AWAY && !list_empty_careful(&npu.waiting))
		schedule_delayed_work(&recall, msecs_to_jiffies(READ_ONCE(npu_patience_ms)));
}

/*
 * Refused when it is not held: not yet, or not any more. Should nobody take hold of it, or tell that it was returned, it can be had
 * without asking (abi/npu.h: TAKE of GIVEN and RETURNED).
 */
static void recall_work(struct work_struct *work)
{
	static bool refused;

	if (READ_ONCE(npu.gate) != NPU_GATE_AWAY || list_empty_careful(&npu.waiting)) {
		refused = false;
		return;
	}
	if (!ask_for_recall()) {
		refused = false;
		spin_lock_irq(&npu.lock);
		npu.costs.recalls++;
		spin_unlock_irq(&npu.lock);
	} else if (refused) {
		mutex_lock(&npu.switch_lock);
		npu_take();
		mutex_unlock(&npu.switch_lock);
	} else {
		refused = true;
	}
	npu_recall_soon();
}

int npu_get_back(void)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < NPU_REMOVE_TRIES && READ_ONCE(npu.gate) == NPU_GATE_AWAY; i++) {
		ret = npu_take();
		if (!ret)
			break;
		if (!(i % 10))
			ask_for_recall();
		schedule_timeout_uninterruptible(msecs_to_jiffies(20));
	}
	return ret;
}

/* ---- RPCs: one at a time, in rpc.c's queue ---- */

static bool paused(void)
{
	bool idle;

	spin_lock_irq(&npu.lock);
	idle = !npu.running && list_empty(&npu.waiting) && ktime_get_ns() - npu.last_end_ns >= NPU_PAUSE_NS;
	spin_unlock_irq(&npu.lock);
	return idle;
}

/* Jobs that had to wait while it was away come first. */
static void let_normal_world_have_its_turn(void)
{
	while (READ_ONCE(in_slice) && time_before(jiffies, slice_end) && !paused())
		schedule_timeout_uninterruptible(1);
	WRITE_ONCE(in_slice, false);
}

s64 flex_npu_serve_give(struct flex_rpc_slot *slot)
{
	u64 ms = READ_ONCE(slot->arg[0]);
	int ret;

	let_normal_world_have_its_turn();
	mutex_lock(&npu.switch_lock);
	ret = npu_give(min_t(u64, ms, NPU_GIVE_MS_MAX));
	mutex_unlock(&npu.switch_lock);
	return ret;
}

s64 flex_npu_serve_return(void)
{
	int ret;

	mutex_lock(&npu.switch_lock);
	ret = npu_take();
	mutex_unlock(&npu.switch_lock);
	/* Taken already, by whoever was in a hurry. */
	return ret == -EPROTO && READ_ONCE(npu.gate) != NPU_GATE_AWAY ? 0 : ret;
}

void flex_npu_program_ended(void)
{
	mutex_lock(&npu.switch_lock);
	if (READ_ONCE(npu.gate) == NPU_GATE_AWAY && npu_take())
		pr_err("the program ended, but the NPU does not come back\n");
	mutex_unlock(&npu.switch_lock);
}

/* ---- suspend ---- */

/* The core would touch the registers of a device that is away: the system does not sleep then. */
static int pm_event(struct notifier_block *block, unsigned long event, void *data)
{
	int ret = NOTIFY_DONE;

	mutex_lock(&npu.switch_lock);
	switch (event) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		if (READ_ONCE(npu.gate) == NPU_GATE_AWAY)
			ret = notifier_from_errno(-EBUSY);
		else
			suspending = true;
		break;
	default:
		suspending = false;
	}
	mutex_unlock(&npu.switch_lock);
	return ret;
}

static struct notifier_block pm_notifier = { .notifier_call = pm_event };

int npu_switch_init(void)
{
	return register_pm_notifier(&pm_notifier);
}

void npu_switch_exit(void)
{
	unregister_pm_notifier(&pm_notifier);
	cancel_delayed_work_sync(&recall);
}
