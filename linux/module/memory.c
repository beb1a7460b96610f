// SPDX-License-Identifier: GPL-2.0
/*
 * The three memory requests of abi/rpc.h: ALLOC, GIVE_BACK and LOAD.
 *
 * A protect list is all or nothing, but a request may need several lists. Frames that were protected before a later list failed
 * cannot be recalled by Linux (only the trusted OS can release them): they are handed out all the same (ALLOC) or kept as
 * spare for the next ALLOC (LOAD).
 */
#include <linux/bvec.h>
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "flexserve.h"

#define FLEX_REQUEST_BYTES_MAX SZ_16M
#define FLEX_REQUEST_RANGES_MAX (FLEX_REQUEST_BYTES_MAX / FLEX_FRAME_SIZE)
#define FLEX_BUSY_RETRIES 100
/* Frames in one list, unless it is a single range: the monitor works through it with interrupts masked. */
#define FLEX_LIST_FRAMES_MAX (SZ_16M / FLEX_FRAME_SIZE)

static_assert(FLEX_REQUEST_RANGES_MAX * sizeof(flex_range_t) <= FLEX_RPC_DATA_BYTES,
	      "the answer to the largest request fits a slot");
static_assert(PAGE_SIZE == FLEX_FRAME_SIZE, "a page is a frame");

/* Recalling must never have to allocate. Each is a page of its own. */
static flex_range_t *recall_list, *single_list;
DEFINE_MUTEX(flex_recall_lock);

int flex_memory_init(void)
{
	recall_list = (flex_range_t *)__get_free_page(GFP_KERNEL);
	single_list = (flex_range_t *)__get_free_page(GFP_KERNEL);
	if (recall_list && single_list)
		return 0;
	flex_memory_exit();
	return -ENOMEM;
}

void flex_memory_exit(void)
{
	free_page((unsigned long)recall_list);
	free_page((unsigned long)single_list);
}

/* PROTECT or RECALL of one list that lies in a page of its own. *@refused is the index of the first range refused. */
static int call_with_list(u64 call, const flex_range_t *list, unsigned int count, unsigned int *refused)
{
	bool protect = call == FLEX_HVC_PROTECT;
	u64 start = ktime_get_ns();
	struct arm_smccc_res res;
	unsigned int tries = 0;

	do {
		if (tries)
			usleep_range(50, 100);
		res = flex_hvc(call, virt_to_phys(list), count);
	} while ((s64)res.a0 == FLEX_ERR_BUSY && ++tries < FLEX_BUSY_RETRIES);
	flex_count(protect ? FLEX_COUNT_PROTECT_NS : FLEX_COUNT_RECALL_NS, ktime_get_ns() - start);
	flex_count(protect ? FLEX_COUNT_PROTECT_LISTS : FLEX_COUNT_RECALL_LISTS, 1);
	if (refused)
		*refused = res.a1;
	return flex_errno(res.a0);
}

int flex_memory_protect_one(flex_range_t range)
{
	lockdep_assert_held(&flex_recall_lock);
	single_list[0] = range;
	return call_with_list(FLEX_HVC_PROTECT, single_list, 1, NULL);
}

int flex_memory_recall_one(flex_range_t range)
{
	lockdep_assert_held(&flex_recall_lock);
	single_list[0] = range;
	return call_with_list(FLEX_HVC_RECALL, single_list, 1, NULL);
}

/* ---- a request's ranges ---- */

struct loan {
	flex_range_t *ranges;	/* FLEX_REQUEST_RANGES_MAX of them */
	unsigned int count;
	u64 frames;
	flex_range_t *list;	/* a page */
	bool file_pages;	/* every page of a chunk has its own reference count */
};

static int loan_init(struct loan *loan, bool file_pages)
{
	loan->count = 0;
	loan->frames = 0;
	loan->file_pages = file_pages;
	loan->ranges = kvmalloc_array(FLEX_REQUEST_RANGES_MAX, sizeof(flex_range_t), GFP_KERNEL | __GFP_NOWARN);
	loan->list = (flex_range_t *)__get_free_page(GFP_KERNEL | __GFP_NOWARN);
	if (loan->ranges && loan->list)
		return 0;
	kvfree(loan->ranges);
	free_page((unsigned long)loan->list);
	return -ENOMEM;
}

static void loan_destroy(struct loan *loan)
{
	kvfree(loan->ranges);
	free_page((unsigned long)loan->list);
}

