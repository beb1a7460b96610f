/*
 * Taking frames over from the normal world: a list of ranges is parsed, then adopted by compare-and-swap.
 *
 * Contract of adopt_ranges: `list` is a copy in secure memory. Every range must be well-formed and within the
 * frame table, together they cover at most `frames_max` frames, and every frame must be FLEX; a frame named
 * twice is ADOPTED the second time and so refused. Whatever the outcome, the first `adopted` ranges belong to
 * the caller, who maps them or gives them back. Nothing else was changed.
 */
#ifndef FLEX_TOS_CORE_ADOPTION_HPP
#define FLEX_TOS_CORE_ADOPTION_HPP

#include "abi/frame_table.hpp"
#include "core/types.hpp"

namespace flex::tos {

struct Adoption {
    bool good = false;
    u32 adopted = 0; /* ranges */
    u64 frames = 0;  /* in them */
};

constexpr u64 range_address(flex_range_t range) { return range & ~(FLEX_FRAME_SIZE - 1); }
constexpr u32 range_order(flex_range_t range) { return static_cast<u32>(range & FLEX_RANGE_ORDER_MASK); }
constexpr u64 range_bytes(flex_range_t range) { return FLEX_FRAME_SIZE << range_order(range); }

#ifdef FLEX_WITHOUT_ADOPT_CHECK
/* The defence-removed build: whatever the frames' states are, they are taken. */
template <class Table> bool adopt_one(const Table&, FrameRange) { return true; }
#else
template <class Table> bool adopt_one(const Table& table, FrameRange range) { return table.adopt(range); }
#endif

template <class Table>
[[nodiscard]] Adoption adopt_ranges(const Table& table, Span<const flex_range_t> list, u64 frames_max) {
    Adoption result;
    for (const flex_range_t word : list) {
        FrameRange range;
        if (!table.parse(word, range)) return result;
        if (range.count > frames_max - result.frames) return result;
        if (!adopt_one(table, range)) return result;
        result.frames += range.count;
        result.adopted++;
    }
    result.good = true;
    return result;
}

} // namespace flex::tos

#endif
