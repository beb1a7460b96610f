// SPDX-License-Identifier: GPL-2.0
/*
 * RPC slots: posted by the secure world, served by the kernel (memory, NPU, time) or by the agent (all others), completed with a
 * later LEND. The agent's device file is here too.
 *
 * The shared area is untrusted on both sides: what is read from it is read once and checked.
 */
#include <linux/file.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "flexserve/uapi.h"
#include "flexserve.h"

#define FLEX_AREA_ORDER 9

static_assert((PAGE_SIZE << FLEX_AREA_ORDER) == FLEX_RPC_AREA_BYTES, "the area is one chunk of pages");

enum slot_owner {
	SLOT_SECURE,
	SLOT_KERNEL,
	SLOT_QUEUED,	/* for the agent */
	SLOT_AGENT,
};

struct slot_state {
	enum slot_owner owner;
	struct work_struct work;
};

static struct page *area;
static struct slot_state slots[FLEX_RPC_SLOTS];
static DEFINE_SPINLOCK(slots_lock);	/* owners, queue, agent_present, exit event */
static u8 queue[FLEX_RPC_SLOTS];	/* a slot is in it at most once, so it never overflows */
static unsigned int queue_head, queue_len;
static bool agent_present;
static bool exit_pending;
static unsigned int exit_number;
static u64 exit_code;
static DECLARE_WAIT_QUEUE_HEAD(agent_wait);
/* Apart, so that memory coming back never waits behind memory asked for. */
static struct workqueue_struct *alloc_queue, *give_back_queue, *npu_queue;

phys_addr_t flex_rpc_area(void)
{
	return page_to_phys(area);
}

struct flex_rpc_slot *flex_rpc_slot(unsigned int slot)
{
	return (struct flex_rpc_slot *)page_address(area) + slot;
}

/* ---- slots ---- */

void flex_rpc_finish(unsigned int slot, s64 result)
{
	unsigned long flags;

	WRITE_ONCE(flex_rpc_slot(slot)->result, result);
	spin_lock_irqsave(&slots_lock, flags);
	slots[slot].owner = SLOT_SECURE;
	spin_unlock_irqrestore(&slots_lock, flags);
	if (flex_program_running())
		flex_lend_complete(slot);
}

static void alloc_work(struct work_struct *work)
{
	unsigned int slot = container_of(work, struct slot_state, work) - slots;

	flex_rpc_finish(slot, flex_memory_alloc(flex_rpc_slot(slot)));
}

static void give_back_work(struct work_struct *work)
{
	unsigned int slot = container_of(work, struct slot_state, work) - slots;

	flex_rpc_finish(slot, flex_memory_give_back(flex_rpc_slot(slot)));
}

static void npu_give_work(struct work_struct *work)
{
	unsigned int slot = container_of(work, struct slot_state, work) - slots;

	WRITE_ONCE(flex_rpc_slot(slot)->data_len, 0);
	flex_rpc_finish(slot, flex_npu_serve_give(flex_rpc_slot(slot)));
}

static void npu_return_work(struct work_struct *work)
{
	unsigned int slot = container_of(work, struct slot_state, work) - slots;

	WRITE_ONCE(flex_rpc_slot(slot)->data_len, 0);
	flex_rpc_finish(slot, flex_npu_serve_return());
}

static bool give_to_agent(unsigned int slot)
{
	bool given;

	spin_lock_irq(&slots_lock);
	given = agent_present;
	if (given) {
		slots[slot].owner = SLOT_QUEUED;
		queue[(queue_head + queue_len++) % FLEX_RPC_SLOTS] = slot;
	}
	spin_unlock_irq(&slots_lock);
	if (given)
		wake_up(&agent_wait);
	return given;
}

