// SPDX-License-Identifier: GPL-2.0
/* Memory of programs that the NPU may reach: pinned, and described by the two-level table of abi/npu.h. */
#include <linux/dma-mapping.h>
#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "npu.h"

struct npu_page {
	__le64 *entries;
	dma_addr_t address;
};

struct npu_mapping {
	struct kref references;
	struct device *device;
	u64 bytes;
	struct sg_table pages;
	bool dma_mapped;
	struct npu_page table;
	unsigned int blocks;
	struct npu_page *leaves;	/* one a block, without entries where a block lies together */
};

static_assert(PAGE_SIZE == FLEX_NPU_PAGE, "a page of a region is a page of Linux'");

static int page_alloc(struct device *device, struct npu_page *page)
{
	page->entries = dma_alloc_coherent(device, FLEX_NPU_PAGE, &page->address, GFP_KERNEL);
	return page->entries ? 0 : -ENOMEM;
}

static void page_free(struct device *device, struct npu_page *page)
{
	if (page->entries)
		dma_free_coherent(device, FLEX_NPU_PAGE, page->entries, page->address);
}

static void unpin(struct sg_table *pages)
{
	struct scatterlist *entry;
	unsigned int i;

	for_each_sgtable_sg(pages, entry, i)
		unpin_user_page_range_dirty_lock(sg_page(entry), entry->length >> PAGE_SHIFT, true);
	sg_free_table(pages);
}

static void mapping_free(struct kref *references)
{
	struct npu_mapping *mapping = container_of(references, struct npu_mapping, references);
	unsigned int i;

	for (i = 0; mapping->leaves && i < mapping->blocks; i++)
		page_free(mapping->device, mapping->leaves + i);
	page_free(mapping->device, &mapping->table);
	kvfree(mapping->leaves);
	if (mapping->dma_mapped)
		dma_unmap_sgtable(mapping->device, &mapping->pages, DMA_BIDIRECTIONAL, 0);
	if (mapping->pages.sgl)
		unpin(&mapping->pages);
	put_device(mapping->device);
	kfree(mapping);
}

void npu_mapping_get(struct npu_mapping *mapping)
{
	kref_get(&mapping->references);
}

void npu_mapping_put(struct npu_mapping *mapping)
{
	kref_put(&mapping->references, mapping_free);
}

u64 npu_mapping_bytes(const struct npu_mapping *mapping)
{
	return mapping->bytes;
}

u64 npu_mapping_table(const struct npu_mapping *mapping)
{
	return mapping->table.address;
}

void npu_mapping_to_device(struct npu_mapping *mapping)
{
	dma_sync_sgtable_for_device(mapping->device, &mapping->pages, DMA_BIDIRECTIONAL);
}

void npu_mapping_to_cpu(struct npu_mapping *mapping)
{
	dma_sync_sgtable_for_cpu(mapping->device, &mapping->pages, DMA_BIDIRECTIONAL);
}

/* For writing always: which operands a job writes is the job's affair. */
static int pin(struct npu_mapping *mapping, unsigned long address)
{
	unsigned long count = mapping->bytes >> PAGE_SHIFT, pinned = 0;
	struct page **pages = kvmalloc_array(count, sizeof(*pages), GFP_KERNEL);
	int ret = -ENOMEM;

	if (!pages)
		return ret;
	while (pinned < count) {
		ret = pin_user_pages_fast(address + (pinned << PAGE_SHIFT), min_t(unsigned long, count - pinned, INT_MAX),
					  FOLL_WRITE | FOLL_LONGTERM, pages + pinned);
		if (ret <= 0)
			goto fail;
		pinned += ret;
	}
	ret = sg_alloc_table_from_pages(&mapping->pages, pages, count, 0, mapping->bytes, GFP_KERNEL);
	if (!ret) {
		kvfree(pages);
		return 0;
	}
	mapping->pages.sgl = NULL;
fail:
	unpin_user_pages(pages, pinned);
	kvfree(pages);
	return ret ? ret : -EFAULT;
}

/* Puts the addresses of one block into a page of its own, or into the table alone when they lie together. */
static int add_block(struct npu_mapping *mapping, unsigned int block, const dma_addr_t *addresses, unsigned int count)
{
	struct npu_page *leaf = mapping->leaves + block;
	unsigned int i;
	int ret;

	for (i = 1; i < count && addresses[i] == addresses[0] + i * FLEX_NPU_PAGE; i++)
		;
	if (i == FLEX_NPU_ENTRIES) {
		mapping->table.entries[block] = cpu_to_le64(addresses[0] | FLEX_NPU_ENTRY_BLOCK);
		return 0;
	}
	ret = page_alloc(mapping->device, leaf);
	if (ret)
		return ret;
	for (i = 0; i < count; i++)
		leaf->entries[i] = cpu_to_le64(addresses[i]);
	mapping->table.entries[block] = cpu_to_le64(leaf->address);
	return 0;
}

static int build_table(struct npu_mapping *mapping)
{
	dma_addr_t *addresses = kmalloc_array(FLEX_NPU_ENTRIES, sizeof(*addresses), GFP_KERNEL);
	struct sg_dma_page_iter at;
	unsigned int block = 0, count = 0;
	int ret = 0;

	if (!addresses)
		return -ENOMEM;
	for_each_sgtable_dma_page(&mapping->pages, &at, 0) {
		addresses[count++] = sg_page_iter_dma_address(&at);
		if (count < FLEX_NPU_ENTRIES)
			continue;
		ret = add_block(mapping, block++, addresses, count);
		if (ret)
			break;
		count = 0;
	}
	if (!ret && count)
		ret = add_block(mapping, block, addresses, count);
	kfree(addresses);
	return ret;
}

static int fill(struct npu_mapping *mapping, unsigned long address)
{
	int ret = pin(mapping, address);

	if (ret)
		return ret;
	ret = dma_map_sgtable(mapping->device, &mapping->pages, DMA_BIDIRECTIONAL, 0);
	if (ret)
		return ret;
	mapping->dma_mapped = true;
	mapping->blocks = DIV_ROUND_UP_ULL(mapping->bytes, FLEX_NPU_BLOCK);
	mapping->leaves = kvcalloc(mapping->blocks, sizeof(*mapping->leaves), GFP_KERNEL);
	if (!mapping->leaves)
		return -ENOMEM;
	ret = page_alloc(mapping->device, &mapping->table);
	return ret ? ret : build_table(mapping);
}

struct npu_mapping *npu_mapping_create(unsigned long address, u64 bytes)
{
	struct npu_mapping *mapping;
	struct device *device = NULL;
	int ret;

	if (!bytes || bytes > FLEX_NPU_REGION_BYTES_MAX || !PAGE_ALIGNED(address | bytes) || address + bytes < address)
		return ERR_PTR(-EINVAL);
	mutex_lock(&npu.reach_lock);
	if (npu.vdev)
		device = get_device(npu.vdev->dev.parent);
	mutex_unlock(&npu.reach_lock);
	if (!device)
		return ERR_PTR(-ENODEV);
	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);
	if (!mapping) {
		put_device(device);
		return ERR_PTR(-ENOMEM);
	}
	kref_init(&mapping->references);
	mapping->device = device;
	mapping->bytes = bytes;
	ret = fill(mapping, address);
	if (!ret)
		return mapping;
	npu_mapping_put(mapping);
	return ERR_PTR(ret);
}
