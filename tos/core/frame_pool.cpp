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
    for (Chunk& chunk : chunks_) chunk = {};
    frames_ = 0;
    current_ = 0;
}

FramePool::Chunk* FramePool::find(u64 base) {
    Chunk* unused = nullptr;
    for (Chunk& chunk : chunks_) {
        if (chunk.free != 0 && chunk.base == base) return &chunk;
        if (chunk.free == 0 && unused == nullptr) unused = &chunk;
    }
    if (unused != nullptr) unused->base = base;
    return unused;
}

bool FramePool::put(u64 physical) {
    Chunk* chunk = find(align_down(physical, kBlockBytes));
    if (chunk == nullptr) return false;
    const u64 page = (physical - chunk->base) / kPageBytes;
    chunk->bits[page / 64] |= u64{1} << (page % 64);
    chunk->free++;
    frames_++;
    return true;
}

u64 FramePool::take() {
    if (frames_ == 0) return 0;
    if (chunks_[current_].free == 0) {
        u32 emptiest = kChunks;
        for (u32 i = 0; i < kChunks; i++) {
            if (chunks_[i].free != 0 && (emptiest == kChunks || chunks_[i].free < chunks_[emptiest].free)) emptiest = i;
        }
        current_ = emptiest;
    }
    Chunk& chunk = chunks_[current_];
    for (u32 i = 0;; i++) {
        if (chunk.bits[i] == 0) continue;
        const u32 bit = lowest_bit(chunk.bits[i]);
        chunk.bits[i] &= chunk.bits[i] - 1;
        chunk.free--;
        frames_--;
        return chunk.base + (u64{i} * 64 + bit) * kPageBytes;
    }
}

u32 FramePool::drain(Span<flex_range_t> list, u64 frames_wanted) {
    u32 count = 0;
    while (frames_wanted > 0 && frames_ > 0 && count < list.size) {
        Chunk* fullest = &chunks_[0];
        for (Chunk& chunk : chunks_) {
            if (chunk.free > fullest->free) fullest = &chunk;
        }
        if (fullest->free == kPagesPerBlock && frames_wanted >= kPagesPerBlock) {
            list[count++] = FLEX_RANGE(fullest->base, 9);
            for (u64& word : fullest->bits) word = 0;
            fullest->free = 0;
            frames_ -= kPagesPerBlock;
            frames_wanted -= kPagesPerBlock;
            continue;
        }
        for (u32 i = 0; i < kPagesPerBlock / 64; i++) {
            while (fullest->bits[i] != 0 && frames_wanted > 0 && count < list.size) {
                const u32 bit = lowest_bit(fullest->bits[i]);
                fullest->bits[i] &= fullest->bits[i] - 1;
                append_range(list, count, fullest->base + (u64{i} * 64 + bit) * kPageBytes, 0);
                fullest->free--;
                frames_--;
                frames_wanted--;
            }
        }
    }
    return count;
}

} // namespace flex::tos
