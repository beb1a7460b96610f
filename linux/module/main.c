// SPDX-License-Identifier: GPL-2.0
/*
 * flexserve.ko: Linux manages the memory and the time of the secure world without access to either's content.
 *
 * This file finds the monitor and the trusted OS and keeps the program's life:
 * STOPPED -> RUNNING (START) -> STOPPING (STOP asked; cores are still lent) -> COLLECTING (EXITED seen) -> STOPPED.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>

#include <asm/cpufeature.h>
#include <asm/virt.h>

#include "flexserve.h"

static enum flex_program_state state = FLEX_PROGRAM_STOPPED;
static DEFINE_MUTEX(state_lock);
static u64 last_exit_code;
static unsigned int program_number;
/* A running program and frames still lent keep the module: its text and bitmaps are what brings them back. */
static bool holds_module;

static void exit_work(struct work_struct *work);
static DECLARE_WORK(program_exit_work, exit_work);

bool flex_program_running(void)
{
	enum flex_program_state now = READ_ONCE(state);

	return now == FLEX_PROGRAM_RUNNING || now == FLEX_PROGRAM_STOPPING;
}

const char *flex_program_state_name(void)
{
	switch (READ_ONCE(state)) {
	case FLEX_PROGRAM_RUNNING:
		return "running";
	case FLEX_PROGRAM_STOPPING:
	case FLEX_PROGRAM_COLLECTING:
		return "stopping";
	default:
		return "stopped";
	}
}

/* With state_lock held. */
static void hold_module(void)
{
	bool wanted = state != FLEX_PROGRAM_STOPPED || flex_frames_lent();

	if (wanted == holds_module)
		return;
	holds_module = wanted;
	if (wanted)
		__module_get(THIS_MODULE);
	else
		module_put(THIS_MODULE);
}

int flex_program_start(void)
{
	struct arm_smccc_res res;
	int ret = -EBUSY;

	mutex_lock(&state_lock);
	if (state != FLEX_PROGRAM_STOPPED || !flex_rpc_idle())
		goto out;
	flex_lend_forget_completions();
	flex_rpc_program_started();
	res = flex_smc(FLEX_TOS_START, flex_rpc_area(), FLEX_RPC_AREA_BYTES, flex_lend_cores());
	ret = flex_errno(res.a0);
	if (ret) {
		pr_err("the trusted OS does not start the program: %lld\n", (s64)res.a0);
		goto out;
	}
	WRITE_ONCE(state, FLEX_PROGRAM_RUNNING);
	/* Positive for as long as anybody may count. */
	program_number = program_number % INT_MAX + 1;
	ret = program_number;
	hold_module();
	flex_lend_state_changed();
out:
	mutex_unlock(&state_lock);
	return ret;
}

int flex_program_stop(void)
{
	struct arm_smccc_res res;
	int ret = -ESRCH;

	mutex_lock(&state_lock);
	if (state == FLEX_PROGRAM_RUNNING) {
		res = flex_smc(FLEX_TOS_STOP, 0, 0, 0);
		ret = flex_errno(res.a0);
		if (!ret)
			WRITE_ONCE(state, FLEX_PROGRAM_STOPPING);
		flex_lend_state_changed();
	} else if (state == FLEX_PROGRAM_STOPPING) {
		ret = 0;
	}
	mutex_unlock(&state_lock);
	return ret;
}

void flex_program_exited(u64 code)
{
	mutex_lock(&state_lock);
	if (flex_program_running()) {
		WRITE_ONCE(state, FLEX_PROGRAM_COLLECTING);
		last_exit_code = code;
		schedule_work(&program_exit_work);
		flex_lend_state_changed();
	}
	mutex_unlock(&state_lock);
}

static void exit_work(struct work_struct *work)
{
	flex_rpc_flush();
	flex_npu_program_ended();
	flex_memory_collect();
	mutex_lock(&state_lock);
	WRITE_ONCE(state, FLEX_PROGRAM_STOPPED);
	if (flex_frames_lent())
		pr_warn("the program ended (%llu) and %lu frames did not come back\n", last_exit_code, flex_frames_lent());
	else
		pr_info("the program ended (%llu), all frames are back\n", last_exit_code);
	flex_rpc_program_exited(program_number, last_exit_code);
	hold_module();
	mutex_unlock(&state_lock);
}

