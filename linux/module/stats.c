// SPDX-License-Identifier: GPL-2.0
/* /sys/class/misc/flexserve/: counters of the monitor and of the trusted OS, what is lent, and the knobs. */
#include <linux/device.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/sysfs.h>

#include "flexserve.h"

struct stat_attribute {
	struct device_attribute attribute;
	unsigned int stat;
};

static const struct stat_attribute *stat_of(struct device_attribute *attribute)
{
	return container_of_const(attribute, struct stat_attribute, attribute);
}

static ssize_t monitor_stat_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	struct arm_smccc_res res = flex_hvc(FLEX_HVC_STAT, stat_of(attribute)->stat, 0);

	return (s64)res.a0 < 0 ? flex_errno(res.a0) : sysfs_emit(buffer, "%llu\n", (u64)res.a1);
}

static ssize_t tos_stat_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	struct arm_smccc_res res = flex_smc(FLEX_TOS_STAT, stat_of(attribute)->stat, 0, 0);

	return (s64)res.a0 < 0 ? flex_errno(res.a0) : sysfs_emit(buffer, "%llu\n", (u64)res.a1);
}

#define FLEX_STAT_ATTRIBUTE(_group, _name, _stat)                                                  \
	static struct stat_attribute _group##_##_name = {                                          \
		.attribute = __ATTR(_name, 0444, _group##_stat_show, NULL),                        \
		.stat = (_stat),                                                                   \
	}

FLEX_STAT_ATTRIBUTE(monitor, frames_reserved, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_RESERVED);
FLEX_STAT_ATTRIBUTE(monitor, frames_normal, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_NORMAL);
FLEX_STAT_ATTRIBUTE(monitor, frames_shared, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_SHARED);
FLEX_STAT_ATTRIBUTE(monitor, frames_claimed, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_CLAIMED);
FLEX_STAT_ATTRIBUTE(monitor, frames_flex, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_FLEX);
FLEX_STAT_ATTRIBUTE(monitor, frames_adopted, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_ADOPTED);
FLEX_STAT_ATTRIBUTE(monitor, frames_released, FLEX_STAT_FRAMES_BASE + FLEX_FRAME_RELEASED);
FLEX_STAT_ATTRIBUTE(monitor, protect_calls, FLEX_STAT_PROTECT_CALLS);
FLEX_STAT_ATTRIBUTE(monitor, recall_calls, FLEX_STAT_RECALL_CALLS);
FLEX_STAT_ATTRIBUTE(monitor, frames_protected, FLEX_STAT_FRAMES_PROTECTED);
FLEX_STAT_ATTRIBUTE(monitor, frames_recalled, FLEX_STAT_FRAMES_RECALLED);
FLEX_STAT_ATTRIBUTE(monitor, aborts_read, FLEX_STAT_ABORTS_READ);
FLEX_STAT_ATTRIBUTE(monitor, aborts_write, FLEX_STAT_ABORTS_WRITE);
FLEX_STAT_ATTRIBUTE(monitor, aborts_fetch, FLEX_STAT_ABORTS_FETCH);
FLEX_STAT_ATTRIBUTE(monitor, dma_faults, FLEX_STAT_DMA_FAULTS);
FLEX_STAT_ATTRIBUTE(monitor, calls_denied, FLEX_STAT_CALLS_DENIED);
FLEX_STAT_ATTRIBUTE(monitor, lists_refused, FLEX_STAT_LISTS_REFUSED);
FLEX_STAT_ATTRIBUTE(monitor, last_abort_ipa, FLEX_STAT_LAST_ABORT_IPA);
FLEX_STAT_ATTRIBUTE(monitor, registers_denied, FLEX_STAT_REGISTERS_DENIED);
FLEX_STAT_ATTRIBUTE(monitor, stage2_tables, FLEX_STAT_STAGE2_TABLES);
FLEX_STAT_ATTRIBUTE(monitor, monitor_bytes, FLEX_STAT_MONITOR_BYTES);
FLEX_STAT_ATTRIBUTE(monitor, npu_switches, FLEX_STAT_NPU_SWITCHES);
FLEX_STAT_ATTRIBUTE(monitor, npu_denied, FLEX_STAT_NPU_DENIED);

