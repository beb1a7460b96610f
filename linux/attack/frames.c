// SPDX-License-Identifier: GPL-2.0
/* Accesses that may abort, canaries, and the frames that the driver has lent. */
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/memblock.h>
#include <linux/module.h>
#include <linux/page-flags.h>
#include <linux/vmalloc.h>

#include <asm/asm-extable.h>
#include <asm/cacheflush.h>
#include <asm/tlbflush.h>

#include "attack.h"

/* ---- the guard: Linux has no fix-ups for aborted fetches and external aborts; we step in before it gives up ---- */

static struct {
	struct task_struct *task;
	unsigned long resume;
	bool hit;
} guard;

static int skip_probed_function(struct kprobe *probe, struct pt_regs *regs, struct pt_regs *faulting)
{
	if (READ_ONCE(guard.task) != current)
		return 0;
	guard.hit = true;
	guard.task = NULL;
	faulting->pc = guard.resume;
	regs->pc = regs->regs[30];
	return 1;
}

/* __do_kernel_fault(address, esr, regs) */
static int before_kernel_fault(struct kprobe *probe, struct pt_regs *regs)
{
	return skip_probed_function(probe, regs, (struct pt_regs *)regs->regs[2]);
}

/* arm64_notify_die(text, regs, ...) */
static int before_notify_die(struct kprobe *probe, struct pt_regs *regs)
{
	return skip_probed_function(probe, regs, (struct pt_regs *)regs->regs[1]);
}

static struct kprobe fault_probe = { .symbol_name = "__do_kernel_fault", .pre_handler = before_kernel_fault };
static struct kprobe notify_probe = { .symbol_name = "arm64_notify_die", .pre_handler = before_notify_die };

int guard_init(void)
{
	int ret = register_kprobe(&fault_probe);

	if (ret)
		return ret;
	ret = register_kprobe(&notify_probe);
	if (ret)
		unregister_kprobe(&fault_probe);
	return ret;
}

void guard_exit(void)
{
	unregister_kprobe(&notify_probe);
	unregister_kprobe(&fault_probe);
}

/* ---- accesses ---- */

/* An aborted access goes on behind itself: by Linux' own fix-up, or by the guard when the abort is an external one. */
#define GUARDED_ACCESS(_instruction, _width, _value, _address)                                     \
	({                                                                                         \
		int _error = 0;                                                                    \
		unsigned long _scratch;                                                            \
		guard.hit = false;                                                                 \
		WRITE_ONCE(guard.task, current);                                                   \
		asm volatile("adr %[scratch], 2f\n\t"                                              \
			     "str %[scratch], %[resume]\n"                                         \
			     "1:	" _instruction " %" _width "[value], [%[address]]\n"         \
			     "	dsb sy\n"                                                         \
			     "2:\n" _ASM_EXTABLE_KACCESS_ERR(1b, 2b, %w[error])                    \
			     : [value] "+&r"(_value), [error] "+&r"(_error), [scratch] "=&r"(_scratch), \
			       [resume] "=m"(guard.resume)                                         \
			     : [address] "r"(_address)                                             \
			     : "memory");                                                          \
		WRITE_ONCE(guard.task, NULL);                                                      \
		_error || guard.hit ? -EFAULT : 0;                                                 \
	})

int peek64(const void *address, u64 *value)
{
	*value = 0;
	return GUARDED_ACCESS("ldr", "x", *value, address);
}

int peek32(const void *address, u32 *value)
{
	*value = 0;
	return GUARDED_ACCESS("ldr", "w", *value, address);
}

int poke64(void *address, u64 value)
{
	return GUARDED_ACCESS("str", "x", value, address);
}

int poke32(void *address, u32 value)
{
	return GUARDED_ACCESS("str", "w", value, address);
}

/* Calls @code with the guard up. */
static noinline int guarded_call(unsigned long code, u64 *result)
{
	register unsigned long x0 asm("x0") = 0;
	register unsigned long x1 asm("x1") = code;
	register unsigned long *x2 asm("x2") = &guard.resume;

	guard.hit = false;
	guard.task = current;
	asm volatile("adr x9, 1f\n\t"
		     "str x9, [x2]\n\t"
		     "blr x1\n"
		     "1:\n\t"
		     : "+r"(x0), "+r"(x1), "+r"(x2)
		     :
		     : "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x30",
		       "memory", "cc");
	guard.task = NULL;
	*result = x0;
	return guard.hit ? -EFAULT : 0;
}

unsigned long symbol_address(const char *name)
{
	struct kprobe probe = { .symbol_name = name };
	unsigned long address;

	if (register_kprobe(&probe))
		return 0;
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	return address;
}

/* vmap() takes the right to execute away: put it back, in the page table itself. */
static int make_executable(unsigned long address)
{
	unsigned long (*lookup)(const char *name) = (void *)symbol_address("kallsyms_lookup_name");
	struct mm_struct *kernel_mm = lookup ? (struct mm_struct *)lookup("init_mm") : NULL;
	pgd_t *pgd;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	pte_t *pte;

	if (!kernel_mm)
		return -ENOENT;
	pgd = pgd_offset_pgd(kernel_mm->pgd, address);
	p4d = p4d_offset(pgd, address);
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_leaf(*pud))
		return -ENOENT;
	pmd = pmd_offset(pud, address);
	if (pmd_none(*pmd) || pmd_leaf(*pmd))
		return -ENOENT;
	pte = pte_offset_kernel(pmd, address);
	WRITE_ONCE(*pte, __pte((pte_val(READ_ONCE(*pte)) & ~(PTE_PXN | PTE_WRITE)) | PTE_RDONLY));
	dsb(ish);
	isb();
	flush_tlb_kernel_range(address, address + PAGE_SIZE);
	return 0;
}

