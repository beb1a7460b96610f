// SPDX-License-Identifier: GPL-2.0
/* The NPU between the worlds: what a hostile kernel does with it before, while and after the secure world has it. */
#include <linux/delay.h>

#include "copier.h"
#include "npu_raw.h"

#define MARK 0x6d61726bu
#define EVIL 0x6576696c6576696cull

/* ---- Flex mode: registers and configuration ---- */

static bool reaches_registers(struct report *r, struct raw_npu *n)
{
	unsigned int bar;
	u32 value = 0;
	u64 page;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		for (page = 0; page < pci_resource_len(n->pci, bar); page += PAGE_SIZE) {
			if (raw_touches(pci_resource_start(n->pci, bar) + page, &value)) {
				breach(r, "the NPU's registers at %#llx answer in Flex mode: %#x",
				       pci_resource_start(n->pci, bar) + page, value);
				return true;
			}
		}
	}
	return false;
}

static bool reaches_configuration(struct report *r, struct raw_npu *n)
{
	u64 ecam = BOARD_PCIE_ECAM_BASE + (PCI_DEVFN(BOARD_NPU_SLOT, 0) << 12);
	void *mapping = map_frame(ecam, MAP_UNCACHED);
	unsigned int reg;
	u32 value, direct;

	for (reg = 0; mapping && reg < 256; reg += 4) {
		pci_read_config_dword(n->pci, reg, &value);
		if (value != ~0u || (!peek32(mapping + reg, &direct) && direct != ~0u)) {
			breach(r, "the NPU's configuration can be read in Flex mode: %#x is %#x", reg, value);
			break;
		}
		/* All of it, not least the window on registers in configuration space (Virtio 1.2, 4.1.4.9). */
		pci_write_config_dword(n->pci, reg, 0);
		poke32(mapping + reg, 0);
	}
	if (mapping)
		unmap_frame(mapping, ecam, MAP_UNCACHED);
	return r->verdict == VERDICT_BREACH;
}

/* Another device's DMA to its registers. The copier's buffer must not show what they hold. */
static bool device_reaches_registers(struct report *r, struct raw_npu *n, bool expected)
{
	struct page *window = alloc_page(GFP_KERNEL);
	u32 *words;
	bool reached;

	if (!window || copier_open()) {
		if (window)
			__free_page(window);
		return false;
	}
	words = page_address(window);
	memset32(words, MARK, 32);
	/* Nothing of an earlier copy is left in the device. */
	copier_copy(page_to_phys(window) + 64, page_to_phys(window), 64);
	copier_copy(n->base + n->common, page_to_phys(window), 64);
	/* The number of queues, which only the registers can have brought. */
	reached = words[RAW_STATUS / 4 - 1] >> 16 == RAW_QUEUES;
	if (reached && !expected)
		breach(r, "a PCI device read the NPU's registers in Flex mode");
	__free_page(window);
	return reached;
}

static void registers(struct report *r, char *arguments)
{
	u64 denied = monitor_stat(FLEX_STAT_NPU_DENIED);
	struct raw_npu n;
	u32 before[64], after;
	unsigned int i;
	bool by_dma;

	if (!raw_seize(r, &n))
		return;
	for (i = 0; i < ARRAY_SIZE(before); i++)
		pci_read_config_dword(n.pci, i * 4, &before[i]);
	by_dma = device_reaches_registers(r, &n, true);
	if (raw_given(r) && !reaches_registers(r, &n) && !reaches_configuration(r, &n) &&
	    !(by_dma && device_reaches_registers(r, &n, false)) && raw_taken(r)) {
		denied = monitor_stat(FLEX_STAT_NPU_DENIED) - denied;
		for (i = 0; i < 16; i++) {
			pci_read_config_dword(n.pci, i * 4, &after);
			if (after != before[i])
				breach(r, "a write to the NPU's configuration in Flex mode went through: %#x was %#x, is %#x", i * 4, before[i],
				       after);
		}
		if (!denied)
			failed(r, "the monitor counted no access");
		blocked(r, "registers and configuration are out of reach in Flex mode (%llu accesses denied; by a device's DMA: %s)", denied,
			by_dma ? "neither" : "skipped, since none here reads them even in normal mode");
	}
	raw_yield(r, &n);
}