static struct attribute *monitor_attributes[] = {
	&monitor_frames_reserved.attribute.attr,  &monitor_frames_normal.attribute.attr,
	&monitor_frames_shared.attribute.attr,	  &monitor_frames_claimed.attribute.attr,
	&monitor_frames_flex.attribute.attr,	  &monitor_frames_adopted.attribute.attr,
	&monitor_frames_released.attribute.attr,  &monitor_protect_calls.attribute.attr,
	&monitor_recall_calls.attribute.attr,	  &monitor_frames_protected.attribute.attr,
	&monitor_frames_recalled.attribute.attr,  &monitor_aborts_read.attribute.attr,
	&monitor_aborts_write.attribute.attr,	  &monitor_aborts_fetch.attribute.attr,
	&monitor_dma_faults.attribute.attr,	  &monitor_calls_denied.attribute.attr,
	&monitor_lists_refused.attribute.attr,	  &monitor_last_abort_ipa.attribute.attr,
	&monitor_registers_denied.attribute.attr, &monitor_stage2_tables.attribute.attr,
	&monitor_monitor_bytes.attribute.attr,	  &monitor_npu_switches.attribute.attr,
	&monitor_npu_denied.attribute.attr,	  NULL,
};

FLEX_STAT_ATTRIBUTE(tos, lends, FLEX_TOS_STAT_LENDS);
FLEX_STAT_ATTRIBUTE(tos, interrupted, FLEX_TOS_STAT_INTERRUPTED);
FLEX_STAT_ATTRIBUTE(tos, rpcs, FLEX_TOS_STAT_RPCS);
FLEX_STAT_ATTRIBUTE(tos, rpc_answers_refused, FLEX_TOS_STAT_RPC_ANSWERS_REFUSED);
FLEX_STAT_ATTRIBUTE(tos, frames_adopted, FLEX_TOS_STAT_FRAMES_ADOPTED);
FLEX_STAT_ATTRIBUTE(tos, frames_released, FLEX_TOS_STAT_FRAMES_RELEASED);
FLEX_STAT_ATTRIBUTE(tos, adoptions_refused, FLEX_TOS_STAT_ADOPTIONS_REFUSED);
FLEX_STAT_ATTRIBUTE(tos, pool_frames, FLEX_TOS_STAT_POOL_FRAMES);
FLEX_STAT_ATTRIBUTE(tos, syscalls, FLEX_TOS_STAT_SYSCALLS);
FLEX_STAT_ATTRIBUTE(tos, page_faults, FLEX_TOS_STAT_PAGE_FAULTS);
FLEX_STAT_ATTRIBUTE(tos, threads, FLEX_TOS_STAT_THREADS);
FLEX_STAT_ATTRIBUTE(tos, switch_max_ns, FLEX_TOS_STAT_SWITCH_MAX_NS);
FLEX_STAT_ATTRIBUTE(tos, program_starts, FLEX_TOS_STAT_PROGRAM_STARTS);
FLEX_STAT_ATTRIBUTE(tos, switches, FLEX_TOS_STAT_SWITCHES);
FLEX_STAT_ATTRIBUTE(tos, switch_total_ns, FLEX_TOS_STAT_SWITCH_TOTAL_NS);
FLEX_STAT_ATTRIBUTE(tos, switches_over_100us, FLEX_TOS_STAT_SWITCHES_OVER_100US);
FLEX_STAT_ATTRIBUTE(tos, npu_held, FLEX_TOS_STAT_NPU_HELD);
FLEX_STAT_ATTRIBUTE(tos, npu_revoked, FLEX_TOS_STAT_NPU_REVOKED);
FLEX_STAT_ATTRIBUTE(tos, frames_moved, FLEX_TOS_STAT_FRAMES_MOVED);
FLEX_STAT_ATTRIBUTE(tos, npu_waits, FLEX_TOS_STAT_NPU_WAITS);
FLEX_STAT_ATTRIBUTE(tos, npu_interrupts, FLEX_TOS_STAT_NPU_INTERRUPTS);