static void loan_add(struct loan *loan, flex_range_t range)
{
	loan->ranges[loan->count++] = range;
	loan->frames += 1ull << flex_range_order(range);
}

static struct page *range_page(flex_range_t range)
{
	return pfn_to_page(PHYS_PFN(range));
}

/* Gives the pages of ranges [from, count), none of which is protected, back to the allocator. */
static void loan_drop_from(struct loan *loan, unsigned int from)
{
	while (loan->count > from) {
		flex_range_t range = loan->ranges[--loan->count];

		loan->frames -= 1ull << flex_range_order(range);
		flex_chunk_free(range_page(range), flex_range_order(range), loan->file_pages);
	}
}

/* Takes pages until the loan has @frames, as far as Linux has them. */
static void loan_gather(struct loan *loan, u64 frames)
{
	u64 start = ktime_get_ns();

	while (loan->frames < frames && loan->count < FLEX_REQUEST_RANGES_MAX) {
		unsigned int order;
		struct page *page = flex_chunk_alloc(ilog2(frames - loan->frames), loan->file_pages, &order);

		if (!page)
			break;
		loan_add(loan, FLEX_RANGE(page_to_phys(page), order));
		cond_resched();
	}
	flex_count(FLEX_COUNT_ALLOC_NS, ktime_get_ns() - start);
}

/* Protects ranges [from, count) list by list. On failure the loan ends before the list that failed. */
static int loan_protect(struct loan *loan, unsigned int from)
{
	while (from < loan->count) {
		unsigned int n = min_t(unsigned int, loan->count - from, FLEX_LIST_MAX);
		unsigned int i, refused;
		int ret;

		memcpy(loan->list, loan->ranges + from, n * sizeof(flex_range_t));
		for (i = 0; i < n; i++)
			flex_frames_lend(loan->ranges[from + i]);
		ret = call_with_list(FLEX_HVC_PROTECT, loan->list, n, &refused);
		if (ret) {
			pr_warn_ratelimited("protect refused: %d at range %u of %u (%#llx)\n", ret, refused, n,
					    refused < n ? loan->list[refused] : 0);
			for (i = 0; i < n; i++)
				flex_frames_unlend(loan->ranges[from + i]);
			loan_drop_from(loan, from);
			return ret;
		}
		from += n;
		cond_resched();
	}
	return 0;
}

static s64 loan_answer(const struct loan *loan, struct flex_rpc_slot *slot)
{
	memcpy(slot->data, loan->ranges, loan->count * sizeof(flex_range_t));
	WRITE_ONCE(slot->data_len, loan->count * sizeof(flex_range_t));
	return loan->count;
}

static bool bytes_are_sound(u64 bytes)
{
	return bytes && bytes <= FLEX_REQUEST_BYTES_MAX && IS_ALIGNED(bytes, FLEX_FRAME_SIZE);
}

/* ---- ALLOC ---- */

s64 flex_memory_alloc(struct flex_rpc_slot *slot)
{
	u64 bytes = READ_ONCE(slot->arg[0]);
	u64 frames = bytes >> FLEX_FRAME_SHIFT;
	unsigned int spares;
	flex_range_t range;
	struct loan loan;
	s64 ret;

	if (!bytes_are_sound(bytes))
		return -EINVAL;
	ret = loan_init(&loan, false);
	if (ret)
		return ret;
	while (loan.frames < frames && flex_frames_take_spare(ilog2(frames - loan.frames), &range))
		loan_add(&loan, range);
	spares = loan.count;
	loan_gather(&loan, frames);
	ret = loan.count ? loan_protect(&loan, spares) : -ENOMEM;
	if (loan.count)
		ret = loan_answer(&loan, slot);
	pr_debug("alloc of %llu frames: %lld, %llu frames in %u ranges, %u of them spare\n", frames, ret, loan.frames, loan.count,
		 spares);
	loan_destroy(&loan);
	return ret;
}

/* ---- LOAD ---- */

