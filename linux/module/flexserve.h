/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of flexserve.ko share. */
#ifndef FLEXSERVE_H
#define FLEXSERVE_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/types.h>

#include "calls.h"

#undef pr_fmt
#define pr_fmt(fmt) "flexserve: " fmt

/* ---- main.c: the program's life ---- */

enum flex_program_state {
	FLEX_PROGRAM_STOPPED,
	FLEX_PROGRAM_RUNNING,
	FLEX_PROGRAM_STOPPING,		/* STOP was sent; cores are lent until EXITED */
	FLEX_PROGRAM_COLLECTING,	/* it has ended, its frames are being collected */
};

/* Started by the agent or an administrator; holds the module until the end of the program and of all its loans. */
/* Returns the program's number, > 0. */
int flex_program_start(void);
int flex_program_stop(void);
/* Cores are to be lent. */
bool flex_program_running(void);
const char *flex_program_state_name(void);
/* A lender saw FLEX_LEND_EXITED. */
void flex_program_exited(u64 code);

extern struct miscdevice flex_misc;
extern const struct attribute_group *flex_attribute_groups[];

/* ---- lend.c: one kernel thread a core that lends it ---- */

int flex_lend_init(void);
void flex_lend_exit(void);
/* Cores that lend at the moment. */
unsigned int flex_lend_cores(void);
/* Wakes up to @count sleeping lenders: there is something new for the secure world. Any context. */
void flex_lend_kick(unsigned int count);
/* The answer to @slot is complete: its bit goes with the next LEND. */
void flex_lend_complete(unsigned int slot);
/* The NPU's interrupt has come while the secure world has it: that goes with the next LEND. Any context. */
void flex_lend_npu_rings(void);
void flex_lend_forget_completions(void);
/* The program was started or ended: all lenders look again. */
void flex_lend_state_changed(void);

/* ---- rpc.c: slots and the agent's device file ---- */

int flex_rpc_init(void);
void flex_rpc_exit(void);
phys_addr_t flex_rpc_area(void);
struct flex_rpc_slot *flex_rpc_slot(unsigned int slot);
/* Slots posted by the secure world, from a lender. */
void flex_rpc_posted(u64 mask);
/* Ends the slot with @result and hands it back. */
void flex_rpc_finish(unsigned int slot, s64 result);
/* No slot is with the kernel or the agent. */
bool flex_rpc_idle(void);
/* Work of the last program that is still in the kernel is done when this returns. */
void flex_rpc_flush(void);
void flex_rpc_program_started(void);
void flex_rpc_program_exited(unsigned int number, u64 code);
extern const struct file_operations flex_fops;

/* ---- frames.c: which frames are lent, and their life as pages ---- */

int flex_frames_init(u64 dram_base, u64 dram_bytes);
void flex_frames_exit(void);
unsigned long flex_frames_lent(void);
unsigned long flex_frames_spare(void);

/*
 * One chunk of pages from the allocator, of the largest order <= @max_order it gives cheaply.
 * @file_pages: every page gets a reference count of its own, as block and file I/O need.
 * Returns NULL when there is nothing left; *@order says what was got.
 */
struct page *flex_chunk_alloc(unsigned int max_order, bool file_pages, unsigned int *order);
void flex_chunk_free(struct page *page, unsigned int order, bool file_pages);