int call_page(u64 address, u64 *result)
{
	void *mapping = map_frame(address, MAP_CACHED);
	int ret;

	if (!mapping)
		return -ENOMEM;
	ret = make_executable((unsigned long)mapping);
	if (!ret)
		ret = guarded_call((unsigned long)mapping, result);
	unmap_frame(mapping, address, MAP_CACHED);
	return ret;
}

/* ---- mappings ---- */

const char *const map_kind_names[MAP_KINDS] = { "the direct map", "a fresh mapping", "an uncached mapping" };

static bool is_linux_memory(u64 address)
{
	return pfn_is_map_memory(PHYS_PFN(address));
}

void *map_frame(u64 address, enum map_kind kind)
{
	struct page *page;

	if (!is_linux_memory(address))
		return kind == MAP_DIRECT ? NULL : (void __force *)ioremap(address & PAGE_MASK, PAGE_SIZE);
	page = pfn_to_page(PHYS_PFN(address));
	switch (kind) {
	case MAP_DIRECT:
		return page_address(page);
	case MAP_CACHED:
		return vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	case MAP_UNCACHED:
		return vmap(&page, 1, VM_MAP, pgprot_noncached(PAGE_KERNEL));
	default:
		return NULL;
	}
}

void unmap_frame(void *mapping, u64 address, enum map_kind kind)
{
	if (!is_linux_memory(address))
		iounmap((void __iomem __force *)mapping);
	else if (kind != MAP_DIRECT)
		vunmap(mapping);
}

bool frame_is_readable(u64 address, u64 *value)
{
	enum map_kind kind;

	for (kind = 0; kind < MAP_KINDS; kind++) {
		void *mapping = map_frame(address, kind);
		int ret;

		if (!mapping)
			continue;
		ret = peek64(mapping, value);
		unmap_frame(mapping, address, kind);
		if (!ret)
			return true;
	}
	return false;
}

/* ---- canaries ---- */

static struct page *canaries[CANARIES];

u64 canary_word(u64 offset)
{
	/* mov x0, #CANARY_MAGIC; ret (A64: MOVZ, RET) */
	if (!offset)
		return (0xd65f03c0ull << 32) | 0xd2800000ull | CANARY_MAGIC << 5;
	return 0x9e3779b97f4a7c15ull * (offset + 1);
}

static void fill(void *page)
{
	u64 offset;

	for (offset = 0; offset < PAGE_SIZE; offset += sizeof(u64))
		*(u64 *)(page + offset) = canary_word(offset);
}

void mark_lost(struct page *page)
{
	page_offline_begin();
	__SetPageOffline(page);
	page_offline_end();
	/* Told apart from the driver's by its private word. */
	set_page_private(page, CANARY_MAGIC);
}

int canary_get_prepared(unsigned int index, u64 *address, void (*prepare)(void *page, u64 address))
{
	struct page *page = canaries[index];
	u64 *list;
	s64 status;

	if (!page) {
		page = alloc_page(GFP_KERNEL);
		list = (u64 *)get_zeroed_page(GFP_KERNEL);
		if (!page || !list)
			return -ENOMEM;
		fill(page_address(page));
		if (prepare)
			prepare(page_address(page), page_to_phys(page));
		caches_clean_inval_pou((unsigned long)page_address(page), (unsigned long)page_address(page) + PAGE_SIZE);
		mark_lost(page);
		list[0] = FLEX_RANGE(page_to_phys(page), 0);
		status = hvc(FLEX_HVC_PROTECT, virt_to_phys(list), 1).a0;
		free_page((unsigned long)list);
		if (status != FLEX_OK) {
			__ClearPageOffline(page);
			set_page_private(page, 0);
			__free_page(page);
			return -EIO;
		}
		canaries[index] = page;
	}
	*address = page_to_phys(page);
	return 0;
}

int canary_get(unsigned int index, u64 *address)
{
	return canary_get_prepared(index, address, NULL);
}

struct page *pattern_page(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (page)
		fill(page_address(page));
	return page;
}

bool page_has_pattern(struct page *page)
{
	u64 offset, value;

	for (offset = 0; offset < PAGE_SIZE; offset += sizeof(u64))
		if (peek64(page_address(page) + offset, &value) || value != canary_word(offset))
			return false;
	return true;
}

/* ---- what the driver has lent ---- */

bool next_lent_frame(unsigned long *pfn, u64 *address)
{
	unsigned long end = PHYS_PFN(BOARD_DRAM_BASE) + totalram_pages() * 2;

	if (*pfn < PHYS_PFN(BOARD_DRAM_BASE))
		*pfn = PHYS_PFN(BOARD_DRAM_BASE);
	for (; *pfn < end; (*pfn)++) {
		struct page *page = pfn_is_map_memory(*pfn) ? pfn_to_online_page(*pfn) : NULL;

		if (page && PageOffline(page) && page_private(page) != CANARY_MAGIC) {
			*address = PFN_PHYS(*pfn);
			(*pfn)++;
			return true;
		}
	}
	return false;
}

unsigned long lent_frames(void)
{
	unsigned long pfn = 0, count = 0;
	u64 address;

	while (next_lent_frame(&pfn, &address))
		count++;
	return count;
}
