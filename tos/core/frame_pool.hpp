/*
 * Adopted frames that are mapped nowhere, all zero: what demand paging takes from and gives back to.
 *
 * Kept by 2 MiB chunk so that whole chunks can go back to the normal world. Invariant: a frame is in the pool
 * at most once, and only while it is adopted and unmapped. Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_FRAME_POOL_HPP
#define FLEX_TOS_CORE_FRAME_POOL_HPP

#include "abi/frame.h"
#include "core/types.hpp"

namespace flex::tos {

class FramePool {
public:
    static constexpr u32 kChunks = 1024; /* when the normal world's memory is in pieces, one frame a chunk */

    void clear();
    [[nodiscard]] u64 frames() const { return frames_; }
    /* False: no room for another chunk; the caller keeps the frame. */
    [[nodiscard]] bool put(u64 physical);
    /* 0: empty. */
    [[nodiscard]] u64 take();
    [[nodiscard]] bool contains(u64 physical) const;
    /* Whether put() would take this frame. */
    [[nodiscard]] bool room_for(u64 physical) const { return find(align_down(physical, kBlockBytes)) < kChunks; }
    /* `to`, which is not in the pool, takes the place of `from`, which is. False: no room; nothing has changed. */
    [[nodiscard]] bool replace(u64 from, u64 to);
    /*
     * Removes up to `list.size` ranges that cover at most `frames_wanted` frames, the fullest chunk first.
     * Returns the number of ranges.
     */
    [[nodiscard]] u32 drain(Span<flex_range_t> list, u64 frames_wanted);

private:
    struct Chunk {
        u64 base = 0; /* physical, 2 MiB aligned */
        u32 free = 0; /* frames here */
        u64 bits[kPagesPerBlock / 64] = {};
    };
    [[nodiscard]] u32 find(u64 base) const; /* used_: not there */
    u64 take_from(Chunk& chunk);
    void forget_if_empty(u32 i);

    Chunk chunks_[kChunks]; /* the first used_ hold frames */
    u64 frames_ = 0;
    u32 used_ = 0;
};

/* Adds a range to a list, joined with the one before it when both are halves of a larger aligned one. */
void append_range(Span<flex_range_t> list, u32& count, u64 physical, u32 order);

} // namespace flex::tos

#endif
