// SPDX-License-Identifier: GPL-2.0
/* /sys/class/misc/flexserve/npu/: who has the NPU, what it did for Linux, what changing hands costs. */
#include <linux/device.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/sort.h>
#include <linux/sysfs.h>

#include "npu.h"

static ssize_t state_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	static const char *const names[] = { "absent", "normal", "moving", "given", "held", "returned" };
	u32 state = npu_state();

	return sysfs_emit(buffer, "%s\n", state < ARRAY_SIZE(names) ? names[state] : "unknown");
}
static DEVICE_ATTR_RO(state);

struct cost_attribute {
	struct device_attribute attribute;
	size_t offset;
};

static ssize_t npu_cost_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	size_t offset = container_of_const(attribute, struct cost_attribute, attribute)->offset;

	return sysfs_emit(buffer, "%llu\n", READ_ONCE(*(u64 *)((char *)&npu.costs + offset)));
}

#define NPU_COST(_name)                                                                            \
	static struct cost_attribute npu_##_name = {                                               \
		.attribute = __ATTR(_name, 0444, npu_cost_show, NULL),                             \
		.offset = offsetof(struct npu_costs, _name),                                       \
	}

NPU_COST(jobs);
NPU_COST(failed);
NPU_COST(waited);
NPU_COST(wait_ns);
NPU_COST(gives);
NPU_COST(give_ns);
NPU_COST(takes);
NPU_COST(take_ns);
NPU_COST(wakes);
NPU_COST(wake_ns);
NPU_COST(call_ns);
NPU_COST(forwarded);
NPU_COST(recalls);
NPU_COST(resets);

#define NPU_SWITCHES 11

static int compare_u64(const void *a, const void *b)
{
	return *(const u64 *)a < *(const u64 *)b ? -1 : *(const u64 *)a > *(const u64 *)b;
}

/* What is timed: a give while Linux does not use it, a take, setting it up for a job, a give while Linux uses it. */
enum { GIVE_IDLE, TAKE, SET_UP, GIVE_USED, SWITCH_STEPS };

static int give(void)
{
	return npu_give(FLEX_NPU_RECALL_MS_MIN);
}

static int set_up(void)
{
	return READ_ONCE(npu.gate) == NPU_GATE_ASLEEP ? npu_set_up() : 0;
}

static int switch_steps(u64 ns[SWITCH_STEPS])
{
	static int (*const steps[])(void) = { give, npu_take, set_up, give };
	u64 start;
	int i, ret = 0;

	for (i = 0; !ret && i < SWITCH_STEPS; i++) {
		start = ktime_get_ns();
		ret = steps[i]();
		ns[i] = ktime_get_ns() - start;
	}
	return ret ? ret : npu_take();
}

/* Reading makes the NPU change hands some times; the medians. Nobody in the secure world is told. */
static ssize_t switch_ns_show(struct device *device, struct device_attribute *attribute, char *buffer)
{
	u64 ns[SWITCH_STEPS], sorted[SWITCH_STEPS][NPU_SWITCHES];
	unsigned int i, step;
	int ret = 0;

	for (i = 0; !ret && i < NPU_SWITCHES; i++) {
		mutex_lock(&npu.switch_lock);
		ret = switch_steps(ns);
		mutex_unlock(&npu.switch_lock);
		for (step = 0; step < SWITCH_STEPS; step++)
			sorted[step][i] = ns[step];
		cond_resched();
	}
	if (ret)
		return ret;
	for (step = 0; step < SWITCH_STEPS; step++)
		sort(sorted[step], NPU_SWITCHES, sizeof(u64), compare_u64, NULL);
	return sysfs_emit(buffer, "%llu %llu %llu %llu\n", sorted[GIVE_IDLE][NPU_SWITCHES / 2],
			  sorted[TAKE][NPU_SWITCHES / 2], sorted[SET_UP][NPU_SWITCHES / 2],
			  sorted[GIVE_USED][NPU_SWITCHES / 2]);
}
static DEVICE_ATTR_ADMIN_RO(switch_ns);

static struct attribute *npu_attributes[] = {
	&dev_attr_state.attr,	    &dev_attr_switch_ns.attr,	  &npu_jobs.attribute.attr,
	&npu_failed.attribute.attr, &npu_waited.attribute.attr,	  &npu_wait_ns.attribute.attr,
	&npu_gives.attribute.attr,  &npu_give_ns.attribute.attr,  &npu_takes.attribute.attr,
	&npu_take_ns.attribute.attr, &npu_wakes.attribute.attr,	  &npu_wake_ns.attribute.attr,
	&npu_call_ns.attribute.attr, &npu_recalls.attribute.attr,
	&npu_resets.attribute.attr, &npu_forwarded.attribute.attr, NULL,
};

const struct attribute_group flex_npu_group = { .name = "npu", .attrs = npu_attributes };
