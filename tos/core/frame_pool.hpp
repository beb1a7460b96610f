/*
 * Adopted frames that are mapped nowhere, all zero: what demand paging takes from and gives back to.
 *
 * Kept by 2 MiB chunk so that whole chunks can go back to the normal world. Invariant: a frame is in the pool at
 * most once, and only while it is adopted and unmapped. Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_FRAME_POOL_HPP
#define FLEX_TOS_CORE_FRAME_POOL_HPP

#include "abi/frame.h"
#include "core/types.hpp"

namespace flex::tos {

class FramePool {
public:
    static constexpr u32 kChunks = 256; /* 512 MiB */

    void clear();
    [[nodiscard]] u64 frames() const { return frames_; }
    /* False: no room for another chunk; the caller keeps the frame. */
    [[nodiscard]] bool put(u64 physical);
    /* 0: empty. Takes from the emptiest chunk in use, so that others become whole. */
    [[nodiscard]] u64 take();
    /*
     * Removes up to `list.size` ranges that cover at most `frames_wanted` frames, the fullest chunk first.
     * Returns the number of ranges.
     */
    [[nodiscard]] u32 drain(Span<flex_range_t> list, u64 frames_wanted);

private:
    struct Chunk {
        u64 base = 0; /* physical, 2 MiB aligned */
        u32 free = 0; /* 0: descriptor unused */
        u64 bits[kPagesPerBlock / 64] = {};
    };
    [[nodiscard]] Chunk* find(u64 base);

    Chunk chunks_[kChunks];
    u64 frames_ = 0;
    u32 current_ = 0; /* the chunk take() last took from */
};

/* Adds a range to a list, joined with the one before it when both are halves of a larger aligned one. */
void append_range(Span<flex_range_t> list, u32& count, u64 physical, u32 order);

} // namespace flex::tos

#endif