/* Reads until all is there or the file ends; returns the bytes read. Tries to pass by the page cache. */
static s64 read_into_bvec(struct file *file, u64 offset, const struct bio_vec *vec, unsigned int count, u64 bytes)
{
	bool direct = file->f_mode & FMODE_CAN_ODIRECT;
	struct iov_iter iter;
	u64 done = 0;

	while (done < bytes) {
		struct kiocb kiocb;
		ssize_t got;

		init_sync_kiocb(&kiocb, file);
		kiocb.ki_pos = offset + done;
		if (direct)
			kiocb.ki_flags |= IOCB_DIRECT;
		/* File systems differ in how far they move the iterator on a short read: build it anew. */
		iov_iter_bvec(&iter, ITER_DEST, vec, count, bytes);
		iov_iter_advance(&iter, done);
		got = vfs_iocb_iter_read(file, &kiocb, &iter);
		if (got == -EINVAL && direct) {
			direct = false;
			continue;
		}
		if (got < 0)
			return got;
		if (!got)
			break;
		done += min_t(u64, got, bytes - done);
		/* A short direct read leaves an offset that the device may not be able to start from. */
		if (!IS_ALIGNED(done, PAGE_SIZE))
			direct = false;
		cond_resched();
	}
	if (done < bytes) {
		iov_iter_bvec(&iter, ITER_DEST, vec, count, bytes);
		iov_iter_advance(&iter, done);
		iov_iter_zero(bytes - done, &iter);
	}
	return done;
}

/* Neighbours become one segment: file systems issue a request a segment at least. */
static unsigned int fill_segments(const struct loan *loan, struct bio_vec *vec)
{
	unsigned int i, count = 0;
	u64 end = 0;

	for (i = 0; i < loan->count; i++) {
		u64 address = flex_range_address(loan->ranges[i]);
		u64 bytes = FLEX_FRAME_SIZE << flex_range_order(loan->ranges[i]);

		if (count && address == end)
			vec[count - 1].bv_len += bytes;
		else
			bvec_set_page(vec + count++, range_page(loan->ranges[i]), bytes, 0);
		end = address + bytes;
	}
	return count;
}

static s64 loan_read(struct loan *loan, struct file *file, u64 offset)
{
	struct bio_vec *vec = kvmalloc_array(loan->count, sizeof(*vec), GFP_KERNEL | __GFP_NOWARN);
	u64 start = ktime_get_ns();
	s64 ret;

	if (!vec)
		return -ENOMEM;
	ret = read_into_bvec(file, offset, vec, fill_segments(loan, vec), loan->frames << FLEX_FRAME_SHIFT);
	kvfree(vec);
	flex_count(FLEX_COUNT_READ_NS, ktime_get_ns() - start);
	flex_count(FLEX_COUNT_READ_BYTES, ret > 0 ? ret : 0);
	return ret;
}

/*
 * Makes a chunk that was split for I/O whole again. It fails while somebody else holds one of its pages: I/O may do so a moment
 * longer than the read, and such a page must not become unreadable. Afterwards nobody can get hold of one.
 */
static bool fuse_chunk(struct page *page, unsigned int order)
{
	unsigned long i, count = 1ul << order;

	for (i = 1; i < count && page_ref_freeze(page + i, 1); i++)
		;
	if (i == count && page_count(page) == 1)
		return true;
	while (--i)
		page_ref_unfreeze(page + i, 1);
	return false;
}

/* All chunks whole, or all split. */
static int loan_fuse(struct loan *loan)
{
	unsigned int tries = 0, i = 0;
	unsigned long k;

	while (i < loan->count) {
		flex_range_t range = loan->ranges[i];

		if (fuse_chunk(range_page(range), flex_range_order(range))) {
			i++;
		} else if (tries++ < FLEX_BUSY_RETRIES) {
			usleep_range(50, 100);
		} else {
			while (i--)
				for (k = 1; k < 1ul << flex_range_order(loan->ranges[i]); k++)
					page_ref_unfreeze(range_page(loan->ranges[i]) + k, 1);
			return -EBUSY;
		}
	}
	loan->file_pages = false;
	return 0;
}

static s64 load_into(struct loan *loan, struct file *file, u64 offset, u64 frames, u64 *file_bytes)
{
	unsigned int i;
	s64 ret;

	loan_gather(loan, frames);
	if (loan->frames < frames)
		return -ENOMEM;
	ret = loan_read(loan, file, offset);
	if (ret < 0)
		return ret;
	*file_bytes = ret;
	ret = loan_fuse(loan);
	if (ret)
		return ret;
	ret = loan_protect(loan, 0);
	if (!ret)
		return 0;
	/* What the lists before the one that failed have protected. */
	for (i = 0; i < loan->count; i++)
		flex_frames_add_spare(loan->ranges[i]);
	loan->count = 0;
	return ret;
}

