/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The NPU in the hands of a kernel that keeps to no rule: Linux' driver is pushed aside, its registers are ours. One at a time.
 */
#ifndef FLEXATTACK_NPU_RAW_H
#define FLEXATTACK_NPU_RAW_H

#include <linux/pci.h>

#include "abi/npu.h"
#include "attack.h"

#define RAW_QUEUES 4
#define RAW_QUEUE_SIZE 4
#define JOB_MS 2000
#define FLOATS 64

/* Virtio 1.2, 4.1.4.3 */
enum raw_common {
	RAW_DEVICE_FEATURE_SELECT = 0x00,
	RAW_DRIVER_FEATURE_SELECT = 0x08,
	RAW_DRIVER_FEATURE = 0x0c,
	RAW_STATUS = 0x14,
	RAW_QUEUE_SELECT = 0x16,
	RAW_QUEUE_SIZE_REGISTER = 0x18,
	RAW_QUEUE_ENABLE = 0x1c,
	RAW_QUEUE_NOTIFY_OFF = 0x1e,
	RAW_QUEUE_DESC = 0x20,
	RAW_QUEUE_AVAIL = 0x28,
	RAW_QUEUE_USED = 0x30,
};

struct raw_npu {
	struct pci_dev *pci;
	u64 base, bytes;		/* of the BAR with its structures */
	void __iomem *registers;
	u32 common, notify, device, notify_multiplier;
	u64 *tables[4];			/* a page each: of regions */
	void *rings[RAW_QUEUES];	/* a page each: descriptors, avail, used; a job behind them */
	u16 given[RAW_QUEUES];
};

/*
 * Takes the NPU from Linux' driver, and from the secure world if need be. True: it is NORMAL, stopped, and ours until raw_yield();
 * the secure world gets none meanwhile. False: reported.
 */
bool raw_seize(struct report *r, struct raw_npu *n);
/* Reset, and back to the driver. From whatever state the attack left. */
void raw_yield(struct report *r, struct raw_npu *n);

/* Only while it is NORMAL. */
u32 raw_read(struct raw_npu *n, u32 reg);
void raw_write(struct raw_npu *n, u32 reg, u32 value);
/* Sets up all queues and turns it on. */
int raw_start(struct raw_npu *n);
/*
 * The same with queue 0 in a page at any address, but its used ring ours; or all queues and their used rings there. And the content
 * of such a page, with one job (of nothing) in it.
 */
int raw_start_at(struct raw_npu *n, u64 queue, bool used_is_ours);
void raw_prepare_queue(void *page, u64 address);
void raw_ring(struct raw_npu *n, unsigned int queue);
void raw_reset(struct raw_npu *n);

/* A job of up to 4 commands over up to 4 regions. */
struct raw_job {
	struct flex_npu_job head;
	struct flex_npu_region regions[4];
	struct flex_npu_command commands[4];
	u32 region_count, command_count;
};
/* Puts it into a queue and rings. The result follows raw_result(), which waits: NULL when there is none in time. */
void raw_submit(struct raw_npu *n, unsigned int queue, struct raw_job *job);
const struct flex_npu_result *raw_result(struct raw_npu *n, unsigned int queue, unsigned int ms);
/* y += x, @floats of them; then a word to region @y. For what a job reads and writes. */
void raw_job_add(struct raw_job *job, u32 y, u32 x, u32 floats);
void raw_job_signal(struct raw_job *job, u32 y, u64 value);
void raw_job_wait(struct raw_job *job, u32 x, u64 value, u32 us);
/* Adds a region of one page at any address, by a table of ours, or by any table; its number. */
u32 raw_job_page(struct raw_npu *n, struct raw_job *job, u64 address);
u32 raw_job_table(struct raw_job *job, u64 table);

/* The calls, and the state (enum flex_npu_state). given and taken report what does not succeed. */
s64 raw_give(void);
s64 raw_take(void);
u64 raw_state(void);
bool raw_given(struct report *r);
bool raw_taken(struct report *r);
/* A job over memory of ours gives the right sort of result: reported when not. */
bool raw_works(struct report *r, struct raw_npu *n);
bool raw_touches(u64 address, u32 *value);

#endif
