/*
 * The frame table as C++ (header-only, freestanding, no hardware): the transitions of abi/frame.h, each with
 * its author.
 *
 * Flex-Monitor uses MonitorFrameTable, the trusted OS TrustedOsFrameTable, on the same bytes at the same
 * time; neither can name a transition that is the other's. Every change is a compare-and-swap, so what an
 * author has claimed or adopted is his alone.
 *
 * `Access` is how a cell is read and swapped: AtomicAccess on the device; the exploration test passes one
 * that gives way to the other actor before every step.
 *
 * Thread-safe and lock-free. The table does not own the bytes: they must stay mapped (normal,
 * inner-shareable, write-back memory in both worlds) for as long as the object is used.
 */
#ifndef FLEX_ABI_FRAME_TABLE_HPP
#define FLEX_ABI_FRAME_TABLE_HPP

#include "abi/frame.h"

namespace flex {

enum class FrameState : flex_u8 {
    Reserved = FLEX_FRAME_RESERVED,
    Normal = FLEX_FRAME_NORMAL,
    Shared = FLEX_FRAME_SHARED,
    Claimed = FLEX_FRAME_CLAIMED,
    Flex = FLEX_FRAME_FLEX,
    Adopted = FLEX_FRAME_ADOPTED,
    Released = FLEX_FRAME_RELEASED,
};

/* Frames [first, first + count) by index in the table. Only parse() makes one from untrusted input. */
struct FrameRange {
    flex_u64 first = 0;
    flex_u64 count = 0;
};

struct AtomicAccess {
    static flex_u8 load(const flex_u8* cell) { return __atomic_load_n(cell, __ATOMIC_ACQUIRE); }
    static flex_u32 load(const flex_u32* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static flex_u64 load(const flex_u64* cells) { return __atomic_load_n(cells, __ATOMIC_ACQUIRE); }
    template <class T> static bool swap(T* cell, T from, T to) {
        return __atomic_compare_exchange_n(cell, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
};

/* What both authors may do: look. A state read here may have changed by the time it is used; only a
 * transition decides. */
template <class Access = AtomicAccess> class FrameTable {
public:
    FrameTable() = default;
    /* cells: `frames` bytes, 8-byte aligned; cell i describes the frame at dram_base + i * FLEX_FRAME_SIZE.
     */
    FrameTable(flex_u8* cells, flex_u64 dram_base, flex_u64 frames)
        : cells_(cells), base_(dram_base), frames_(frames) {}

    [[nodiscard]] flex_u64 base() const { return base_; }
    [[nodiscard]] flex_u64 frames() const { return frames_; }
    [[nodiscard]] flex_u64 address(flex_u64 frame) const { return base_ + (frame << FLEX_FRAME_SHIFT); }

    /* False: malformed, misaligned, or not wholly within the table. No value of `word` can wrap or overflow.
     */
    [[nodiscard]] bool parse(flex_range_t word, FrameRange& out) const {
        const flex_u64 order = word & FLEX_RANGE_ORDER_MASK;
        if (order > FLEX_RANGE_ORDER_MAX || (word & FLEX_RANGE_ZERO_MASK) != 0) return false;
        const flex_u64 address = word & ~(FLEX_FRAME_SIZE - 1);
        return ((address >> FLEX_FRAME_SHIFT) & ((FLEX_U64(1) << order) - 1)) == 0 &&
               locate(address, FLEX_U64(1) << order, out);
    }

    /* The frames that hold the bytes [address, address + bytes); false when empty, wrapping or not wholly in
     * the table. */
    [[nodiscard]] bool covering(flex_u64 address, flex_u64 bytes, FrameRange& out) const {
        if (bytes == 0 || bytes - 1 > ~address) return false;
        const flex_u64 first = address >> FLEX_FRAME_SHIFT;
        const flex_u64 last = (address + (bytes - 1)) >> FLEX_FRAME_SHIFT;
        return locate(first << FLEX_FRAME_SHIFT, last - first + 1, out);
    }

    [[nodiscard]] FrameState state(flex_u64 frame) const {
        return static_cast<FrameState>(Access::load(&cells_[frame]));
    }

    [[nodiscard]] bool all(FrameRange range, FrameState state) const {
        for (flex_u64 i = 0; i < range.count; i++) {
            if (this->state(range.first + i) != state) return false;
        }
        return true;
    }

    /* Frames in `state`; not a snapshot when others change the table meanwhile. */
    [[nodiscard]] flex_u64 count(FrameState state) const {
        const flex_u64 word = eight(state);
        flex_u64 found = 0;
        flex_u64 i = 0;
        for (; i + 8 <= frames_; i += 8) {
            flex_u64 cells = Access::load(reinterpret_cast<const flex_u64*>(&cells_[i]));
            if (cells == word) {
                found += 8;
                continue;
            }
            for (int k = 0; k < 8; k++, cells >>= 8) found += (cells & 0xff) == static_cast<flex_u64>(state);
        }
        for (; i < frames_; i++) found += this->state(i) == state;
        return found;
    }

protected:
    /*
     * Moves every frame of `range` from one state to another, or none. A failed move takes back what it did,
     * which is right only when nobody else may leave `to`: that is what "one author per transition" gives.
     */
    [[nodiscard]] bool move(FrameRange range, FrameState from, FrameState to) const {
        const flex_u64 moved = advance(range, from, to);
        if (moved == range.count) return true;
        (void)advance({range.first, moved}, to, from);
        return false;
    }

private:
    static flex_u64 eight(FrameState state) {
        return FLEX_U64(0x0101010101010101) * static_cast<flex_u64>(state);
    }

    [[nodiscard]] bool locate(flex_u64 address, flex_u64 count, FrameRange& out) const {
        if (address < base_) return false;
        const flex_u64 first = (address - base_) >> FLEX_FRAME_SHIFT;
        if (first >= frames_ || count > frames_ - first) return false;
        out = {first, count};
        return true;
    }

    /* Eight cells at a time where the range allows: a 2 MiB range is 64 swaps. Returns how many frames moved.
     */
    flex_u64 advance(FrameRange range, FrameState from, FrameState to) const {
        flex_u64 i = 0;
        while (i < range.count) {
            flex_u8* cell = &cells_[range.first + i];
            if (((range.first + i) & 7) == 0 && range.count - i >= 8) {
                if (!Access::swap(reinterpret_cast<flex_u64*>(cell), eight(from), eight(to))) return i;
                i += 8;
            } else {
                if (!Access::swap(cell, static_cast<flex_u8>(from), static_cast<flex_u8>(to))) return i;
                i += 1;
            }
        }
        return i;
    }

    flex_u8* cells_ = nullptr;
    flex_u64 base_ = 0;
    flex_u64 frames_ = 0;
};

/* Flex-Monitor's transitions. */
template <class Access = AtomicAccess> class MonitorFrameTable final : public FrameTable<Access> {
public:
    using FrameTable<Access>::FrameTable;

    /* NORMAL -> CLAIMED for all or none. The normal tree still maps the frames. */
    [[nodiscard]] bool claim_for_protect(FrameRange range) const { return claim(range, FrameState::Normal); }
    /* RELEASED -> CLAIMED for all or none. The content is zero. */
    [[nodiscard]] bool claim_for_recall(FrameRange range) const { return claim(range, FrameState::Released); }

    /* CLAIMED -> FLEX: the caller has broken every normal mapping and the TLBs of cores and devices have
     * forgotten it. */
    [[nodiscard]] bool settle_flex(FrameRange range) const {
        return this->move(range, FrameState::Claimed, FrameState::Flex);
    }
    /* CLAIMED -> NORMAL: the frames are zero (recall) or untouched (a protect that was undone). */
    [[nodiscard]] bool settle_normal(FrameRange range) const {
        return this->move(range, FrameState::Claimed, FrameState::Normal);
    }
    /* CLAIMED -> RELEASED: a recall that was undone before anything was changed. */
    [[nodiscard]] bool unclaim_released(FrameRange range) const {
        return this->move(range, FrameState::Claimed, FrameState::Released);
    }

private:
    [[nodiscard]] bool claim(FrameRange range, FrameState from) const {
#ifdef FLEX_WITHOUT_STATE_CHECK
        /* The defence-removed build: whatever the frame was, it is taken; but not the monitor's own, or it
         * could not tell the tale. */
        for (flex_u64 i = 0; i < range.count; i++) {
            if (this->state(range.first + i) == FrameState::Reserved) return false;
        }
        for (flex_u64 i = 0; i < range.count; i++) {
            const FrameRange one{range.first + i, 1};
            if (!this->move(one, this->state(one.first), FrameState::Claimed)) return false;
        }
        (void)from;
        return true;
#else
        return this->move(range, from, FrameState::Claimed);
#endif
    }
};

/* The trusted OS's transitions. */
template <class Access = AtomicAccess> class TrustedOsFrameTable final : public FrameTable<Access> {
public:
    using FrameTable<Access>::FrameTable;

    /* NORMAL -> SHARED for all or none: from here on the frames cannot be protected. Their content stays
     * untrusted. */
    [[nodiscard]] bool pin_shared(FrameRange range) const {
        return this->move(range, FrameState::Normal, FrameState::Shared);
    }
    /* SHARED -> NORMAL. False: some frame was not pinned (a caller's mistake; nothing changed). */
    [[nodiscard]] bool unpin_shared(FrameRange range) const {
        return this->move(range, FrameState::Shared, FrameState::Normal);
    }
    /* FLEX -> ADOPTED for all or none. Map only after this says true, so that a frame is mapped once. */
    [[nodiscard]] bool adopt(FrameRange range) const {
        return this->move(range, FrameState::Flex, FrameState::Adopted);
    }
    /* ADOPTED -> RELEASED. The caller has unmapped the frames on every core (TLBI + DSB), then zeroed them.
     */
    [[nodiscard]] bool release(FrameRange range) const {
        return this->move(range, FrameState::Adopted, FrameState::Released);
    }
};

} // namespace flex

#endif