/* Marks the frames of a range, which is one chunk in one piece, lent before it is protected; and undoes it. */
void flex_frames_lend(flex_range_t range);
void flex_frames_unlend(flex_range_t range);
/* The same for a page that the caller has locked, and whose mark as movable is his affair. */
void flex_frames_lend_marked(flex_range_t range);
void flex_frames_unlend_marked(flex_range_t range);
/* Claims a range for its recall: -EINVAL unless all its frames are lent and claimed by nobody else. */
int flex_frames_claim(flex_range_t range);
void flex_frames_unclaim(flex_range_t range);
/* The frames of a claimed range are NORMAL again: back to the allocator. */
void flex_frames_free(flex_range_t range);
/* flex_frames_free() for one page, without giving it to the allocator. */
void flex_frames_forget_page(struct page *page);
/* The page is a chunk of its own that a program has. */
bool flex_frames_is_lent_page(struct page *page);
/* Some frame that a program has, by @random: each as likely as any other. */
bool flex_frames_pick(unsigned long random, flex_range_t *range);
/* Frames that are protected but that no program owns: handed out first by the next ALLOC. */
void flex_frames_add_spare(flex_range_t range);
bool flex_frames_take_spare(unsigned int max_order, flex_range_t *range);
/* Next range of frames lent to a program, at or after *@frame; may touch spare ones. False at the end. */
bool flex_frames_next_lent(unsigned long *frame, unsigned int order_max, flex_range_t *range);

static inline unsigned int flex_range_order(flex_range_t range)
{
	return range & FLEX_RANGE_ORDER_MASK;
}

static inline u64 flex_range_address(flex_range_t range)
{
	return range & ~(FLEX_FRAME_SIZE - 1);
}

/* ---- memory.c: ALLOC, GIVE_BACK, LOAD ---- */

int flex_memory_init(void);
void flex_memory_exit(void);
s64 flex_memory_alloc(struct flex_rpc_slot *slot);
s64 flex_memory_give_back(struct flex_rpc_slot *slot);
s64 flex_memory_load(struct flex_rpc_slot *slot, struct file *file);
/* Protects one page that is marked lent, or recalls one range that is claimed. With flex_recall_lock. */
int flex_memory_protect_one(flex_range_t range);
int flex_memory_recall_one(flex_range_t range);
/* Guards recalls, and the list that protect_one and recall_one use. */
extern struct mutex flex_recall_lock;
/* After the program's end: recalls what can be recalled, keeps the rest as spare. */
void flex_memory_collect(void);

/* ---- move.c: one given frame back, its content elsewhere ---- */

extern const struct movable_operations flex_movable_operations;
/* Moves @count frames picked at random to fresh pages; returns how many could be moved, or an error when none. */
long flex_move_some(unsigned long count);

/* ---- stats.c: what the driver's own work costs ---- */

enum flex_counter {
	FLEX_COUNT_ALLOC_NS,	/* taking pages from the allocator */
	FLEX_COUNT_PROTECT_NS,	/* in the monitor */
	FLEX_COUNT_PROTECT_LISTS,
	FLEX_COUNT_RECALL_NS,
	FLEX_COUNT_RECALL_LISTS,
	FLEX_COUNT_FREE_NS,	/* giving pages back to the allocator */
	FLEX_COUNT_READ_NS,	/* reading files into frames */
	FLEX_COUNT_READ_BYTES,
	FLEX_COUNT_MOVED,	/* frames moved */
	FLEX_COUNT_MOVED_BY_LINUX, /* of them because Linux wanted the page (compaction and the like) */
	FLEX_COUNT_MOVES_REFUSED,
	FLEX_COUNT_MOVE_NS,
	FLEX_COUNT_ASKS_MET,	/* asks for memory that have brought all they were for */
	FLEX_COUNT_ASKED_NS,	/* from the ask to its last page with the allocator */
	FLEX_COUNTERS
};

void flex_count(enum flex_counter counter, u64 value);

/* ---- npu*.c: the NPU, when there is one; npu.h has the rest ---- */

int npu_init(void);
void npu_exit(void);
s64 flex_npu_serve_give(struct flex_rpc_slot *slot);
s64 flex_npu_serve_return(void);
/* Whatever the program had of it comes back. */
void flex_npu_program_ended(void);
extern const struct attribute_group flex_npu_group;

/* ---- reclaim.c: asking the framework for memory ---- */

int flex_reclaim_init(void);
void flex_reclaim_exit(void);
/* Asks for @bytes; returns at once. */
int flex_reclaim_ask(u64 bytes);
/* @frames came back. */
void flex_reclaim_note(unsigned long frames);
u64 flex_reclaim_asked_bytes(void);

#endif
