// SPDX-License-Identifier: GPL-2.0
/*
 * A contiguous region that is made by migrating what lies in it, with what CMA uses (mm/cma.c: alloc_contig_range, and the next place
 * when one does not do). Unlike a CMA region no part of memory is kept free of what cannot be migrated, so places fail more often here:
 * only the attempt that succeeds is timed.
 *
 * /sys/module/flexbench/parameters/contiguous: write bytes (they are taken and given back), read "alloc_ns free_ns places" of the
 * last time; "0 0 places" when there was no place.
 */
#include <linux/gfp.h>
#include <linux/ktime.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

static unsigned long dram_base = 0x40000000, dram_mib = 2048;
module_param(dram_base, ulong, 0444);
module_param(dram_mib, ulong, 0444);

static u64 alloc_ns, free_ns;
static unsigned int places;

static bool take(unsigned long pfn, unsigned long pages)
{
	u64 start = ktime_get_ns();

	if (!pfn_to_online_page(pfn) || !pfn_to_online_page(pfn + pages - 1))
		return false;
	places++;
	if (alloc_contig_range(pfn, pfn + pages, MIGRATE_MOVABLE, GFP_KERNEL | __GFP_NOWARN))
		return false;
	alloc_ns = ktime_get_ns() - start;
	start = ktime_get_ns();
	free_contig_range(pfn, pages);
	free_ns = ktime_get_ns() - start;
	return true;
}

/* From the end of memory downwards: the kernel's own pages lie at its start. */
static int contiguous_set(const char *text, const struct kernel_param *parameter)
{
	unsigned long bytes, pages, pfn, step, first = PHYS_PFN(dram_base);
	int ret = kstrtoul(text, 0, &bytes);

	if (ret)
		return ret;
	if (!bytes || !IS_ALIGNED(bytes, PMD_SIZE) || bytes >= dram_mib << 20)
		return -EINVAL;
	pages = PHYS_PFN(bytes);
	step = PHYS_PFN(SZ_32M);
	alloc_ns = 0;
	free_ns = 0;
	places = 0;
	for (pfn = round_down(first + PHYS_PFN(dram_mib << 20) - pages, step); pfn > first; pfn -= step) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (take(pfn, pages))
			break;
		cond_resched();
	}
	return 0;
}

static int contiguous_get(char *buffer, const struct kernel_param *parameter)
{
	return sysfs_emit(buffer, "%llu %llu %u\n", alloc_ns, free_ns, places);
}

static const struct kernel_param_ops contiguous_ops = { .set = contiguous_set, .get = contiguous_get };
module_param_cb(contiguous, &contiguous_ops, NULL, 0600);

static int __init flexbench_init(void)
{
	return 0;
}

static void __exit flexbench_exit(void)
{
}

module_init(flexbench_init);
module_exit(flexbench_exit);

MODULE_DESCRIPTION("FlexServe: contiguous allocation, for comparison");
MODULE_LICENSE("GPL");
