/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of the NPU driver share. There is one NPU.
 *
 *   npu.c         the virtio driver: probing, registers, queues
 *   npu_jobs.c    jobs: waiting for their turn, on the device, ended
 *   npu_switch.c  the NPU goes to the secure world and comes back
 *   npu_file.c    /dev/flexnpu
 *   npu_memory.c  memory of programs that the device may reach
 *   npu_stats.c   /sys/class/misc/flexserve/npu/
 *
 * While it is away its registers are unmapped and an access would be a fatal abort, so the queues are given up first (with them
 * their handler of the interrupt line, which other devices may share), and what the virtio core may do at any time (the status in
 * sysfs, a reset at shutdown) goes through npu.c, which knows.
 */
#ifndef FLEXSERVE_NPU_H
#define FLEXSERVE_NPU_H

#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/wait.h>

#include "abi/npu.h"
#include "flexserve.h"

#define NPU_QUEUES 4

enum npu_gate {
	NPU_GATE_ABSENT,	/* no NPU, or one that does not work: jobs fail */
	NPU_GATE_OPEN,		/* jobs start */
	NPU_GATE_ASLEEP,	/* here, as the monitor's reset left it: the first job sets it up */
	NPU_GATE_CLOSED,	/* about to go, coming back, or suspended: jobs wait */
	NPU_GATE_AWAY,		/* the secure world has it: jobs wait */
};

struct npu_job;

struct npu_costs {
	u64 jobs, failed;	/* ended with a result; without */
	u64 waited, wait_ns;	/* those that could not start at once */
	u64 gives, give_ns;	/* completed, from the first job that had to wait for it */
	u64 takes, take_ns;
	u64 wakes, wake_ns;		/* set up for a job, after it came back */
	u64 forwarded;			/* interrupts that were the secure world's */
	u64 call_ns;		/* of both, in the monitor */
	u64 recalls, resets;
};

struct npu {
	/* Held over every change of hands, reset, probe and removal. Outermost. */
	struct mutex switch_lock;
	/* Held over every access to the registers that may come at any time. */
	struct mutex reach_lock;
	bool reachable;				/* reach_lock */
	u32 sequence;				/* reach_lock: of the last access to a register */
	bool sequence_known;			/* reach_lock: nobody else made one since */
	struct virtio_device *vdev;		/* switch_lock or reach_lock; changed under both */
	const struct virtio_config_ops *transport;

	spinlock_t lock;			/* what follows; taken in the interrupt */
	enum npu_gate gate;
	struct virtqueue *queue;		/* the one that is used; NULL while they are down */
	struct npu_job *running;
	struct list_head waiting;
	u64 last_end_ns;
	struct npu_costs costs;

	wait_queue_head_t wait;			/* any of the above has changed */
	u32 registers[FLEX_NPU_REG_LAUNCH_NS + 1];	/* as they were when it was probed */
};

extern struct npu npu;

/* ---- npu.c ---- */

int npu_register(bool write, u32 number, u32 *value);
/* Ends all jobs (-EIO) and takes the queues down; and sets the device up again. With switch_lock. */
int npu_take_down(void);
int npu_set_up(void);
/* Sets it up if it sleeps. May wait for a change of hands. */
void npu_wake(void);
struct pci_dev *npu_pci(void);
u32 npu_state(void);

/* ---- npu_jobs.c ---- */

#define NPU_CHUNK_ORDER 3
#define NPU_CHUNK_BYTES (PAGE_SIZE << NPU_CHUNK_ORDER)
#define NPU_CHUNKS_MAX DIV_ROUND_UP(FLEX_NPU_JOB_BYTES, NPU_CHUNK_BYTES)

struct npu_job {
	struct list_head link;		/* in npu.waiting */
	struct completion done;
	int error;
	bool begun;			/* npu.lock: it waits no more */
	size_t bytes;
	struct flex_npu_result *result;
	void *chunks[NPU_CHUNKS_MAX];	/* its text; the first holds header and all regions */
};

struct npu_job *npu_job_alloc(size_t bytes);
void npu_job_free(struct npu_job *job);
/* Bytes of chunk @i. */
size_t npu_job_chunk_bytes(const struct npu_job *job, unsigned int i);
/* Waits for its turn, @timeout_ms at most, and for its end. 0: there is a result. */
int npu_job_run(struct npu_job *job, unsigned int timeout_ms);
void npu_gate_set(enum npu_gate gate);
/* The NPU is back: asleep, unless (false) jobs wait. */
bool npu_gate_sleep(void);
/* Callback of all queues. */
void npu_queue_done(struct virtqueue *queue);
/* The device has been reset: what it had is over. */
void npu_jobs_lost(void);

/* ---- npu_switch.c ---- */

irqreturn_t npu_away_interrupt(int irq, void *data);
int npu_switch_init(void);
void npu_switch_exit(void);
/* Gives it, waiting at most @ms for jobs to end; and takes it back. With switch_lock. */
int npu_give(unsigned int ms);
int npu_take(void);
/* For removal: gets it back from whoever has it, or fails. With switch_lock. */
int npu_get_back(void);
/* A job waits while the NPU is away. */
void npu_recall_soon(void);
/* A job does not end: resets the device unless it has ended meanwhile. */
void npu_reset_for(struct npu_job *job);

/* ---- npu_memory.c ---- */

struct npu_mapping;

struct npu_mapping *npu_mapping_create(unsigned long address, u64 bytes);
void npu_mapping_get(struct npu_mapping *mapping);
void npu_mapping_put(struct npu_mapping *mapping);
u64 npu_mapping_bytes(const struct npu_mapping *mapping);
u64 npu_mapping_table(const struct npu_mapping *mapping);
/* Before the device uses it, and after. */
void npu_mapping_to_device(struct npu_mapping *mapping);
void npu_mapping_to_cpu(struct npu_mapping *mapping);

/* ---- npu_file.c ---- */

extern struct miscdevice npu_misc;

#endif