s64 flex_memory_load(struct flex_rpc_slot *slot, struct file *file)
{
	u64 offset = READ_ONCE(slot->arg[1]), bytes = READ_ONCE(slot->arg[2]);
	u64 file_bytes = 0;
	struct loan loan;
	s64 ret;

	if (!bytes_are_sound(bytes) || !IS_ALIGNED(offset, FLEX_FRAME_SIZE) || offset > LLONG_MAX - bytes)
		return -EINVAL;
	if (!(file->f_mode & FMODE_READ) || !(file->f_mode & FMODE_CAN_READ))
		return -EBADF;
	ret = loan_init(&loan, true);
	if (ret)
		return ret;
	ret = load_into(&loan, file, offset, bytes >> FLEX_FRAME_SHIFT, &file_bytes);
	if (ret) {
		loan_drop_from(&loan, 0);
	} else {
		ret = loan_answer(&loan, slot);
		WRITE_ONCE(slot->out[0], file_bytes);
	}
	pr_debug("load of %llu bytes at %llu: %lld, %llu bytes read\n", bytes, offset, ret, file_bytes);
	loan_destroy(&loan);
	return ret;
}

/* ---- GIVE_BACK ---- */

static void free_recalled(flex_range_t range)
{
	u64 start = ktime_get_ns();

	flex_frames_free(range);
	flex_count(FLEX_COUNT_FREE_NS, ktime_get_ns() - start);
	flex_reclaim_note(1ul << flex_range_order(range));
}

static int recall_claimed_one(flex_range_t range)
{
	int ret = flex_memory_recall_one(range);

	if (ret)
		flex_frames_unclaim(range);
	else
		free_recalled(range);
	return ret;
}

/* Recalls the claimed ranges of recall_list and frees them; one that the monitor refuses does not hold up the others. */
static int recall_claimed_list(unsigned int count)
{
	unsigned int i;
	int ret, one;

	if (!count)
		return 0;
	ret = call_with_list(FLEX_HVC_RECALL, recall_list, count, NULL);
	if (!ret) {
		for (i = 0; i < count; i++)
			free_recalled(recall_list[i]);
		return 0;
	}
	for (i = 0; i < count; i++) {
		one = recall_claimed_one(recall_list[i]);
		if (one)
			pr_warn_ratelimited("recall of %#llx refused: %d\n", recall_list[i], one);
	}
	return ret;
}

s64 flex_memory_give_back(struct flex_rpc_slot *slot)
{
	const flex_range_t *ranges = (const flex_range_t *)slot->data;
	u64 count = READ_ONCE(slot->arg[0]);
	u64 next = 0;
	s64 ret = 0;

	if (!count || count > FLEX_RPC_DATA_BYTES / sizeof(flex_range_t))
		return -EINVAL;
	mutex_lock(&flex_recall_lock);
	while (next < count) {
		unsigned int n = 0;
		u64 frames = 0;
		int failed;

		for (; n < FLEX_LIST_MAX && frames < FLEX_LIST_FRAMES_MAX && next < count; next++) {
			flex_range_t range = READ_ONCE(ranges[next]);

			if (flex_frames_claim(range)) {
				pr_warn_ratelimited("given back, but not lent: %#llx\n", range);
				ret = -EINVAL;
				continue;
			}
			recall_list[n++] = range;
			frames += 1ull << flex_range_order(range);
		}
		for (u32 i = 0; i < n; i++)
			pr_debug("  %#llx\n", recall_list[i]);
		failed = recall_claimed_list(n);
		if (failed)
			ret = failed;
		cond_resched();
	}
	mutex_unlock(&flex_recall_lock);
	pr_debug("give back of %llu ranges: %lld\n", count, ret);
	return ret;
}

/* ---- the end of a program ---- */

static int recall_one(flex_range_t range)
{
	return flex_frames_claim(range) ? -EINVAL : recall_claimed_one(range);
}

void flex_memory_collect(void)
{
	unsigned long frame = 0;
	flex_range_t range;

	mutex_lock(&flex_recall_lock);
	while (flex_frames_next_lent(&frame, 9, &range)) {
		u64 at, end;

		if (!recall_one(range))
			continue;
		end = flex_range_address(range) + (FLEX_FRAME_SIZE << flex_range_order(range));
		for (at = flex_range_address(range); at < end; at += FLEX_FRAME_SIZE) {
			if (flex_range_order(range) && !recall_one(FLEX_RANGE(at, 0)))
				continue;
			if (!flex_frames_claim(FLEX_RANGE(at, 0))) {
				flex_frames_unclaim(FLEX_RANGE(at, 0));
				flex_frames_add_spare(FLEX_RANGE(at, 0));
			}
			cond_resched();
		}
	}
	mutex_unlock(&flex_recall_lock);
}
