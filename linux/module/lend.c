// SPDX-License-Identifier: GPL-2.0
/*
 * Lending: one kernel thread a core calls FLEX_TOS_LEND in a loop, so the secure world runs on Linux' time and Linux' scheduler
 * decides how much of it. The core comes back at every interrupt that Linux has pending.
 */
#include <linux/bitops.h>
#include <linux/cpu.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/smpboot.h>
#include <linux/wait.h>

#include <clocksource/arm_arch_timer.h>

#include "flexserve.h"

static unsigned int cores;
module_param(cores, uint, 0444);
MODULE_PARM_DESC(cores, "number of cores that lend themselves to the secure world, from core 0 up (0: all)");

struct flex_lender {
	wait_queue_head_t wait;
	bool sleeping;
	bool kicked;
};

static DEFINE_PER_CPU(struct flex_lender, flex_lenders);
static DEFINE_PER_CPU(struct task_struct *, flex_lender_task);

/* Bit per slot: answers that the secure world has not been told of. */
static atomic_t completed = ATOMIC_INIT(0);
/* The NPU's interrupt, of which it has not been told either. */
static atomic_t npu_rings = ATOMIC_INIT(0);
/* Grows at every kick: a lender that got IDLE for an older state of the world must not go to sleep on it. */
static atomic_t kicks = ATOMIC_INIT(0);

static_assert(FLEX_RPC_SLOTS <= 32, "completions are kept in one 32-bit word");

static bool may_lend(unsigned int cpu)
{
	return !cores || cpu < cores;
}

unsigned int flex_lend_cores(void)
{
	unsigned int cpu, count = 0;

	for_each_online_cpu(cpu)
		count += may_lend(cpu);
	return count;
}

static bool wake_lender(struct flex_lender *lender)
{
	if (!READ_ONCE(lender->sleeping) || xchg(&lender->kicked, true))
		return false;
	wake_up(&lender->wait);
	return true;
}

void flex_lend_kick(unsigned int count)
{
	unsigned int cpu, here = raw_smp_processor_id();

	/* Ordered before the reads of `sleeping`; pairs with the full barrier in sleep_until_news(). */
	atomic_inc(&kicks);
	smp_mb__after_atomic();
	if (count && wake_lender(per_cpu_ptr(&flex_lenders, here)))
		count--;
	for_each_online_cpu(cpu) {
		if (!count)
			return;
		if (cpu != here && wake_lender(per_cpu_ptr(&flex_lenders, cpu)))
			count--;
	}
}

void flex_lend_complete(unsigned int slot)
{
	atomic_or(BIT(slot), &completed);
	flex_lend_kick(1);
}

void flex_lend_npu_rings(void)
{
	atomic_set(&npu_rings, 1);
	flex_lend_kick(1);
}

void flex_lend_forget_completions(void)
{
	atomic_set(&completed, 0);
}

static bool has_news(struct flex_lender *lender, int seen)
{
	return READ_ONCE(lender->kicked) || atomic_read(&kicks) != seen || atomic_read(&completed) ||
	       atomic_read(&npu_rings) ||
	       !flex_program_running() || kthread_should_park() || kthread_should_stop();
}

static void sleep_until_news(struct flex_lender *lender, int seen, u64 ns)
{
	ktime_t timeout = ns > KTIME_MAX ? KTIME_MAX : (ktime_t)ns;

	WRITE_ONCE(lender->kicked, false);
	smp_store_mb(lender->sleeping, true);
	wait_event_interruptible_hrtimeout(lender->wait, has_news(lender, seen), timeout);
	WRITE_ONCE(lender->sleeping, false);
}

/*
 * EL3 switches the timers off with the world, so the trusted OS is told when the next tick is due. With interrupts off, since
 * a handler might set the timer to an earlier time; one that is pending ends the call at once and is taken afterwards.
 */
static struct arm_smccc_res lend_core(u32 done, bool rings)
{
	struct arm_smccc_res res;
	u64 expiry = U64_MAX;

	local_irq_disable();
	if ((read_sysreg(cntv_ctl_el0) & (ARCH_TIMER_CTRL_ENABLE | ARCH_TIMER_CTRL_IT_MASK)) == ARCH_TIMER_CTRL_ENABLE)
		expiry = read_sysreg(cntv_cval_el0);
	res = flex_smc(FLEX_TOS_LEND, done, expiry, rings ? FLEX_LEND_NPU : 0);
	local_irq_enable();
	return res;
}

static void lend_once(struct flex_lender *lender)
{
	int seen = atomic_read(&kicks);
	u32 done = atomic_xchg(&completed, 0);
	bool rings = atomic_xchg(&npu_rings, 0);
	struct arm_smccc_res res = lend_core(done, rings);

	if ((s64)res.a0 < 0) {
		atomic_or(done, &completed);
		if (rings)
			atomic_set(&npu_rings, 1);
		if ((s64)res.a0 != FLEX_ERR_BUSY)
			pr_err_ratelimited("core %u: the trusted OS refuses it: %lld\n",
					   raw_smp_processor_id(), (s64)res.a0);
		sleep_until_news(lender, atomic_read(&kicks), NSEC_PER_MSEC);
		return;
	}
	if (res.a1)
		flex_rpc_posted(res.a1);
	if (res.a2)
		flex_lend_kick(min_t(u64, res.a2, nr_cpu_ids));
	switch (res.a0) {
	case FLEX_LEND_INTERRUPTED:
		cond_resched();
		break;
	case FLEX_LEND_IDLE:
		sleep_until_news(lender, seen, res.a3);
		break;
	case FLEX_LEND_WORK:
		cond_resched();
		break;
	case FLEX_LEND_EXITED:
		flex_program_exited(res.a3);
		break;
	default:
		pr_err_ratelimited("the trusted OS returned an unknown reason %llu\n", (u64)res.a0);
		sleep_until_news(lender, atomic_read(&kicks), NSEC_PER_MSEC);
	}
}

/* smpboot calls this with preemption off and sleeps until the next wake-up when it says no. */
static int lender_should_run(unsigned int cpu)
{
	return flex_program_running() && may_lend(cpu);
}

static void lender_run(unsigned int cpu)
{
	struct flex_lender *lender = per_cpu_ptr(&flex_lenders, cpu);

	while (flex_program_running() && !kthread_should_park() && !kthread_should_stop())
		lend_once(lender);
}

static struct smp_hotplug_thread lender_threads = {
	.store = &flex_lender_task,
	.thread_should_run = lender_should_run,
	.thread_fn = lender_run,
	.thread_comm = "flexlend/%u",
};

/* The program's state changed: all lenders look again. */
void flex_lend_state_changed(void)
{
	unsigned int cpu;

	atomic_inc(&kicks);
	smp_mb__after_atomic();
	for_each_online_cpu(cpu) {
		struct task_struct *task = per_cpu(flex_lender_task, cpu);

		if (task)
			wake_up_process(task);
	}
}

int flex_lend_init(void)
{
	unsigned int cpu;

	for_each_possible_cpu(cpu)
		init_waitqueue_head(&per_cpu_ptr(&flex_lenders, cpu)->wait);
	return smpboot_register_percpu_thread(&lender_threads);
}

void flex_lend_exit(void)
{
	smpboot_unregister_percpu_thread(&lender_threads);
}
