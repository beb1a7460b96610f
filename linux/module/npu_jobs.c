// SPDX-License-Identifier: GPL-2.0
/*
 * Jobs: waiting for their turn, on the device, ended. The device has one at a time, since one that it has can only be got back by a
 * reset; the next one is handed over in the interrupt that ends the last.
 */
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio.h>

#include "flexnpu.h"
#include "npu.h"

/* Granted to a job whose program was killed before all jobs are ended by a reset. */
#define NPU_KILLED_GRACE (2 * HZ)

size_t npu_job_chunk_bytes(const struct npu_job *job, unsigned int i)
{
	return min_t(size_t, job->bytes - i * NPU_CHUNK_BYTES, NPU_CHUNK_BYTES);
}

static unsigned int chunk_count(const struct npu_job *job)
{
	return DIV_ROUND_UP(job->bytes, NPU_CHUNK_BYTES);
}

void npu_job_free(struct npu_job *job)
{
	unsigned int i;

	if (!job)
		return;
	for (i = 0; i < NPU_CHUNKS_MAX; i++)
		kfree(job->chunks[i]);
	kfree(job->result);
	kfree(job);
}

struct npu_job *npu_job_alloc(size_t bytes)
{
	struct npu_job *job = kzalloc(sizeof(*job), GFP_KERNEL);
	unsigned int i;

	if (!job)
		return NULL;
	INIT_LIST_HEAD(&job->link);
	init_completion(&job->done);
	job->bytes = bytes;
	job->result = kzalloc(sizeof(*job->result), GFP_KERNEL);
	if (!job->result)
		goto fail;
	for (i = 0; i < chunk_count(job); i++) {
		job->chunks[i] = kmalloc(npu_job_chunk_bytes(job, i), GFP_KERNEL);
		if (!job->chunks[i])
			goto fail;
	}
	return job;
fail:
	npu_job_free(job);
	return NULL;
}

/* ---- on the device ---- */

/* With npu.lock. */
static int put_on_device(struct npu_job *job)
{
	struct scatterlist text[NPU_CHUNKS_MAX], result;
	struct scatterlist *lists[] = { text, &result };
	unsigned int i, count = chunk_count(job);
	int ret;

	sg_init_table(text, count);
	for (i = 0; i < count; i++)
		sg_set_buf(text + i, job->chunks[i], npu_job_chunk_bytes(job, i));
	sg_init_one(&result, job->result, sizeof(*job->result));
	ret = virtqueue_add_sgs(npu.queue, lists, 1, 1, job, GFP_ATOMIC);
	if (ret)
		return ret;
	npu.running = job;
	virtqueue_kick(npu.queue);
	return 0;
}

/* With npu.lock. */
static void ended(struct npu_job *job, int error)
{
	job->error = error;
	npu.last_end_ns = ktime_get_ns();
	if (error)
		npu.costs.failed++;
	else
		npu.costs.jobs++;
	complete(&job->done);
}

/* With npu.lock. The first of the waiting jobs begins, if one can; without a device all fail. */
static void start_next(void)
{
	while (!list_empty(&npu.waiting) &&
	       (npu.gate == NPU_GATE_ABSENT || (npu.gate == NPU_GATE_OPEN && !npu.running))) {
		struct npu_job *job = list_first_entry(&npu.waiting, struct npu_job, link);
		int ret = npu.gate == NPU_GATE_ABSENT ? -ENODEV : put_on_device(job);

		list_del_init(&job->link);
		job->begun = true;
		if (ret)
			ended(job, ret);
	}
}

void npu_queue_done(struct virtqueue *queue)
{
	struct npu_job *job;
	unsigned long flags;
	unsigned int used;

	spin_lock_irqsave(&npu.lock, flags);
	while ((job = virtqueue_get_buf(queue, &used))) {
		npu.running = NULL;
		ended(job, used < sizeof(*job->result) ? -EIO : 0);
	}
	start_next();
	spin_unlock_irqrestore(&npu.lock, flags);
	wake_up_all(&npu.wait);
}

void npu_jobs_lost(void)
{
	spin_lock_irq(&npu.lock);
	while (npu.queue && virtqueue_detach_unused_buf(npu.queue))
		;
	if (npu.running)
		ended(npu.running, -EIO);
	npu.running = NULL;
	npu.queue = NULL;
	spin_unlock_irq(&npu.lock);
	wake_up_all(&npu.wait);
}

void npu_gate_set(enum npu_gate gate)
{
	spin_lock_irq(&npu.lock);
	npu.gate = gate;
	start_next();
	spin_unlock_irq(&npu.lock);
	wake_up_all(&npu.wait);
}

bool npu_gate_sleep(void)
{
	bool sleeps;

	spin_lock_irq(&npu.lock);
	sleeps = list_empty(&npu.waiting);
	npu.gate = sleeps ? NPU_GATE_ASLEEP : NPU_GATE_CLOSED;
	spin_unlock_irq(&npu.lock);
	wake_up_all(&npu.wait);
	return sleeps;
}

/* ---- its turn ---- */

static bool join_waiting(struct npu_job *job)
{
	bool begun;

	spin_lock_irq(&npu.lock);
	list_add_tail(&job->link, &npu.waiting);
	start_next();
	begun = job->begun;
	spin_unlock_irq(&npu.lock);
	return begun;
}

/* False when it has not begun and never will. */
static bool leave_waiting(struct npu_job *job, u64 since)
{
	bool begun;

	spin_lock_irq(&npu.lock);
	begun = job->begun;
	list_del_init(&job->link);
	npu.costs.waited++;
	npu.costs.wait_ns += ktime_get_ns() - since;
	spin_unlock_irq(&npu.lock);
	return begun;
}

static int wait_for_turn(struct npu_job *job, unsigned int timeout_ms)
{
	u64 since = ktime_get_ns();
	long left;

	if (join_waiting(job))
		return 0;
	npu_wake();
	npu_recall_soon();
	left = wait_event_killable_timeout(npu.wait, READ_ONCE(job->begun), msecs_to_jiffies(timeout_ms));
	if (leave_waiting(job, since))
		return 0;
	return left < 0 ? -EINTR : -ETIMEDOUT;
}

int npu_job_run(struct npu_job *job, unsigned int timeout_ms)
{
	int ret = wait_for_turn(job, timeout_ms);

	if (ret)
		return ret;
	if (!wait_for_completion_killable(&job->done))
		return job->error;
	/* The device reads and writes for this job: nothing of it can go before it ends. */
	if (!wait_for_completion_timeout(&job->done, NPU_KILLED_GRACE)) {
		npu_reset_for(job);
		wait_for_completion(&job->done);
	}
	return -EINTR;
}

int flexnpu_run_raw(const void *text, size_t bytes, unsigned int timeout_ms, struct flex_npu_result *result)
{
	struct npu_job *job;
	unsigned int i;
	int ret;

	if (!bytes || bytes > FLEX_NPU_JOB_BYTES)
		return -EINVAL;
	job = npu_job_alloc(bytes);
	if (!job)
		return -ENOMEM;
	for (i = 0; i < chunk_count(job); i++)
		memcpy(job->chunks[i], text + i * NPU_CHUNK_BYTES, npu_job_chunk_bytes(job, i));
	ret = npu_job_run(job, timeout_ms);
	if (!ret)
		*result = *job->result;
	npu_job_free(job);
	return ret;
}
EXPORT_SYMBOL_GPL(flexnpu_run_raw);
