// SPDX-License-Identifier: GPL-2.0
/*
 * Looks for secrets in all of normal DRAM. Patterns come XOR-masked and stay so: in clear they exist nowhere but where somebody
 * leaked them. Every frame is read through the direct map; lent ones abort and are counted.
 */
#include <linux/bitmap.h>
#include <linux/cpumask.h>
#include <linux/hex.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "attack.h"

#define PATTERNS_MAX 128
#define PATTERN_BYTES_MIN 8
#define PATTERN_BYTES_MAX 256
/* Frames a worker takes at once. */
#define PORTION 4096

struct pattern {
	u8 masked[PATTERN_BYTES_MAX];
	unsigned int bytes;
	atomic_t hits;
	u64 where;
};

static struct pattern *patterns;
static unsigned int pattern_count;
static u8 mask;
/* Bit per pair of bytes that some pattern starts with (in clear: two bytes tell nothing). */
static unsigned long *starts;
static atomic_long_t next_pfn, scanned, aborted;
static unsigned long end_pfn;

static int add_pattern(const u8 *masked, unsigned int bytes)
{
	struct pattern *p = patterns + pattern_count;

	if (pattern_count == PATTERNS_MAX || bytes < PATTERN_BYTES_MIN || bytes > PATTERN_BYTES_MAX)
		return -EINVAL;
	memcpy(p->masked, masked, bytes);
	p->bytes = bytes;
	__set_bit((masked[0] ^ mask) | (masked[1] ^ mask) << 8, starts);
	pattern_count++;
	return 0;
}

static bool matches(const struct pattern *p, const u8 *at)
{
	unsigned int i;

	for (i = 0; i < p->bytes; i++)
		if ((at[i] ^ mask) != p->masked[i])
			return false;
	return true;
}

/* @bytes of a buffer, in which a pattern may begin at [0, PAGE_SIZE). */
static void search(const u8 *buffer, unsigned int bytes, u64 address)
{
	unsigned int i, k;

	for (i = 0; i < PAGE_SIZE && i + PATTERN_BYTES_MIN <= bytes; i++) {
		if (likely(!test_bit(buffer[i] | buffer[i + 1] << 8, starts)))
			continue;
		for (k = 0; k < pattern_count; k++) {
			if (i + patterns[k].bytes <= bytes && matches(patterns + k, buffer + i)) {
				if (!atomic_fetch_inc(&patterns[k].hits))
					patterns[k].where = address + i;
			}
		}
	}
}

static bool is_zero(const u8 *buffer)
{
	return !memchr_inv(buffer, 0, PAGE_SIZE);
}

struct worker {
	struct work_struct work;
	u8 *buffer; /* the frame, and behind it the beginning of the next */
};

static bool read_frame(unsigned long pfn, void *into, unsigned int bytes)
{
	return pfn < end_pfn && pfn_is_map_memory(pfn) && !copy_from_kernel_nofault(into, pfn_to_kaddr(pfn), bytes);
}

static void scan_portion(struct worker *w, unsigned long pfn)
{
	unsigned long end = min(pfn + PORTION, end_pfn);
	unsigned long own = page_to_pfn(virt_to_page(w->buffer));

	for (; pfn < end; pfn++) {
		unsigned int bytes = PAGE_SIZE;

		/* What a worker holds is a copy; the frame it came from is what counts. */
		if (!pfn_is_map_memory(pfn) || pfn == own || pfn == own + 1)
			continue;
		if (!read_frame(pfn, w->buffer, PAGE_SIZE)) {
			atomic_long_inc(&aborted);
			continue;
		}
		atomic_long_inc(&scanned);
		if (is_zero(w->buffer))
			continue;
		if (read_frame(pfn + 1, w->buffer + PAGE_SIZE, PATTERN_BYTES_MAX))
			bytes += PATTERN_BYTES_MAX;
		search(w->buffer, bytes, PFN_PHYS(pfn));
		cond_resched();
	}
}

static void scan_work(struct work_struct *work)
{
	struct worker *w = container_of(work, struct worker, work);

	for (;;) {
		unsigned long pfn = atomic_long_fetch_add(PORTION, &next_pfn);

		if (pfn >= end_pfn)
			break;
		scan_portion(w, pfn);
	}
	memzero_explicit(w->buffer, 2 * PAGE_SIZE);
}

