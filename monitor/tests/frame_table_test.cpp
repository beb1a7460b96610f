#include "abi/frame_table.hpp"

#include <gtest/gtest.h>
#include <vector>

namespace flex {
namespace {

constexpr flex_u64 kBase = 0x40000000;

struct Frames {
    explicit Frames(size_t count)
        : cells(count, FLEX_FRAME_NORMAL), monitor(cells.data(), kBase, count),
          tos(cells.data(), kBase, count) {}
    alignas(8) std::vector<flex_u8> cells;
    MonitorFrameTable<> monitor;
    TrustedOsFrameTable<> tos;
};

TEST(FrameTable, parses_only_aligned_ranges_within_the_table) {
    Frames f(1024);
    FrameRange range;
    EXPECT_TRUE(f.monitor.parse(FLEX_RANGE(kBase, 0), range));
    EXPECT_EQ(range.first, 0u);
    EXPECT_EQ(range.count, 1u);
    EXPECT_TRUE(f.monitor.parse(FLEX_RANGE(kBase + 0x200000, 9), range));
    EXPECT_EQ(range.first, 512u);
    EXPECT_EQ(range.count, 512u);

    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(kBase + 0x1000, 1), range)) << "misaligned";
    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(kBase + 0x400000, 0), range)) << "one past the end";
    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(kBase, 11), range)) << "longer than the table";
    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(kBase - 0x1000, 0), range)) << "below DRAM";
    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(kBase, 0) | 0x40, range)) << "reserved bits";
    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(0, 63), range)) << "2^63 bytes and more";
    EXPECT_FALSE(f.monitor.parse(FLEX_RANGE(0xfffffffffffff000, 0), range))
        << "the last frame of the address space";
    EXPECT_FALSE(f.monitor.parse(~flex_u64{0}, range));
    EXPECT_FALSE(f.monitor.parse(0, range));
}

TEST(FrameTable, covering_refuses_what_wraps_or_leaves_the_table) {
    Frames f(16);
    FrameRange range;
    EXPECT_TRUE(f.monitor.covering(kBase + 0xfff, 2, range));
    EXPECT_EQ(range.count, 2u);
    EXPECT_FALSE(f.monitor.covering(kBase, 0, range));
    EXPECT_FALSE(f.monitor.covering(kBase + 0xfff8, 16, range));
    EXPECT_FALSE(f.monitor.covering(~flex_u64{0} - 7, 16, range));
    EXPECT_FALSE(f.monitor.covering(kBase, ~flex_u64{0}, range));
}

// A range of 24 frames, of which 16 change eight at a time, with one frame that is in another state: is the claim refused, and all as
// it was?
template <class Access> bool refuses_one_bad_frame(flex_u64 bad, FrameState state) {
    Frames f(32);
    const MonitorFrameTable<Access> table(f.cells.data(), kBase, 32);
    f.cells[4 + bad] = static_cast<flex_u8>(state);
    const auto before = f.cells;
    return !table.claim_for_protect({4, 24}) && f.cells == before;
}

// Swaps of eight cells that look at one of them only, or at seven: what the test below has to notice.
struct LooksAtTheFirst : AtomicAccess {
    using AtomicAccess::swap;
    static bool swap(flex_u64* cells, flex_u64 from, flex_u64 to) {
        if ((*cells & 0xff) != (from & 0xff)) return false;
        *cells = to;
        return true;
    }
};
struct ForgetsTheLast : AtomicAccess {
    using AtomicAccess::swap;
    static bool swap(flex_u64* cells, flex_u64 from, flex_u64 to) {
        constexpr flex_u64 kSeven = ~flex_u64{0} >> 8;
        if ((*cells & kSeven) != (from & kSeven)) return false;
        *cells = to;
        return true;
    }
};

TEST(FrameTable, a_move_of_many_frames_is_all_or_nothing) {
    unsigned missed_first = 0, missed_last = 0;
    for (int s = 0; s < FLEX_FRAME_STATES; s++) {
        if (s == FLEX_FRAME_NORMAL) continue;
        for (flex_u64 bad = 0; bad < 24; bad++) {
            EXPECT_TRUE(refuses_one_bad_frame<AtomicAccess>(bad, static_cast<FrameState>(s))) << bad << " is " << s;
            missed_first += !refuses_one_bad_frame<LooksAtTheFirst>(bad, static_cast<FrameState>(s));
            missed_last += !refuses_one_bad_frame<ForgetsTheLast>(bad, static_cast<FrameState>(s));
        }
    }
    EXPECT_GT(missed_first, 0u) << "this test would not notice a swap that checks one frame of eight";
    EXPECT_GT(missed_last, 0u) << "this test would not notice a swap that checks seven frames of eight";
    Frames f(32);
    EXPECT_TRUE(f.monitor.claim_for_protect({4, 24}));
    EXPECT_EQ(f.cells[3], FLEX_FRAME_NORMAL);
    EXPECT_EQ(f.cells[4], FLEX_FRAME_CLAIMED);
    EXPECT_EQ(f.cells[27], FLEX_FRAME_CLAIMED);
    EXPECT_EQ(f.cells[28], FLEX_FRAME_NORMAL);
}

TEST(FrameTable, each_author_leaves_only_his_states) {
    const auto after = [](FrameState from, auto transition) {
        Frames f(8);
        f.cells.assign(8, static_cast<flex_u8>(from));
        return transition(f) ? static_cast<int>(f.cells[0]) : -1;
    };
    for (int s = 0; s < FLEX_FRAME_STATES; s++) {
        const auto from = static_cast<FrameState>(s);
        const FrameRange all{0, 8};
        EXPECT_EQ(after(from, [&](Frames& f) { return f.monitor.claim_for_protect(all); }),
                  s == FLEX_FRAME_NORMAL ? FLEX_FRAME_CLAIMED : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.monitor.claim_for_recall(all); }),
                  s == FLEX_FRAME_RELEASED ? FLEX_FRAME_CLAIMED : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.monitor.settle_flex(all); }),
                  s == FLEX_FRAME_CLAIMED ? FLEX_FRAME_FLEX : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.monitor.settle_normal(all); }),
                  s == FLEX_FRAME_CLAIMED ? FLEX_FRAME_NORMAL : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.tos.pin_shared(all); }),
                  s == FLEX_FRAME_NORMAL ? FLEX_FRAME_SHARED : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.tos.unpin_shared(all); }),
                  s == FLEX_FRAME_SHARED ? FLEX_FRAME_NORMAL : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.tos.adopt(all); }),
                  s == FLEX_FRAME_FLEX ? FLEX_FRAME_ADOPTED : -1);
        EXPECT_EQ(after(from, [&](Frames& f) { return f.tos.release(all); }),
                  s == FLEX_FRAME_ADOPTED ? FLEX_FRAME_RELEASED : -1);
    }
}

TEST(FrameTable, counts_frames_by_state) {
    Frames f(35);
    for (size_t i = 0; i < 35; i += 3) f.cells[i] = FLEX_FRAME_FLEX;
    EXPECT_EQ(f.monitor.count(FrameState::Flex), 12u);
    EXPECT_EQ(f.monitor.count(FrameState::Normal), 23u);
    EXPECT_EQ(f.monitor.count(FrameState::Reserved), 0u);
}

} // namespace
} // namespace flex