static void bars(struct report *r, char *arguments)
{
	struct pci_dev *mover;
	struct raw_npu n;
	u32 bar, own[PCI_STD_NUM_BARS], now, i;
	u16 command;

	mover = copier_open() ? NULL : pci_get_device(0x8086, 0x100e, NULL);
	if (!mover) {
		failed(r, "there is no device to move: start with attack devices");
		return;
	}
	if (!raw_seize(r, &n)) {
		pci_dev_put(mover);
		return;
	}
	pci_read_config_dword(mover, PCI_BASE_ADDRESS_0, &bar);
	pci_read_config_word(mover, PCI_COMMAND, &command);
	for (i = 0; i < PCI_STD_NUM_BARS; i++)
		pci_read_config_dword(n.pci, PCI_BASE_ADDRESS_0 + 4 * i, &own[i]);
	if (raw_given(r)) {
		if (pci_moves_to(mover, n.base & ~((u32)pci_resource_len(mover, 0) - 1), command))
			breach(r, "%s answered over the NPU's registers in Flex mode", pci_name(mover));
		pci_write_config_word(mover, PCI_COMMAND, command & ~PCI_COMMAND_MEMORY);
		pci_write_config_dword(mover, PCI_BASE_ADDRESS_0, bar);
		pci_write_config_word(mover, PCI_COMMAND, command);
		/* And the NPU over the other. */
		pci_write_config_word(n.pci, PCI_COMMAND, 0);
		for (i = 0; i < PCI_STD_NUM_BARS; i++)
			pci_write_config_dword(n.pci, PCI_BASE_ADDRESS_0 + 4 * i, bar);
		pci_write_config_word(n.pci, PCI_COMMAND, command);
		if (raw_taken(r)) {
			for (i = 0; i < PCI_STD_NUM_BARS; i++) {
				pci_read_config_dword(n.pci, PCI_BASE_ADDRESS_0 + 4 * i, &now);
				if (now != own[i])
					breach(r, "the NPU's registers were moved in Flex mode, from %#x to %#x", own[i], now);
			}
			if (r->verdict != VERDICT_BREACH && raw_works(r, &n))
				blocked(r, "neither could %s be laid over the NPU's registers, nor these be moved, in Flex mode",
					pci_name(mover));
		}
	}
	raw_yield(r, &n);
	pci_dev_put(mover);
}

/* ---- normal mode: memory that is not Linux' ---- */

/* One job that reads @address into memory of ours, or writes there. True: it got there. */
static bool job_reaches(struct raw_npu *n, struct page *own, u64 address, bool write, const struct flex_npu_result **result)
{
	struct raw_job job = {};
	u32 y, x;

	memset(page_address(own), 0, PAGE_SIZE);
	if (write) {
		y = raw_job_page(n, &job, address);
		raw_job_signal(&job, y, EVIL);
	} else {
		y = raw_job_page(n, &job, page_to_phys(own));
		x = raw_job_page(n, &job, address);
		raw_job_add(&job, y, x, FLOATS);
	}
	raw_submit(n, 0, &job);
	*result = raw_result(n, 0, JOB_MS);
	return !*result || (*result)->status == FLEX_NPU_OK || memchr_inv(page_address(own), 0, PAGE_SIZE);
}

static bool reaches_memory(struct report *r, struct raw_npu *n, struct page *own, const char *what, u64 address)
{
	const struct flex_npu_result *result;
	unsigned int write;

	for (write = 0; write < 2; write++) {
		if (!job_reaches(n, own, address, write, &result))
			continue;
		if (!result)
			failed(r, "the NPU stopped at a job for %s", what);
		else
			breach(r, "a job of the normal world %s %s at %#llx", write ? "wrote to" : "read", what, address);
		return true;
	}
	return false;
}

/* Its table of pages in Flex-Mem: the NPU would read its words. */
static bool reaches_table(struct report *r, struct raw_npu *n, struct page *own, u64 canary)
{
	const struct flex_npu_result *result;
	struct raw_job job = {};

	raw_job_add(&job, raw_job_page(n, &job, page_to_phys(own)), raw_job_table(&job, canary), FLOATS);
	raw_submit(n, 0, &job);
	result = raw_result(n, 0, JOB_MS);
	if (result && result->status == FLEX_NPU_FAULT && result->address >> PAGE_SHIFT == canary >> PAGE_SHIFT)
		return false;
	breach(r, "a region's table in Flex-Mem was read (status %d)", result ? result->status : -1);
	return true;
}

/*
 * A queue, with a job in it, in Flex-Mem: protected when it was ready. Its used ring is ours: else QEMU does not start the queue at
 * all where DMA to Flex-Mem is refused.
 */