static int scan_all(void)
{
	struct worker *workers = kcalloc(nr_cpu_ids, sizeof(*workers), GFP_KERNEL);
	unsigned int cpu;
	int ret = 0;

	if (!workers)
		return -ENOMEM;
	atomic_long_set(&next_pfn, PHYS_PFN(BOARD_DRAM_BASE));
	atomic_long_set(&scanned, 0);
	atomic_long_set(&aborted, 0);
	end_pfn = PHYS_PFN(virt_to_phys(high_memory - 1)) + 1;
	for_each_online_cpu(cpu) {
		workers[cpu].buffer = (u8 *)__get_free_pages(GFP_KERNEL, 1);
		if (!workers[cpu].buffer) {
			ret = -ENOMEM;
			break;
		}
		INIT_WORK(&workers[cpu].work, scan_work);
		queue_work(system_unbound_wq, &workers[cpu].work);
	}
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		if (!workers[cpu].buffer)
			continue;
		flush_work(&workers[cpu].work);
		free_pages((unsigned long)workers[cpu].buffer, 1);
	}
	kfree(workers);
	return ret;
}

static int parse(char *arguments)
{
	u8 bytes[PATTERN_BYTES_MAX];
	char *word = strsep(&arguments, " ");
	int ret = word && strlen(word) == 2 ? hex2bin(&mask, word, 1) : -EINVAL;

	while (!ret && (word = strsep(&arguments, " ")) != NULL) {
		size_t length = strlen(word);

		if (!length)
			continue;
		if (length % 2 || length > 2 * PATTERN_BYTES_MAX || hex2bin(bytes, word, length / 2))
			return -EINVAL;
		ret = add_pattern(bytes, length / 2);
	}
	return !ret && !pattern_count ? -EINVAL : ret;
}

/* A random pattern that does lie in memory: a scan that misses it would prove nothing. */
static struct page *plant(void)
{
	struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	u8 masked[64];
	unsigned int i;

	if (!page)
		return NULL;
	get_random_bytes(masked, sizeof(masked));
	for (i = 0; i < sizeof(masked); i++)
		((u8 *)page_address(page))[PAGE_SIZE - 100 + i] = masked[i] ^ mask;
	if (!add_pattern(masked, sizeof(masked)))
		return page;
	__free_page(page);
	return NULL;
}

static void judge(struct report *r, unsigned int given)
{
	unsigned int k;

	for (k = 0; k < given; k++) {
		if (atomic_read(&patterns[k].hits)) {
			breach(r, "pattern %u of %u lies in normal memory, first at %#llx (%d times)", k + 1, given,
			       patterns[k].where, atomic_read(&patterns[k].hits));
			return;
		}
	}
	if (!atomic_read(&patterns[given].hits))
		failed(r, "the scan missed the pattern that was planted for it");
	else
		blocked(r, "none of %u patterns in %ld frames of normal memory; %ld frames could not be read", given,
			atomic_long_read(&scanned), atomic_long_read(&aborted));
}

static void scan(struct report *r, char *arguments)
{
	struct page *planted = NULL;
	unsigned int given;

	patterns = kcalloc(PATTERNS_MAX, sizeof(*patterns), GFP_KERNEL);
	starts = bitmap_zalloc(65536, GFP_KERNEL);
	pattern_count = 0;
	if (!patterns || !starts) {
		failed(r, "no memory");
	} else if (parse(arguments)) {
		failed(r, "usage: scan MASK PATTERN...: a byte in hex, then up to %u patterns of %u to %u bytes, XORed with it, in hex",
		       PATTERNS_MAX - 1, PATTERN_BYTES_MIN, PATTERN_BYTES_MAX);
	} else {
		given = pattern_count;
		planted = plant();
		if (!planted || scan_all())
			failed(r, "no memory");
		else
			judge(r, given);
	}
	if (planted) {
		clear_page(page_address(planted));
		__free_page(planted);
	}
	kfree(patterns);
	bitmap_free(starts);
}

const struct attack scan_attacks[] = {
	{ "scan", "MASK PATTERN...: look for XOR-masked patterns in all normal memory", scan },
	{}
};
