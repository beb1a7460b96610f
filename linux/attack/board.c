// SPDX-License-Identifier: GPL-2.0
/* Devices that reach memory past the SMMU, and the SMMU itself. */
#include <linux/delay.h>
#include <linux/io.h>

#include "attack.h"

/* A device's register that must not answer. True when it did not. */
static bool is_out_of_reach(u64 address, u32 *value)
{
	void *mapping = map_frame(address, MAP_UNCACHED);
	int ret;

	if (!mapping)
		return true;
	ret = peek32(mapping + (address & ~PAGE_MASK), value);
	unmap_frame(mapping, address, MAP_UNCACHED);
	return ret != 0;
}

/* ---- fw_cfg (QEMU docs/specs/fw_cfg) ---- */

#define FW_CFG_DMA_REGISTER 0x10
#define FW_CFG_DMA_SELECT 0x08
#define FW_CFG_DMA_READ 0x02
#define FW_CFG_SIGNATURE 0x0000

struct fw_cfg_dma {
	__be32 control;
	__be32 length;
	__be64 address;
};

/* Lets fw_cfg write its signature to @target. The request itself lies in a page of ours. */
static bool fw_cfg_write_to(void *registers, void *request_page, u64 target)
{
	struct fw_cfg_dma *request = request_page;
	u64 where = virt_to_phys(request);

	request->control = cpu_to_be32(FW_CFG_SIGNATURE << 16 | FW_CFG_DMA_SELECT | FW_CFG_DMA_READ);
	request->length = cpu_to_be32(4);
	request->address = cpu_to_be64(target);
	dma_wmb();
	if (poke32(registers + FW_CFG_DMA_REGISTER, (__force u32)cpu_to_be32(upper_32_bits(where))) ||
	    poke32(registers + FW_CFG_DMA_REGISTER + 4, (__force u32)cpu_to_be32(lower_32_bits(where))))
		return false;
	mdelay(1);
	return !READ_ONCE(request->control);
}

static void fw_cfg(struct report *r, char *arguments)
{
	void *registers = map_frame(BOARD_FW_CFG_BASE, MAP_UNCACHED);
	void *page = (void *)get_zeroed_page(GFP_KERNEL);
	u64 canary;
	u32 value;

	if (!registers || !page || canary_get(0, &canary))
		failed(r, "no memory");
	else if (is_out_of_reach(BOARD_FW_CFG_BASE, &value) && !fw_cfg_write_to(registers, page, canary))
		blocked(r, "fw_cfg is out of reach: every access to its registers aborted");
	else if (fw_cfg_write_to(registers, page, virt_to_phys(page + 2048)) && !memcmp(page + 2048, "QEMU", 4))
		breach(r, "fw_cfg did DMA past the SMMU%s", fw_cfg_write_to(registers, page, canary) ? ", into Flex-Mem too" : "");
	else
		breach(r, "fw_cfg's registers are in reach (value %#x)", value);
}

static void virtio_mmio(struct report *r, char *arguments)
{
	u64 address;
	u32 value = 0;

	for (address = BOARD_VIRTIO_MMIO_BASE; address < BOARD_VIRTIO_MMIO_BASE + BOARD_VIRTIO_MMIO_BYTES; address += 0x200) {
		if (!is_out_of_reach(address, &value)) {
			breach(r, "virtio-mmio at %#llx answers (%#x): it does DMA past the SMMU", address, value);
			return;
		}
	}
	blocked(r, "every virtio-mmio transport is out of reach");
}

/* ---- GIC: LPI tables are read and written by the redistributor, past the SMMU (IHI 0069, 5.1, 12.11) ---- */

#define GICR_CTLR 0x0000
#define GICR_PROPBASER 0x0070
#define GICR_PENDBASER 0x0078
#define GICR_CTLR_ENABLE_LPIS 1
#define GITS_BASE 0x08080000
#define GITS_CTLR 0x0000
#define GITS_TYPER 0x0008

static void gic_lpi(struct report *r, char *arguments)
{
	void *redistributor = map_frame(BOARD_GICR_BASE, MAP_UNCACHED);
	u64 canary, denied = monitor_stat(FLEX_STAT_REGISTERS_DENIED);
	u64 property = 0, pending = 0;
	u32 control = 0, before = 0, its;
	unsigned long flags;

	if (!redistributor || canary_get(0, &canary)) {
		failed(r, "the redistributor could not be mapped");
		return;
	}
	peek32(redistributor + GICR_CTLR, &before);
	poke64(redistributor + GICR_PROPBASER, canary | 15);
	poke64(redistributor + GICR_PENDBASER, canary & ~0xffffull);
	/* Off again at once: whatever lies in the tables would come as interrupts that nobody handles. */
	local_irq_save(flags);
	poke32(redistributor + GICR_CTLR, before | GICR_CTLR_ENABLE_LPIS);
	peek64(redistributor + GICR_PROPBASER, &property);
	peek64(redistributor + GICR_PENDBASER, &pending);
	peek32(redistributor + GICR_CTLR, &control);
	poke32(redistributor + GICR_CTLR, before);
	local_irq_restore(flags);
	unmap_frame(redistributor, BOARD_GICR_BASE, MAP_UNCACHED);
	if (control & GICR_CTLR_ENABLE_LPIS)
		breach(r, "LPIs were enabled with their tables at %#llx and %#llx", property, pending);
	else if ((property ^ canary) < PAGE_SIZE || ((pending ^ canary) < 0x10000 && pending & PAGE_MASK))
		breach(r, "the LPI tables were placed in Flex-Mem (%#llx, %#llx)", property, pending);
	else if (!is_out_of_reach(GITS_BASE + GITS_TYPER, &its) && its)
		breach(r, "an ITS answers (%#x)", its);
	else
		blocked(r, "LPIs stay off, the table registers keep nothing (%llu writes denied), there is no ITS",
			monitor_stat(FLEX_STAT_REGISTERS_DENIED) - denied);
}

/* ---- SMMU ---- */

#define SMMU_CR0 0x20
#define SMMU_GBPA 0x44
#define SMMU_STRTAB_BASE 0x80

static void smmu(struct report *r, char *arguments)
{
	static const u32 registers[] = { 0, SMMU_CR0, SMMU_GBPA, SMMU_STRTAB_BASE };
	unsigned int i;
	u64 page;
	u32 value;

	for (i = 0; i < ARRAY_SIZE(registers); i++) {
		if (!is_out_of_reach(BOARD_SMMU_BASE + registers[i], &value)) {
			breach(r, "SMMU register %#x is in reach (%#x)", registers[i], value);
			return;
		}
	}
	for (page = 0; page < BOARD_SMMU_BYTES; page += PAGE_SIZE) {
		void *mapping = map_frame(BOARD_SMMU_BASE + page, MAP_UNCACHED);
		int ret = mapping ? poke32(mapping + 0xff8, 0) : -ENOMEM;

		if (mapping)
			unmap_frame(mapping, BOARD_SMMU_BASE + page, MAP_UNCACHED);
		if (!ret) {
			breach(r, "SMMU page %#llx is writable", page);
			return;
		}
	}
	blocked(r, "the SMMU's registers are out of reach");
}

const struct attack board_attacks[] = {
	{ "fw-cfg", "DMA into Flex-Mem by fw_cfg, which the SMMU does not see", fw_cfg },
	{ "virtio-mmio", "reach a virtio-mmio transport, whose DMA the SMMU does not see", virtio_mmio },
	{ "gic-lpi", "place the interrupt controller's LPI tables in Flex-Mem", gic_lpi },
	{ "smmu", "reach the SMMU's registers", smmu },
	{}
};