static bool follows_queue(struct report *r, struct raw_npu *n, bool used_is_ours)
{
	unsigned int i;
	u64 queue;

	if (canary_get_prepared(4, &queue, raw_prepare_queue) ||
	    raw_start_at(n, queue, used_is_ours)) {
		failed(r, "a queue could not be protected");
		return true;
	}
	raw_ring(n, 0);
	for (i = 0; i < 20 && !raw_read(n, FLEX_NPU_REG_JOBS); i++)
		msleep(10);
	if (!raw_read(n, FLEX_NPU_REG_JOBS))
		return false;
	breach(r, "the NPU took a job of the normal world from Flex-Mem at %#llx", queue);
	return true;
}

static void memory(struct report *r, char *arguments)
{
	static const struct {
		const char *what;
		u64 address;
	} regions[] = {
		{ "the monitor", BOARD_MONITOR_BASE },		 { "the frame table", BOARD_MONITOR_BASE + 0x100000 },
		{ "the trusted OS", BOARD_BL32_BASE },		 { "firmware", BOARD_SECURE_RAM_BASE },
		{ "secure flash", BOARD_SECURE_FLASH_BASE },	 { "the SMMU", BOARD_SMMU_BASE },
		{ "the interrupt controller", BOARD_GICD_BASE },
	};
	u64 faults = monitor_stat(FLEX_STAT_DMA_FAULTS), canary, address;
	unsigned long pfn = 0, step = lent_frames() / 32 + 1, index = 0, tried = 0;
	struct page *own = alloc_page(GFP_KERNEL);
	bool reached = false;
	struct raw_npu n;
	unsigned int i;

	if (!own || canary_get(0, &canary)) {
		failed(r, "the canary could not be protected");
		return;
	}
	if (!raw_seize(r, &n))
		return;
	/* It has been the secure world's: its stream must be ours again, and nothing else. */
	if (raw_given(r) && raw_taken(r) && !raw_works(r, &n)) {
		/* It cannot reach our memory. Whose, then? */
		follows_queue(r, &n, false);
	} else if (r->verdict == VERDICT_NONE) {
		reached = follows_queue(r, &n, true) || !raw_works(r, &n) || reaches_memory(r, &n, own, "Flex-Mem", canary) ||
			  reaches_table(r, &n, own, canary);
		while (!reached && next_lent_frame(&pfn, &address)) {
			if (index++ % step)
				continue;
			reached = reaches_memory(r, &n, own, "a lent frame", address);
			tried++;
		}
		for (i = 0; !reached && i < ARRAY_SIZE(regions); i++)
			reached = reaches_memory(r, &n, own, regions[i].what, regions[i].address);
		faults = monitor_stat(FLEX_STAT_DMA_FAULTS) - faults;
		if (!reached && raw_works(r, &n))
			blocked(r, "jobs that name Flex-Mem (%lu lent frames, a canary), the monitor, secure memory and devices end with an error (SMMU faults counted: %llu)",
				tried, faults);
	}
	raw_yield(r, &n);
	__free_page(own);
}

/* ---- what is left behind ---- */

static const u32 sram_probes[] = { 0, 4, 64, 4096, 65536, 131072 - 4 };

static u32 sram_word(struct raw_npu *n, u32 offset)
{
	raw_write(n, FLEX_NPU_REG_SRAM_ADDRESS, offset);
	return raw_read(n, FLEX_NPU_REG_SRAM_DATA);
}

static void leave_marks(struct raw_npu *n)
{
	unsigned int i;

	for (i = 0; i < FLEX_NPU_SCRATCH_REGISTERS; i++)
		raw_write(n, FLEX_NPU_REG_SCRATCH + i, MARK + i);
	for (i = 0; i < ARRAY_SIZE(sram_probes); i++) {
		raw_write(n, FLEX_NPU_REG_SRAM_ADDRESS, sram_probes[i]);
		raw_write(n, FLEX_NPU_REG_SRAM_DATA, MARK + i);
	}
}

