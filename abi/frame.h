/*
 * Frames: the unit of Flex-Mem, and the state byte that says who may reach one.
 *
 * The table has one byte per 4 KiB frame of non-secure DRAM. It lives in Flex-Monitor's memory, which the normal
 * world cannot reach; Flex-Monitor (EL2) and the trusted OS (S-EL1) both map it and change it by compare-and-swap only.
 * Every transition has exactly one author; a state not listed for an author is not his to leave.
 *
 *   state      normal world          secure world               left by
 *   RESERVED   none                  none                       nobody (monitor, firmware, holes)
 *   NORMAL     full (CPU and DMA)    must not trust content     monitor: -> CLAIMED;  trusted OS: -> SHARED
 *   SHARED     full                  may use as RPC buffer      trusted OS: -> NORMAL
 *   CLAIMED    being changed         none                       monitor: -> FLEX, NORMAL (or back, when a list fails)
 *   FLEX       none (abort, counted) may adopt                  trusted OS: -> ADOPTED
 *   ADOPTED    none                  mapped in S-EL0            trusted OS: -> RELEASED (unmapped everywhere, zeroed)
 *   RELEASED   none; content is 0    none                       monitor: -> CLAIMED -> NORMAL
 *
 * RESERVED is zero so that memory nobody has initialised is the most restricted state.
 */
#ifndef FLEX_ABI_FRAME_H
#define FLEX_ABI_FRAME_H

#include "abi/types.h"

#define FLEX_FRAME_SHIFT 12
#define FLEX_FRAME_SIZE (FLEX_U64(1) << FLEX_FRAME_SHIFT)

enum flex_frame_state {
    FLEX_FRAME_RESERVED = 0,
    FLEX_FRAME_NORMAL = 1,
    FLEX_FRAME_SHARED = 2,
    FLEX_FRAME_CLAIMED = 3,
    FLEX_FRAME_FLEX = 4,
    FLEX_FRAME_ADOPTED = 5,
    FLEX_FRAME_RELEASED = 6,
    FLEX_FRAME_STATES = 7
};

/*
 * A range of frames in one word: bits [63:12] the physical address of its first frame, bits [5:0] its order.
 * It covers FLEX_FRAME_SIZE << order bytes and is aligned to its own size; bits [11:6] are zero. Anything else is
 * refused, so a range can neither wrap around nor be misaligned.
 */
typedef flex_u64 flex_range_t;

#define FLEX_RANGE_ORDER_MASK FLEX_U64(0x3f)
#define FLEX_RANGE_ZERO_MASK FLEX_U64(0xfc0)
#define FLEX_RANGE_ORDER_MAX 18 /* 1 GiB */
#define FLEX_RANGE(address, order) ((flex_range_t)((flex_u64)(address) | (flex_u64)(order)))

/* Ranges in one protect or recall list: the list fills at most one frame, so it never crosses one. */
#define FLEX_LIST_MAX (FLEX_FRAME_SIZE / sizeof(flex_range_t))

#endif
