#include "core/frame_pool.hpp"

namespace flex::tos {

namespace {
u32 lowest_bit(u64 word) { return static_cast<u32>(__builtin_ctzll(word)); }
} // namespace

void append_range(Span<flex_range_t> list, u32& count, u64 physical, u32 order) {
    list[count++] = FLEX_RANGE(physical, order);
    while (count >= 2) {
        const flex_range_t last = list[count - 1], before = list[count - 2];
        const u64 last_order = last & FLEX_RANGE_ORDER_MASK;
        const u64 bytes = FLEX_FRAME_SIZE << last_order;
        const u64 base = before & ~(FLEX_FRAME_SIZE - 1);
        if ((before & FLEX_RANGE_ORDER_MASK) != last_order || last_order == FLEX_RANGE_ORDER_MAX) return;
        if (base + bytes != (last & ~(FLEX_FRAME_SIZE - 1)) || !is_aligned(base, bytes * 2)) return;
        list[count - 2] = FLEX_RANGE(base, last_order + 1);
        count--;
    }
}

void FramePool::clear() {
    frames_ = 0;
    used_ = 0;
}

u32 FramePool::find(u64 base) const {
    u32 i = 0;
    while (i < used_ && chunks_[i].base != base) i++;
    return i;
}

void FramePool::forget_if_empty(u32 i) {
    if (chunks_[i].free == 0) chunks_[i] = chunks_[--used_];
}

bool FramePool::put(u64 physical) {
    const u64 base = align_down(physical, kBlockBytes);
    const u32 i = find(base);
    if (i == kChunks) return false;
    if (i == used_) {
        chunks_[used_] = {};
        chunks_[used_++].base = base;
    }
    const u64 page = (physical - base) / kPageBytes;
    chunks_[i].bits[page / 64] |= u64{1} << (page % 64);
    chunks_[i].free++;
    frames_++;
    return true;
}

bool FramePool::contains(u64 physical) const {
    const u32 i = find(align_down(physical, kBlockBytes));
    if (i == used_) return false;
    const u64 page = (physical - chunks_[i].base) / kPageBytes;
    return (chunks_[i].bits[page / 64] >> (page % 64) & 1) != 0;
}

bool FramePool::replace(u64 from, u64 to) {
    /* First in, then out: the other way round there could be room for neither. */
    if (!put(to)) return false;
    const u32 i = find(align_down(from, kBlockBytes));
    const u64 page = (from - chunks_[i].base) / kPageBytes;
    chunks_[i].bits[page / 64] &= ~(u64{1} << (page % 64));
    chunks_[i].free--;
    frames_--;
    forget_if_empty(i);
    return true;
}

u64 FramePool::take_from(Chunk& chunk) {
    for (u32 i = 0;; i++) {
        if (chunk.bits[i] == 0) continue;
        const u32 bit = lowest_bit(chunk.bits[i]);
        chunk.bits[i] &= chunk.bits[i] - 1;
        chunk.free--;
        frames_--;
        return chunk.base + (u64{i} * 64 + bit) * kPageBytes;
    }
}

/* From the last chunk until it is empty, so that the others stay whole. */
u64 FramePool::take() {
    if (frames_ == 0) return 0;
    const u32 last = used_ - 1;
    const u64 frame = take_from(chunks_[last]);
    forget_if_empty(last);
    return frame;
}

u32 FramePool::drain(Span<flex_range_t> list, u64 frames_wanted) {
    u32 count = 0;
    while (frames_wanted > 0 && frames_ > 0 && count < list.size) {
        u32 fullest = 0;
        for (u32 i = 1; i < used_; i++) {
            if (chunks_[i].free > chunks_[fullest].free) fullest = i;
        }
        Chunk& chunk = chunks_[fullest];
        if (chunk.free == kPagesPerBlock && frames_wanted >= kPagesPerBlock) {
            list[count++] = FLEX_RANGE(chunk.base, 9);
            chunk.free = 0;
            frames_ -= kPagesPerBlock;
            frames_wanted -= kPagesPerBlock;
        }
        for (; chunk.free > 0 && frames_wanted > 0 && count < list.size; frames_wanted--) {
            append_range(list, count, take_from(chunk), 0);
        }
        forget_if_empty(fullest);
    }
    return count;
}

} // namespace flex::tos
