/* SPDX-License-Identifier: GPL-2.0 */
/*
 * flexattack.ko: a compromised kernel, for the attack tests.
 *
 * Every attack tries something that must fail, looks at the effect (content, canaries, counters), and says `blocked: how`,
 * `BREACH: how` or `error: why` (it could not be tried, which proves nothing). What is checked is the effect, so the same
 * attack reports BREACH on a monitor with the defence taken out.
 */
#ifndef FLEXATTACK_H
#define FLEXATTACK_H

#include <linux/arm-smccc.h>
#include <linux/mm.h>
#include <linux/types.h>

#include "abi/calls.h"
#include "abi/frame.h"
#include "abi/rpc.h"
#include "board.h"

#undef pr_fmt
#define pr_fmt(fmt) "flexattack: " fmt

/* ---- reports (main.c) ---- */

enum verdict { VERDICT_NONE, VERDICT_BLOCKED, VERDICT_ERROR, VERDICT_BREACH };

struct report {
	enum verdict verdict;
	char text[480];
};

/* A worse verdict replaces a better one, never the other way round. */
__printf(3, 4) void report(struct report *r, enum verdict verdict, const char *format, ...);
#define blocked(r, ...) report(r, VERDICT_BLOCKED, __VA_ARGS__)
#define failed(r, ...) report(r, VERDICT_ERROR, __VA_ARGS__)
#define breach(r, ...) report(r, VERDICT_BREACH, __VA_ARGS__)

struct attack {
	const char *name;
	const char *help;
	void (*run)(struct report *r, char *arguments);
};

extern const struct attack cpu_attacks[], list_attacks[], recall_attacks[], call_attacks[], board_attacks[], dma_attacks[],
	virtio_attacks[], pci_attacks[], npu_attacks[], npu_call_attacks[], move_attacks[], answer_attacks[], scan_attacks[];

/* ---- calls ---- */

static inline struct arm_smccc_res hvc(u64 call, u64 a, u64 b)
{
	struct arm_smccc_res res;

	arm_smccc_hvc(call, a, b, 0, 0, 0, 0, 0, &res);
	return res;
}

static inline struct arm_smccc_res smc(u64 call, u64 a, u64 b, u64 c)
{
	struct arm_smccc_res res;

	arm_smccc_smc(call, a, b, c, 0, 0, 0, 0, &res);
	return res;
}

static inline u64 monitor_stat(unsigned int stat)
{
	return hvc(FLEX_HVC_STAT, stat, 0).a1;
}

static inline u64 tos_stat(unsigned int stat)
{
	return smc(FLEX_TOS_STAT, stat, 0, 0).a1;
}

/* ---- accesses that may abort (frames.c) ---- */

/* 0, or -EFAULT when the access aborted. Volatile device registers and memory alike. */
int peek64(const void *address, u64 *value);
int peek32(const void *address, u32 *value);
int poke64(void *address, u64 value);
int poke32(void *address, u32 value);
/* A fresh mapping of one page at any physical address; NULL when there is none to be had. */
enum map_kind { MAP_DIRECT, MAP_CACHED, MAP_UNCACHED, MAP_KINDS };
extern const char *const map_kind_names[MAP_KINDS];
void *map_frame(u64 address, enum map_kind kind);
void unmap_frame(void *mapping, u64 address, enum map_kind kind);
/* Calls code in a page; -EFAULT when fetching it aborted. Only for pages with a canary's code. */
int call_page(u64 address, u64 *result);
/* Address of a symbol of the kernel or a module, exported or not. 0 when it is unknown. */
unsigned long symbol_address(const char *name);
int guard_init(void);
void guard_exit(void);

/* ---- frames of ours (frames.c) ---- */

#define CANARY_MAGIC 0x0bad
/*
 * A frame of ours, filled with code and a pattern while it was NORMAL and then protected: FLEX, with content we know. Nobody can
 * release it, so it is made once and is lost for Linux. @index 0..CANARIES-1. 0 or -errno.
 */
#define CANARIES 5
int canary_get(unsigned int index, u64 *address);
/* What word @offset / 8 of a canary holds. */
u64 canary_word(u64 offset);
/* The code and pattern of a canary, at its start; further in, users may put their own before it is protected. */
int canary_get_prepared(unsigned int index, u64 *address, void (*prepare)(void *page, u64 address));
/* A page of ours that is protected by now: Linux must leave it alone for ever, and it is not the driver's. */
void mark_lost(struct page *page);
/* A lent frame can be read, by whatever mapping: the content is in *@value. */
bool frame_is_readable(u64 address, u64 *value);
/* NORMAL frame of ours with a pattern in it. NULL: no memory. */
struct page *pattern_page(void);
bool page_has_pattern(struct page *page);
/* Frames that flexserve.ko has lent, from *@pfn on: moves *@pfn behind the one found. */
bool next_lent_frame(unsigned long *pfn, u64 *address);
unsigned long lent_frames(void);

/* ---- PCI (pci.c) ---- */

struct pci_dev;
/* Lays a device's first BAR at @base in every way there is. True: it answers there now. */
bool pci_moves_to(struct pci_dev *device, u32 base, u16 command);

#endif