static struct attribute *tos_attributes[] = {
	&tos_lends.attribute.attr,	     &tos_interrupted.attribute.attr,
	&tos_rpcs.attribute.attr,	     &tos_rpc_answers_refused.attribute.attr,
	&tos_frames_adopted.attribute.attr,  &tos_frames_released.attribute.attr,
	&tos_adoptions_refused.attribute.attr, &tos_pool_frames.attribute.attr,
	&tos_syscalls.attribute.attr,	     &tos_page_faults.attribute.attr,
	&tos_threads.attribute.attr,	     &tos_switch_max_ns.attribute.attr,
	&tos_program_starts.attribute.attr,  &tos_switches.attribute.attr,
	&tos_switch_total_ns.attribute.attr, &tos_switches_over_100us.attribute.attr,
	&tos_npu_held.attribute.attr,	     &tos_npu_revoked.attribute.attr,
	&tos_frames_moved.attribute.attr,    &tos_npu_waits.attribute.attr,
	&tos_npu_interrupts.attribute.attr,  NULL,
};

static atomic64_t counters[FLEX_COUNTERS];

void flex_count(enum flex_counter counter, u64 value)
{
	atomic64_add(value, &counters[counter]);
}

static ssize_t cost_stat_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%llu\n", (u64)atomic64_read(&counters[stat_of(attribute)->stat]));
}

FLEX_STAT_ATTRIBUTE(cost, alloc_ns, FLEX_COUNT_ALLOC_NS);
FLEX_STAT_ATTRIBUTE(cost, protect_ns, FLEX_COUNT_PROTECT_NS);
FLEX_STAT_ATTRIBUTE(cost, protect_lists, FLEX_COUNT_PROTECT_LISTS);
FLEX_STAT_ATTRIBUTE(cost, recall_ns, FLEX_COUNT_RECALL_NS);
FLEX_STAT_ATTRIBUTE(cost, recall_lists, FLEX_COUNT_RECALL_LISTS);
FLEX_STAT_ATTRIBUTE(cost, free_ns, FLEX_COUNT_FREE_NS);
FLEX_STAT_ATTRIBUTE(cost, read_ns, FLEX_COUNT_READ_NS);
FLEX_STAT_ATTRIBUTE(cost, read_bytes, FLEX_COUNT_READ_BYTES);
FLEX_STAT_ATTRIBUTE(cost, moved_frames, FLEX_COUNT_MOVED);
FLEX_STAT_ATTRIBUTE(cost, moved_by_linux, FLEX_COUNT_MOVED_BY_LINUX);
FLEX_STAT_ATTRIBUTE(cost, moves_refused, FLEX_COUNT_MOVES_REFUSED);
FLEX_STAT_ATTRIBUTE(cost, move_ns, FLEX_COUNT_MOVE_NS);
FLEX_STAT_ATTRIBUTE(cost, asks_met, FLEX_COUNT_ASKS_MET);
FLEX_STAT_ATTRIBUTE(cost, asked_ns, FLEX_COUNT_ASKED_NS);

#define FLEX_EMPTY_CALLS 101

static int compare_u64(const void *a, const void *b)
{
	return *(const u64 *)a < *(const u64 *)b ? -1 : *(const u64 *)a > *(const u64 *)b;
}

/* Reading these makes calls that do nothing, to the monitor and to the trusted OS, and tells the median of their times. */
static ssize_t empty_call_show(char *buffer, bool secure)
{
	u64 *times = kmalloc_array(FLEX_EMPTY_CALLS, sizeof(*times), GFP_KERNEL);
	ssize_t length;
	int i;

	if (!times)
		return -ENOMEM;
	for (i = 0; i < FLEX_EMPTY_CALLS; i++) {
		u64 start = ktime_get_ns();

		if (secure)
			flex_smc(FLEX_TOS_VERSION, 0, 0, 0);
		else
			flex_hvc(FLEX_HVC_VERSION, 0, 0);
		times[i] = ktime_get_ns() - start;
		cond_resched();
	}
	sort(times, FLEX_EMPTY_CALLS, sizeof(*times), compare_u64, NULL);
	length = sysfs_emit(buffer, "%llu\n", times[FLEX_EMPTY_CALLS / 2]);
	kfree(times);
	return length;
}

