// SPDX-License-Identifier: GPL-2.0
/*
 * A contiguous region that is made by migrating what lies in it, as CMA does (mm/cma.c): one region, set apart at the start. Its
 * page blocks are of type CMA, so Linux puts movable pages there and no others; alloc_contig_range() migrates them when the
 * region is wanted. What takes part of it takes the part at its beginning, as a region behind TrustZone's address filter grows:
 * from a fixed base.
 *
 * /sys/module/flexbench/parameters/contiguous: write bytes (they are taken and given back), read "alloc_ns free_ns tries" of the
 * last time; "0 0 tries" when they were not to be had. A try that fails (a page was pinned for the moment) is part of the time.
 * region: "base_pfn pages" of it.
 */
#include <linux/gfp.h>
#include <linux/ktime.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

#define FLEX_TRIES 20

static unsigned long dram_base = 0x40000000, dram_mib = 2048, region_mib = 1024;
module_param(dram_base, ulong, 0444);
module_param(dram_mib, ulong, 0444);
module_param(region_mib, ulong, 0444);

static unsigned long region_pfn, region_pages;
static u64 alloc_ns, free_ns;
static unsigned int tries;

static int take(unsigned long pfn, unsigned long pages, unsigned int type)
{
	return alloc_contig_range(pfn, pfn + pages, type, GFP_KERNEL | __GFP_NOWARN);
}

static int contiguous_set(const char *text, const struct kernel_param *parameter)
{
	unsigned long bytes, pages;
	int ret = kstrtoul(text, 0, &bytes);
	u64 start;

	if (ret)
		return ret;
	pages = PHYS_PFN(bytes);
	if (!bytes || !IS_ALIGNED(bytes, PMD_SIZE) || pages > region_pages)
		return -EINVAL;
	alloc_ns = 0;
	free_ns = 0;
	tries = 0;
	start = ktime_get_ns();
	do {
		if (fatal_signal_pending(current))
			return -EINTR;
		tries++;
		ret = take(region_pfn, pages, MIGRATE_CMA);
	} while (ret == -EBUSY && tries < FLEX_TRIES);
	if (ret)
		return 0;
	alloc_ns = ktime_get_ns() - start;
	start = ktime_get_ns();
	free_contig_range(region_pfn, pages);
	free_ns = ktime_get_ns() - start;
	return 0;
}

static int contiguous_get(char *buffer, const struct kernel_param *parameter)
{
	return sysfs_emit(buffer, "%llu %llu %u\n", alloc_ns, free_ns, tries);
}

static const struct kernel_param_ops contiguous_ops = { .set = contiguous_set, .get = contiguous_get };
module_param_cb(contiguous, &contiguous_ops, NULL, 0600);

static int region_get(char *buffer, const struct kernel_param *parameter)
{
	return sysfs_emit(buffer, "%lu %lu\n", region_pfn, region_pages);
}

static const struct kernel_param_ops region_ops = { .get = region_get };
module_param_cb(region, &region_ops, NULL, 0400);

/* From the end of memory downwards: the kernel's own pages lie at its start. */
static int __init flexbench_init(void)
{
	unsigned long first = PHYS_PFN(dram_base), pages = PHYS_PFN(region_mib << 20), step = PHYS_PFN(SZ_32M), pfn;

	if (!region_mib || region_mib >= dram_mib || !IS_ALIGNED(region_mib << 20, SZ_32M))
		return -EINVAL;
	for (pfn = round_down(first + PHYS_PFN(dram_mib << 20) - pages, step); pfn > first; pfn -= step) {
		if (!pfn_to_online_page(pfn) || !pfn_to_online_page(pfn + pages - 1) || take(pfn, pages, MIGRATE_MOVABLE))
			continue;
		free_contig_range(pfn, pages);
		if (take(pfn, pages, MIGRATE_CMA)) /* the blocks become CMA's, and stay */
			continue;
		free_contig_range(pfn, pages);
		region_pfn = pfn;
		region_pages = pages;
		return 0;
	}
	return -ENOMEM;
}

static void __exit flexbench_exit(void)
{
}

module_init(flexbench_init);
module_exit(flexbench_exit);

MODULE_DESCRIPTION("FlexServe: contiguous allocation, for comparison");
MODULE_LICENSE("GPL");