static void dispatch(unsigned int slot)
{
	struct flex_rpc_slot *request = flex_rpc_slot(slot);

	switch (READ_ONCE(request->op)) {
	case FLEX_RPC_ALLOC:
		INIT_WORK(&slots[slot].work, alloc_work);
		queue_work(alloc_queue, &slots[slot].work);
		break;
	case FLEX_RPC_GIVE_BACK:
		INIT_WORK(&slots[slot].work, give_back_work);
		queue_work(give_back_queue, &slots[slot].work);
		break;
	case FLEX_RPC_NPU_GIVE:
		INIT_WORK(&slots[slot].work, npu_give_work);
		queue_work(npu_queue, &slots[slot].work);
		break;
	case FLEX_RPC_NPU_RETURN:
		INIT_WORK(&slots[slot].work, npu_return_work);
		queue_work(npu_queue, &slots[slot].work);
		break;
	case FLEX_RPC_TIME:
		WRITE_ONCE(request->out[0], ktime_get_real_ns());
		WRITE_ONCE(request->data_len, 0);
		flex_rpc_finish(slot, 0);
		break;
	default:
		if (!give_to_agent(slot)) {
			WRITE_ONCE(request->data_len, 0);
			flex_rpc_finish(slot, -EIO);
		}
	}
}

void flex_rpc_posted(u64 mask)
{
	unsigned int slot;

	if (mask >> FLEX_RPC_SLOTS)
		pr_err_ratelimited("slots that do not exist were posted: %#llx\n", mask);
	for (slot = 0; slot < FLEX_RPC_SLOTS; slot++) {
		bool ours;

		if (!(mask & BIT_ULL(slot)))
			continue;
		spin_lock_irq(&slots_lock);
		ours = slots[slot].owner == SLOT_SECURE;
		if (ours)
			slots[slot].owner = SLOT_KERNEL;
		spin_unlock_irq(&slots_lock);
		if (ours)
			dispatch(slot);
		else
			pr_err_ratelimited("slot %u was posted twice\n", slot);
	}
}

bool flex_rpc_idle(void)
{
	unsigned int slot;
	bool idle = true;

	spin_lock_irq(&slots_lock);
	for (slot = 0; slot < FLEX_RPC_SLOTS; slot++)
		idle &= slots[slot].owner == SLOT_SECURE;
	spin_unlock_irq(&slots_lock);
	return idle;
}

void flex_rpc_flush(void)
{
	flush_workqueue(alloc_queue);
	flush_workqueue(give_back_queue);
	flush_workqueue(npu_queue);
}

void flex_rpc_program_started(void)
{
	spin_lock_irq(&slots_lock);
	exit_pending = false;
	spin_unlock_irq(&slots_lock);
}

void flex_rpc_program_exited(unsigned int number, u64 code)
{
	spin_lock_irq(&slots_lock);
	for (; queue_len; queue_len--, queue_head = (queue_head + 1) % FLEX_RPC_SLOTS)
		slots[queue[queue_head]].owner = SLOT_SECURE;
	exit_pending = true;
	exit_number = number;
	exit_code = code;
	spin_unlock_irq(&slots_lock);
	wake_up(&agent_wait);
}

/* ---- /dev/flexserve ---- */

static int agent_open(struct inode *inode, struct file *file)
{
	int ret = 0;

	spin_lock_irq(&slots_lock);
	if (agent_present) {
		ret = -EBUSY;
	} else {
		agent_present = true;
		exit_pending = false; /* of a program that this agent knows nothing of */
	}
	spin_unlock_irq(&slots_lock);
	return ret ? ret : nonseekable_open(inode, file);
}

/* The agent is gone: what it had fails, so that the secure threads that wait for it go on. */
static int agent_release(struct inode *inode, struct file *file)
{
	unsigned int slot;
	u64 orphans = 0;

	spin_lock_irq(&slots_lock);
	agent_present = false;
	queue_len = 0;
	for (slot = 0; slot < FLEX_RPC_SLOTS; slot++) {
		if (slots[slot].owner == SLOT_QUEUED || slots[slot].owner == SLOT_AGENT) {
			slots[slot].owner = SLOT_KERNEL;
			orphans |= BIT_ULL(slot);
		}
	}
	spin_unlock_irq(&slots_lock);
	for (slot = 0; slot < FLEX_RPC_SLOTS; slot++) {
		if (orphans & BIT_ULL(slot)) {
			WRITE_ONCE(flex_rpc_slot(slot)->data_len, 0);
			flex_rpc_finish(slot, -EIO);
		}
	}
	return 0;
}

static bool take_event(struct flexserve_event *event)
{
	bool found = true;

	memset(event, 0, sizeof(*event));
	spin_lock_irq(&slots_lock);
	if (queue_len) {
		event->type = FLEXSERVE_EVENT_RPC;
		event->slot = queue[queue_head];
		slots[event->slot].owner = SLOT_AGENT;
		queue_head = (queue_head + 1) % FLEX_RPC_SLOTS;
		queue_len--;
	} else if (exit_pending) {
		event->type = FLEXSERVE_EVENT_EXITED;
		event->slot = exit_number;
		event->value = exit_code;
		exit_pending = false;
	} else {
		found = false;
	}
	spin_unlock_irq(&slots_lock);
	return found;
}

