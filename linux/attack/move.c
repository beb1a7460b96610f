// SPDX-License-Identifier: GPL-2.0
/* FLEX_TOS_MOVE: the normal world says where protected content goes. */
#include <linux/gfp.h>
#include <linux/mm.h>

#include "attack.h"

/* The first two frames of the program that the trusted OS would move. */
static bool two_movable(u64 found[2])
{
	unsigned long pfn = 0;
	unsigned int n = 0;
	u64 address;

	while (n < 2 && next_lent_frame(&pfn, &address))
		if ((s64)smc(FLEX_TOS_MOVE, address, 0, 0).a0 == FLEX_OK)
			found[n++] = address;
	return n == 2;
}

static void move_frame(struct report *r, char *arguments)
{
	struct page *page = pattern_page(), *other = pattern_page();
	u64 movable[2], moved_before = tos_stat(FLEX_TOS_STAT_FRAMES_MOVED);
	u64 mine = page ? page_to_phys(page) : 0, also_mine = other ? page_to_phys(other) : 0;

	if (!page || !other || !two_movable(movable)) {
		failed(r, "the program has no two frames that could be moved");
		goto out;
	}
	{
		const u64 moves[][2] = {
			/* Content to where it can be read (first: without the check the others would end the tale), or over others'. */
			{ movable[0], mine },
			{ movable[0], BOARD_MONITOR_BASE },
			{ movable[0], BOARD_BL32_BASE },
			{ movable[0], movable[0] },
			{ movable[0], movable[1] },
			{ movable[0], movable[1] | 1 },
			{ movable[0], ~0ull << FLEX_FRAME_SHIFT },
			/* What is not the program's. */
			{ mine, also_mine },
			{ BOARD_MONITOR_BASE, mine },
			{ BOARD_BL32_BASE, mine },
			{ movable[0] | 9, mine },
			{ ~0ull << FLEX_FRAME_SHIFT, mine },
		};
		unsigned int i;

		for (i = 0; i < ARRAY_SIZE(moves); i++) {
			s64 status = smc(FLEX_TOS_MOVE, moves[i][0], moves[i][1], 0).a0;

			if (status == FLEX_OK || !page_has_pattern(page) || !page_has_pattern(other)) {
				breach(r, "the content of %#llx went to %#llx (status %lld)", moves[i][0], moves[i][1], status);
				return; /* the pages may be the secure world's now */
			}
		}
		if (tos_stat(FLEX_TOS_STAT_FRAMES_MOVED) != moved_before)
			failed(r, "somebody else moved frames meanwhile");
		else
			blocked(r, "%zu moves of what may not be moved, or to where it may not go, were refused", ARRAY_SIZE(moves));
	}
out:
	if (page)
		__free_page(page);
	if (other)
		__free_page(other);
}

const struct attack move_attacks[] = {
	{ "move-frame", "move protected content to where it can be read", move_frame },
	{}
};
