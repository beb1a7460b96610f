// SPDX-License-Identifier: GPL-2.0
/*
 * Jobs: waiting for their turn in the order they came, on the device, ended. A queue has one job at a time: the device runs one
 * at a time anyway, and the next one is there when it ends.
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

/* With npu.lock and a free queue. */
static int put_on_device(struct npu_job *job, unsigned int queue)
{
	struct scatterlist text[NPU_CHUNKS_MAX], result;
	struct scatterlist *lists[] = { text, &result };
	unsigned int i, count = chunk_count(job);
	int ret;

	sg_init_table(text, count);
	for (i = 0; i < count; i++)
		sg_set_buf(text + i, job->chunks[i], npu_job_chunk_bytes(job, i));
	sg_init_one(&result, job->result, sizeof(*job->result));
	ret = virtqueue_add_sgs(npu.queues[queue], lists, 1, 1, job, GFP_ATOMIC);
	if (ret)
		return ret;
	job->on_device = true;
	npu.on[queue] = job;
	npu.running++;
	virtqueue_kick(npu.queues[queue]);
	return 0;
}

/* With npu.lock. */
static void ended(struct npu_job *job, int error)
{
	job->on_device = false;
	job->error = error;
	npu.running--;
	npu.last_end_ns = ktime_get_ns();
	if (error)
		npu.costs.failed++;
	else
		npu.costs.jobs++;
	complete(&job->done);
}

void npu_queue_done(struct virtqueue *queue)
{
	struct npu_job *job;
	unsigned long flags;
	unsigned int used;

	spin_lock_irqsave(&npu.lock, flags);
	job = virtqueue_get_buf(queue, &used);
	if (job) {
		npu.on[queue->index] = NULL;
		ended(job, used < sizeof(*job->result) ? -EIO : 0);
	}
	spin_unlock_irqrestore(&npu.lock, flags);
	if (job)
		wake_up_all(&npu.wait);
}

void npu_jobs_lost(void)
{
	unsigned int i;

	spin_lock_irq(&npu.lock);
	for (i = 0; i < NPU_QUEUES; i++) {
		if (!npu.queues[i])
			continue;
		while (virtqueue_detach_unused_buf(npu.queues[i]))
			;
		if (npu.on[i])
			ended(npu.on[i], -EIO);
		npu.on[i] = NULL;
		npu.queues[i] = NULL;
	}
	spin_unlock_irq(&npu.lock);
	wake_up_all(&npu.wait);
}

void npu_gate_set(enum npu_gate gate)
{
	spin_lock_irq(&npu.lock);
	npu.gate = gate;
	spin_unlock_irq(&npu.lock);
	wake_up_all(&npu.wait);
}

/* ---- its turn ---- */

#define NPU_NOT_YET 1

/* With npu.lock: a queue without a job, or NPU_QUEUES. */
static unsigned int free_queue(void)
{
	unsigned int i;

	for (i = 0; i < NPU_QUEUES && npu.on[i]; i++)
		;
	return i;
}

/* Starts the job if it is its turn. NPU_NOT_YET, 0, or why it never will be; the job is not among the waiting ones then. */
static int try_start(struct npu_job *job)
{
	int ret = NPU_NOT_YET;
	unsigned int queue;
	bool more;

	spin_lock_irq(&npu.lock);
	queue = free_queue();
	if (npu.gate == NPU_GATE_ABSENT)
		ret = -ENODEV;
	else if (npu.gate == NPU_GATE_OPEN && queue < NPU_QUEUES && list_first_entry(&npu.waiting, struct npu_job, link) == job)
		ret = put_on_device(job, queue);
	if (ret != NPU_NOT_YET)
		list_del_init(&job->link);
	more = ret != NPU_NOT_YET && !list_empty(&npu.waiting);
	spin_unlock_irq(&npu.lock);
	if (more)
		wake_up_all(&npu.wait);
	return ret;
}

static void join_waiting(struct npu_job *job)
{
	spin_lock_irq(&npu.lock);
	list_add_tail(&job->link, &npu.waiting);
	spin_unlock_irq(&npu.lock);
}

static void leave_waiting(struct npu_job *job, u64 since)
{
	spin_lock_irq(&npu.lock);
	list_del_init(&job->link);
	npu.costs.waited++;
	npu.costs.wait_ns += ktime_get_ns() - since;
	spin_unlock_irq(&npu.lock);
	wake_up_all(&npu.wait);
}

static int wait_for_turn(struct npu_job *job, unsigned int timeout_ms)
{
	u64 since = ktime_get_ns();
	long left;
	int ret;

	join_waiting(job);
	ret = try_start(job);
	if (ret != NPU_NOT_YET)
		return ret;
	npu_recall_soon();
	left = wait_event_killable_timeout(npu.wait, (ret = try_start(job)) != NPU_NOT_YET, msecs_to_jiffies(timeout_ms));
	leave_waiting(job, since);
	if (ret != NPU_NOT_YET)
		return ret;
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