/* Whether something that was in the NPU is still there: by whichever world it was put there. */
static bool find_marks(struct report *r, struct raw_npu *n)
{
	void __iomem *common = n->registers + n->common;
	u32 bytes = raw_read(n, FLEX_NPU_REG_SRAM_BYTES), offset, step = bytes / 256 & ~3u, value;
	unsigned int i;

	for (i = 0; i < FLEX_NPU_SCRATCH_REGISTERS; i++)
		if ((value = raw_read(n, FLEX_NPU_REG_SCRATCH + i)))
			breach(r, "scratch register %u holds %#x after a switch", i, value);
	for (i = 0; i < ARRAY_SIZE(sram_probes); i++)
		if ((value = sram_word(n, sram_probes[i])))
			breach(r, "SRAM holds %#x at %#x after a switch", value, sram_probes[i]);
	for (offset = 0; step && offset < bytes; offset += step)
		if ((value = sram_word(n, offset)))
			breach(r, "SRAM holds %#x at %#x after a switch", value, offset);
	if ((value = raw_read(n, FLEX_NPU_REG_JOBS) | raw_read(n, FLEX_NPU_REG_FAULTS) | raw_read(n, FLEX_NPU_REG_CYCLES_LOW)))
		breach(r, "its counters tell of jobs before the switch (%#x)", value);
	if ((value = ioread8(common + RAW_STATUS)))
		breach(r, "its virtio status is %#x after a switch", value);
	for (i = 0; i < RAW_QUEUES; i++) {
		iowrite16(i, common + RAW_QUEUE_SELECT);
		if (ioread16(common + RAW_QUEUE_ENABLE) || ioread32(common + RAW_QUEUE_DESC) || ioread32(common + RAW_QUEUE_AVAIL) ||
		    ioread32(common + RAW_QUEUE_USED))
			breach(r, "queue %u is still the one from before the switch", i);
	}
	return r->verdict == VERDICT_BREACH;
}

static void residue(struct report *r, char *arguments)
{
	struct raw_npu n;

	if (!raw_seize(r, &n))
		return;
	/* First what the secure world may have left when it had it last, then what we leave. */
	if (raw_works(r, &n)) {
		leave_marks(&n);
		if (sram_word(&n, 0) != MARK || raw_read(&n, FLEX_NPU_REG_SCRATCH) != MARK)
			failed(r, "nothing can be left in the NPU");
		else if (raw_given(r) && raw_taken(r) && !find_marks(r, &n))
			blocked(r, "scratch registers, SRAM, counters and queues are empty after a switch");
	}
	raw_yield(r, &n);
}

/* A job that waits for a word of ours, and would then write another; and a second one behind it. */
static void running(struct report *r, char *arguments)
{
	struct page *own = alloc_page(GFP_KERNEL | __GFP_ZERO);
	u64 *words = own ? page_address(own) : NULL;
	const struct flex_npu_result *result;
	struct raw_job job = {}, next = {};
	struct raw_npu n;
	u64 start, ns = 0;
	u32 page, value;
	unsigned int i;

	if (!own || !raw_seize(r, &n)) {
		failed(r, "no memory");
		return;
	}
	if (raw_works(r, &n)) {
		page = raw_job_page(&n, &job, page_to_phys(own));
		raw_job_wait(&job, page, 1, FLEX_NPU_WAIT_US_MAX);
		raw_job_signal(&job, page, EVIL);
		raw_submit(&n, 1, &job);
		for (i = 0; i < 100 && !(raw_read(&n, FLEX_NPU_REG_STATUS) & 1); i++)
			msleep(10);
		/* Queues are served in turn: before the first one runs, this one could come first and end its wait. */
		raw_job_signal(&next, raw_job_page(&n, &next, page_to_phys(own)), EVIL);
		raw_submit(&n, 2, &next);
		result = raw_result(&n, 1, 1);
		if (result || !(raw_read(&n, FLEX_NPU_REG_STATUS) & 1))
			failed(r, "no job runs (status %d)", result ? result->status : -1);
		start = ktime_get_ns();
		if (raw_given(r)) {
			ns = ktime_get_ns() - start;
			WRITE_ONCE(words[0], 1);
			msleep(50);
			if (raw_taken(r)) {
				msleep(50);
				value = raw_read(&n, FLEX_NPU_REG_STATUS) | raw_read(&n, FLEX_NPU_REG_JOBS) |
					raw_read(&n, FLEX_NPU_REG_FAULTS);
				if (READ_ONCE(words[0]) != 1)
					breach(r, "a job from before the switch went on after it");
				else if (value)
					breach(r, "a job from before the switch ended after it (%#x)", value);
				else if (raw_works(r, &n))
					blocked(r, "the job that ran and the one behind it ended with the switch, which took %llu us", ns / 1000);
			}
		}
	}
	raw_yield(r, &n);
	__free_page(own);
}

const struct attack npu_attacks[] = {
	{ "npu-registers", "reach the NPU's registers and configuration in Flex mode", registers },
	{ "npu-bars", "lay a device over the NPU, and the NPU over a device, in Flex mode", bars },
	{ "npu-memory", "jobs that read and write Flex-Mem, the monitor, secure memory", memory },
	{ "npu-residue", "find in the NPU what was left there before a switch", residue },
	{ "npu-running", "leave a job running while the NPU changes hands", running },
	{}
};
