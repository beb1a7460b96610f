// SPDX-License-Identifier: GPL-2.0
/*
 * False answers to ALLOC and LOAD: a probe on the driver's flex_rpc_finish() doctors the ranges after the driver has protected
 * them and before the secure world sees them. `answer MODE` arms it for the next answer; something must then make the framework
 * ask for memory; `answer-result` tells what became of it.
 */
#include <linux/kprobes.h>
#include <linux/string.h>

#include "attack.h"

static struct flex_rpc_slot *(*slot_of)(unsigned int slot);
static bool probing;
static DEFINE_SPINLOCK(lock);
static char armed[32];
static unsigned int doctored;
static u64 refused_before, adopted_before;
static struct page *bait;	/* NORMAL, with a pattern */
static u64 stolen;		/* a range that is adopted already; 0: not yet known */
static u64 canary;

static u64 refusals(void)
{
	return tos_stat(FLEX_TOS_STAT_RPC_ANSWERS_REFUSED) + tos_stat(FLEX_TOS_STAT_ADOPTIONS_REFUSED);
}

static void doctor(struct flex_rpc_slot *slot, s64 *result)
{
	u64 *ranges = (u64 *)slot->data;
	s64 count = *result;

	if (!strcmp(armed, "unprotected"))
		ranges[0] = FLEX_RANGE(page_to_phys(bait), 0);
	else if (!strcmp(armed, "adopted"))
		ranges[0] = FLEX_RANGE(stolen & PAGE_MASK, min(stolen & FLEX_RANGE_ORDER_MASK, ranges[0] & FLEX_RANGE_ORDER_MASK));
	else if (!strcmp(armed, "monitor"))
		ranges[0] = FLEX_RANGE(BOARD_MONITOR_BASE, 0);
	else if (!strcmp(armed, "secure"))
		ranges[0] = FLEX_RANGE(BOARD_BL32_BASE, 0);
	else if (!strcmp(armed, "device"))
		ranges[0] = FLEX_RANGE(BOARD_UART0_BASE, 0);
	else if (!strcmp(armed, "wrap"))
		ranges[0] = FLEX_RANGE(~0ull << 30, 18);
	else if (!strcmp(armed, "order"))
		ranges[0] |= 63;
	else if (!strcmp(armed, "bits"))
		ranges[0] |= 0x800;
	else if (!strcmp(armed, "duplicate")) {
		ranges[count] = ranges[0];
		*result = count + 1;
		slot->data_len = (count + 1) * sizeof(u64);
	} else if (!strcmp(armed, "part")) {
		/* A frame of the first range once more, as a range of its own. */
		ranges[count] = ranges[0] & PAGE_MASK;
		*result = count + 1;
		slot->data_len = (count + 1) * sizeof(u64);
	} else if (!strcmp(armed, "more-than-fits"))
		*result = FLEX_RPC_DATA_BYTES / sizeof(u64) + 1;
	else if (!strcmp(armed, "huge-count"))
		*result = S64_MAX;
	else if (!strcmp(armed, "odd-error"))
		*result = S64_MIN;
	else if (!strcmp(armed, "short-data"))
		slot->data_len = 0;
	else if (!strcmp(armed, "long-data"))
		slot->data_len = ~0u;
	else if (!strcmp(armed, "nothing"))
		*result = 0;
}

static const char *const modes[] = { "unprotected", "adopted",	 "monitor",    "secure",    "device",	 "wrap",      "order",
				     "bits",	    "duplicate", "part",       "more-than-fits", "huge-count", "odd-error",
				     "short-data",  "long-data", "nothing" };

/*
 * A model is loaded by one thread, so who asks for more has adopted what he got before, and keeps it. Anything else that is lent
 * may be on its way, or waiting to be released.
 */
static bool wants_an_earlier_load(const struct flex_rpc_slot *slot)
{
	if (strcmp(armed, "adopted") || (slot->op == FLEX_RPC_LOAD && stolen))
		return false;
	if (slot->op == FLEX_RPC_LOAD)
		stolen = ((const u64 *)slot->data)[0];
	return true;
}

/* flex_rpc_finish(slot, result) */
static int before_finish(struct kprobe *probe, struct pt_regs *regs)
{
	struct flex_rpc_slot *slot = slot_of(regs->regs[0]);
	s64 result = regs->regs[1];
	unsigned long flags;

	if ((slot->op != FLEX_RPC_ALLOC && slot->op != FLEX_RPC_LOAD) || result <= 0 || result >= 4096)
		return 0;
	spin_lock_irqsave(&lock, flags);
	if (armed[0] && !wants_an_earlier_load(slot)) {
		doctor(slot, &result);
		regs->regs[1] = result;
		doctored++;
		armed[0] = 0;
	}
	spin_unlock_irqrestore(&lock, flags);
	return 0;
}

static struct kprobe finish_probe = { .symbol_name = "flex_rpc_finish", .pre_handler = before_finish };

static void arm(struct report *r, char *arguments)
{
	if (match_string(modes, ARRAY_SIZE(modes), arguments) < 0) {
		failed(r, "no such answer");
		return;
	}
	slot_of = (void *)symbol_address("flex_rpc_slot");
	if (!probing && (!slot_of || register_kprobe(&finish_probe))) {
		failed(r, "flexserve.ko is not loaded");
		return;
	}
	probing = true;
	if (bait)
		__free_page(bait);
	bait = pattern_page();
	if (!bait || canary_get(0, &canary)) {
		failed(r, "no memory");
		return;
	}
	stolen = 0;
	refused_before = refusals();
	adopted_before = tos_stat(FLEX_TOS_STAT_FRAMES_ADOPTED);
	doctored = 0;
	spin_lock_irq(&lock);
	strscpy(armed, arguments, sizeof(armed));
	spin_unlock_irq(&lock);
	/* Not a verdict yet, but a success of this command. */
	blocked(r, "armed: the next answer to ALLOC or LOAD will be doctored (%s)", arguments);
}

static void result(struct report *r, char *arguments)
{
	u64 refused = refusals() - refused_before;

	if (!doctored) {
		failed(r, "nothing asked for memory since, so nothing was doctored");
		armed[0] = 0;
		return;
	}
	if (!page_has_pattern(bait)) {
		breach(r, "the secure world used a frame that is not protected");
		bait = NULL;
		return;
	}
	if (smc(FLEX_TOS_VERSION, 0, 0, 0).a1 != FLEX_ABI_VERSION)
		breach(r, "the trusted OS does not answer any more");
	else if (!refused)
		breach(r, "the false answer was accepted (%llu frames adopted since)",
		       tos_stat(FLEX_TOS_STAT_FRAMES_ADOPTED) - adopted_before);
	else
		blocked(r, "the false answer was refused (%llu refusals counted)", refused);
}

const struct attack answer_attacks[] = {
	{ "answer",
	  "unprotected|adopted|monitor|secure|device|wrap|order|bits|duplicate|part|more-than-fits|huge-count|odd-error|short-data|long-data|nothing: doctor the next answer to ALLOC or LOAD",
	  arm },
	{ "answer-result", "what became of the doctored answer", result },
	{}
};