struct miscdevice flex_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "flexserve",
	.fops = &flex_fops,
	.groups = flex_attribute_groups,
	.mode = 0600,
};

/* HVC is undefined, and would oops, where EL2 does not exist and firmware does not say that it takes HVCs. */
static bool hvc_exists(void)
{
	u64 pfr0 = read_sanitised_ftr_reg(SYS_ID_AA64PFR0_EL1);

	if (is_kernel_in_hyp_mode())
		return false;
	return cpuid_feature_extract_unsigned_field(pfr0, ID_AA64PFR0_EL1_EL2_SHIFT) ||
	       arm_smccc_1_1_get_conduit() == SMCCC_CONDUIT_HVC;
}

static int find_secure_world(u64 *dram_base, u64 *dram_bytes)
{
	struct arm_smccc_res res;

	if (!hvc_exists()) {
		pr_err("no hypervisor below this kernel: FlexServe needs Flex-Monitor at EL2\n");
		return -ENODEV;
	}
	res = flex_hvc(FLEX_HVC_VERSION, 0, 0);
	if ((s64)res.a0 != FLEX_OK || res.a1 != FLEX_ABI_VERSION) {
		pr_err("no Flex-Monitor of ABI version %llu below this kernel (answer %lld, %llu)\n", FLEX_ABI_VERSION,
		       (s64)res.a0, (u64)res.a1);
		return -ENODEV;
	}
	*dram_base = res.a2;
	*dram_bytes = res.a3;
	if (!*dram_bytes || !PAGE_ALIGNED(*dram_base | *dram_bytes) || *dram_base + *dram_bytes < *dram_base) {
		pr_err("Flex-Monitor's frame table is odd: base %#llx, %#llx bytes\n", *dram_base, *dram_bytes);
		return -EPROTO;
	}
	res = flex_smc(FLEX_TOS_VERSION, 0, 0, 0);
	if ((s64)res.a0 != FLEX_OK || res.a1 != FLEX_ABI_VERSION) {
		pr_err("no trusted OS of ABI version %llu (answer %lld, %llu)\n", FLEX_ABI_VERSION, (s64)res.a0, (u64)res.a1);
		return -ENODEV;
	}
	return 0;
}

static int __init flexserve_init(void)
{
	u64 dram_base, dram_bytes;
	int ret = find_secure_world(&dram_base, &dram_bytes);

	if (ret)
		return ret;
	ret = flex_frames_init(dram_base, dram_bytes);
	if (ret)
		return ret;
	ret = flex_memory_init();
	if (ret)
		goto no_memory;
	ret = flex_rpc_init();
	if (ret)
		goto no_rpc;
	ret = flex_lend_init();
	if (ret)
		goto no_lend;
	ret = flex_reclaim_init();
	if (ret)
		goto no_reclaim;
	ret = npu_init();
	if (ret)
		goto no_npu;
	ret = misc_register(&flex_misc);
	if (ret)
		goto no_misc;
	pr_info("monitor and trusted OS found, %llu MiB of DRAM at %#llx, %u cores lend\n", dram_bytes >> 20, dram_base,
		flex_lend_cores());
	return 0;

no_misc:
	npu_exit();
no_npu:
	flex_reclaim_exit();
no_reclaim:
	flex_lend_exit();
no_lend:
	flex_rpc_exit();
no_rpc:
	flex_memory_exit();
no_memory:
	flex_frames_exit();
	return ret;
}

/* Only reached when no program runs and nothing is lent: see hold_module(). */
static void __exit flexserve_exit(void)
{
	misc_deregister(&flex_misc);
	flush_work(&program_exit_work);
	npu_exit();
	flex_reclaim_exit();
	flex_lend_exit();
	flex_rpc_exit();
	flex_memory_exit();
	flex_frames_exit();
}

module_init(flexserve_init);
module_exit(flexserve_exit);

MODULE_DESCRIPTION("FlexServe: lends memory and cores to the secure world");
MODULE_LICENSE("GPL");