static ssize_t empty_monitor_call_ns_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return empty_call_show(buffer, false);
}
static DEVICE_ATTR_ADMIN_RO(empty_monitor_call_ns);

static ssize_t empty_secure_call_ns_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return empty_call_show(buffer, true);
}
static DEVICE_ATTR_ADMIN_RO(empty_secure_call_ns);

static struct attribute *cost_attributes[] = {
	&cost_alloc_ns.attribute.attr,	   &cost_protect_ns.attribute.attr,   &cost_protect_lists.attribute.attr,
	&cost_recall_ns.attribute.attr,	   &cost_recall_lists.attribute.attr, &cost_free_ns.attribute.attr,
	&cost_read_ns.attribute.attr,	   &cost_read_bytes.attribute.attr,   &dev_attr_empty_monitor_call_ns.attr,
	&dev_attr_empty_secure_call_ns.attr, &cost_moved_frames.attribute.attr, &cost_moved_by_linux.attribute.attr,
	&cost_moves_refused.attribute.attr, &cost_move_ns.attribute.attr,
	&cost_asks_met.attribute.attr,	   &cost_asked_ns.attribute.attr, NULL,
};

/* Bytes that the secure world has at the moment. */
static ssize_t lent_bytes_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%lu\n", flex_frames_lent() << FLEX_FRAME_SHIFT);
}
static DEVICE_ATTR_RO(lent_bytes);

/* Bytes that are protected but that no program has taken. */
static ssize_t spare_bytes_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%lu\n", flex_frames_spare() << FLEX_FRAME_SHIFT);
}
static DEVICE_ATTR_RO(spare_bytes);

/* Read: bytes asked back since the module was loaded. Write: ask for that many bytes now; they come when the framework agrees. */
static ssize_t reclaim_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%llu\n", flex_reclaim_asked_bytes());
}

static ssize_t reclaim_store(struct device *device, struct device_attribute *attribute, const char *buffer, size_t count)
{
	u64 bytes;
	int ret = kstrtou64(buffer, 0, &bytes);

	if (!ret)
		ret = flex_reclaim_ask(bytes);
	return ret ? ret : count;
}
static DEVICE_ATTR_RW(reclaim);

/* Read: "stopped", "running" or "stopping". Write "stop": ends the program, all its memory comes back; "start": as the agent does. */
static ssize_t program_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%s\n", flex_program_state_name());
}

static ssize_t program_store(struct device *device, struct device_attribute *attribute, const char *buffer, size_t count)
{
	int ret = -EINVAL;

	if (sysfs_streq(buffer, "stop"))
		ret = flex_program_stop();
	else if (sysfs_streq(buffer, "start"))
		ret = min(flex_program_start(), 0);
	return ret ? ret : count;
}
static DEVICE_ATTR_RW(program);

/* Write: moves that many frames, picked at random, to other pages; their old pages are Linux' again. For tests and for the curious. */
static ssize_t move_frames_store(struct device *device, struct device_attribute *attribute, const char *buffer, size_t count)
{
	unsigned long frames;
	long ret = kstrtoul(buffer, 0, &frames);

	if (!ret)
		ret = flex_move_some(frames);
	return ret < 0 ? ret : count;
}
static DEVICE_ATTR_WO(move_frames);

static struct attribute *driver_attributes[] = {
	&dev_attr_move_frames.attr, &dev_attr_lent_bytes.attr, &dev_attr_spare_bytes.attr, &dev_attr_reclaim.attr, &dev_attr_program.attr, NULL,
};

static const struct attribute_group driver_group = { .attrs = driver_attributes };
static const struct attribute_group monitor_group = { .name = "monitor", .attrs = monitor_attributes };
static const struct attribute_group cost_group = { .name = "cost", .attrs = cost_attributes };
static const struct attribute_group tos_group = { .name = "tos", .attrs = tos_attributes };

const struct attribute_group *flex_attribute_groups[] = { &driver_group, &cost_group, &monitor_group, &tos_group,
							   &flex_npu_group, NULL };
