// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the trusted OS refuse what it would grant, by changing the driver's calls on their way (a probe on the SMC itself).
 *
 * late_moves=N: the next N exchanges of a frame fail after the new frame has been protected, as when the program gives the old
 * one back just then. Written to at any time; reading says how many are left. Unloading takes the probe away.
 */
#include <linux/atomic.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "abi/calls.h"

static atomic_t late_moves = ATOMIC_INIT(0);

static int late_moves_set(const char *text, const struct kernel_param *parameter)
{
	unsigned int count;
	int ret = kstrtouint(text, 0, &count);

	if (!ret)
		atomic_set(&late_moves, count);
	return ret;
}

static int late_moves_get(char *buffer, const struct kernel_param *parameter)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(&late_moves));
}

static const struct kernel_param_ops late_moves_ops = { .set = late_moves_set, .get = late_moves_get };
module_param_cb(late_moves, &late_moves_ops, NULL, 0600);

/* Arguments of the call are x0.. (SMCCC): for FLEX_TOS_MOVE the frame, then its place, 0 when it is only a question. */
static int before_smc(struct kprobe *probe, struct pt_regs *regs)
{
	if (regs->regs[0] == FLEX_TOS_MOVE && regs->regs[2] && atomic_dec_if_positive(&late_moves) >= 0)
		regs->regs[1] = regs->regs[2]; /* not adopted: FLEX_ERR_STATE, and nothing has changed */
	return 0;
}

static struct kprobe smc = { .symbol_name = "__arm_smccc_smc", .pre_handler = before_smc };

static int __init flexfault_init(void)
{
	return register_kprobe(&smc);
}

static void __exit flexfault_exit(void)
{
	unregister_kprobe(&smc);
}

module_init(flexfault_init);
module_exit(flexfault_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("FlexServe: faults for the tests of its driver");
