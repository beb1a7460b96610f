#pragma once

#include "types.hpp"

namespace flex::monitor {

// How many entries of a translation table are in use (what merging and freeing go by), and the link of the
// list it is on. Kept beside the tables: a table that has just been unlinked stays walkable as it was until
// the TLBs have been told.
struct TableUse {
    u16 leaves = 0;
    u16 tables = 0;
    u32 next = 0;
};

// Page-table frames from one fixed stretch of the monitor's memory. Whoever holds the monitor's lock may use
// it.
//
// Invariant: a frame is free (on the list), or part of exactly one tree, or retired (unlinked from its tree,
// but a core or device may still walk it until the TLBs have been told). Each tree has to sync before
// free_retired is called.
class TablePool final {
public:
    static constexpr unsigned kEntries = 512;

    // Bytes of pool for `frames` tables, with their accounting.
    static constexpr u64 bytes_for(u64 frames) { return frames * kFrameSize + accounting_bytes(frames); }

    // base: frame-aligned, bytes_for(frames) long, mapped at its own address.
    void init(u64 base, u64 frames) {
        base_ = base;
        frames_ = frames;
        use_ = reinterpret_cast<TableUse*>(base + frames * kFrameSize);
        untouched_ = 0;
        free_ = kNone;
        retired_ = kNone;
        available_ = frames;
    }

    // A zeroed table, or nullptr when the pool is used up.
    [[nodiscard]] u64* take() {
        u32 frame = free_;
        if (frame != kNone) {
            free_ = use_[frame].next;
        } else {
            if (untouched_ == frames_) return nullptr;
            frame = untouched_++;
        }
        u64* table = reinterpret_cast<u64*>(base_ + frame * kFrameSize);
        for (unsigned i = 0; i < kEntries; i++) table[i] = 0;
        use_[frame] = {};
        available_--;
        return table;
    }

    // The table is unlinked from its tree, but may still be walked.
    void retire(const u64* table) {
        use(table).next = retired_;
        retired_ = frame_of(table);
    }

    // Nobody can walk the retired tables any more.
    void free_retired() {
        while (retired_ != kNone) {
            const u32 frame = retired_;
            retired_ = use_[frame].next;
            use_[frame].next = free_;
            free_ = frame;
            available_++;
        }
    }

    [[nodiscard]] TableUse& use(const u64* table) { return use_[frame_of(table)]; }

    [[nodiscard]] u64 in_use() const { return frames_ - available_; }
    [[nodiscard]] u64 available() const { return available_; }

private:
    static constexpr u32 kNone = ~u32{0};

    static constexpr u64 accounting_bytes(u64 frames) {
        return round_up(frames * sizeof(TableUse), kFrameSize);
    }

    [[nodiscard]] u32 frame_of(const u64* table) const {
        return static_cast<u32>((reinterpret_cast<u64>(table) - base_) >> kFrameShift);
    }

    u64 base_ = 0;
    u64 frames_ = 0;
    TableUse* use_ = nullptr;
    u32 free_ = kNone;    // list, given back
    u32 retired_ = kNone; // list
    u32 untouched_ = 0;   // frames from here on were never taken
    u64 available_ = 0;
};

} // namespace flex::monitor