static long next_event(struct flexserve_event __user *user)
{
	struct flexserve_event event;
	int ret;

	while (!take_event(&event)) {
		ret = wait_event_interruptible_exclusive(agent_wait, READ_ONCE(queue_len) || READ_ONCE(exit_pending));
		if (ret)
			return ret;
	}
	return copy_to_user(user, &event, sizeof(event)) ? -EFAULT : 0;
}

/* Takes a slot from the agent, so that only one of its threads can finish it. */
static int take_from_agent(unsigned long slot)
{
	int ret = -ESTALE;

	if (slot >= FLEX_RPC_SLOTS)
		return -EINVAL;
	spin_lock_irq(&slots_lock);
	if (slots[slot].owner == SLOT_AGENT) {
		slots[slot].owner = SLOT_KERNEL;
		ret = 0;
	}
	spin_unlock_irq(&slots_lock);
	return ret;
}

static long load(struct flexserve_load __user *user)
{
	struct flexserve_load request;
	struct file *file;
	s64 result = -EBADF;
	int ret;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	ret = take_from_agent(request.slot);
	if (ret)
		return ret;
	WRITE_ONCE(flex_rpc_slot(request.slot)->data_len, 0);
	file = fget(request.fd);
	if (file) {
		result = flex_memory_load(flex_rpc_slot(request.slot), file);
		fput(file);
	}
	flex_rpc_finish(request.slot, result);
	return result < 0 ? result : 0;
}

static long agent_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	int ret;

	switch (command) {
	case FLEXSERVE_IOC_NEXT:
		return next_event((struct flexserve_event __user *)argument);
	case FLEXSERVE_IOC_DONE:
		ret = take_from_agent(argument);
		if (!ret)
			flex_rpc_finish(argument, READ_ONCE(flex_rpc_slot(argument)->result));
		return ret;
	case FLEXSERVE_IOC_LOAD:
		return load((struct flexserve_load __user *)argument);
	case FLEXSERVE_IOC_START:
		return flex_program_start();
	case FLEXSERVE_IOC_STOP:
		return flex_program_stop();
	default:
		return -ENOTTY;
	}
}

static int agent_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long i, pages = vma_pages(vma);
	int ret;

	if (vma->vm_pgoff || pages > FLEX_RPC_AREA_BYTES >> PAGE_SHIFT)
		return -EINVAL;
	vm_flags_set(vma, VM_DONTDUMP | VM_DONTEXPAND);
	/* Counted pages, not a bare PFN map: file systems do I/O straight into the slots. */
	for (i = 0; i < pages; i++) {
		ret = vm_insert_page(vma, vma->vm_start + (i << PAGE_SHIFT), area + i);
		if (ret)
			return ret;
	}
	return 0;
}

const struct file_operations flex_fops = {
	.owner = THIS_MODULE,
	.open = agent_open,
	.release = agent_release,
	.unlocked_ioctl = agent_ioctl,
	.mmap = agent_mmap,
};

int flex_rpc_init(void)
{
	area = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_COMP | __GFP_NOWARN | __GFP_RETRY_MAYFAIL, FLEX_AREA_ORDER);
	alloc_queue = alloc_workqueue("flexserve_alloc", WQ_UNBOUND, 4);
	give_back_queue = alloc_workqueue("flexserve_give_back", WQ_UNBOUND | WQ_MEM_RECLAIM, 1);
	npu_queue = alloc_ordered_workqueue("flexserve_npu", 0);
	if (area && alloc_queue && give_back_queue && npu_queue)
		return 0;
	flex_rpc_exit();
	return -ENOMEM;
}

void flex_rpc_exit(void)
{
	if (alloc_queue)
		destroy_workqueue(alloc_queue);
	if (give_back_queue)
		destroy_workqueue(give_back_queue);
	if (npu_queue)
		destroy_workqueue(npu_queue);
	if (area)
		__free_pages(area, FLEX_AREA_ORDER);
	alloc_queue = NULL;
	give_back_queue = NULL;
	npu_queue = NULL;
	area = NULL;
}
