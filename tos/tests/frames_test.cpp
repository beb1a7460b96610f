/* Adoption of frames, and the pool. */
#include "abi/frame_table.hpp"
#include "core/adoption.hpp"
#include "core/frame_pool.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <set>
#include <vector>

using namespace flex;
using namespace flex::tos;

namespace {

constexpr u64 kDram = 0x40000000;

struct Frames {
    explicit Frames(u64 count, FrameState state = FrameState::Flex)
        : cells(count, static_cast<u8>(state)), table(cells.data(), kDram, count) {}
    std::vector<u8> cells;
    TrustedOsFrameTable<> table;
    Adoption adopt(std::vector<flex_range_t> list, u64 most) const {
        return adopt_ranges(table, Span<const flex_range_t>(list.data(), list.size()), most);
    }
};

} // namespace

TEST(Adoption, takes_every_frame_of_a_good_list) {
    Frames f(1024);
    const Adoption result = f.adopt({FLEX_RANGE(kDram + 0x200000, 9), FLEX_RANGE(kDram, 0)}, 600);
    EXPECT_TRUE(result.good);
    EXPECT_EQ(result.adopted, 2u);
    EXPECT_EQ(result.frames, 513u);
    EXPECT_EQ(f.table.count(FrameState::Adopted), 513u);
}

TEST(Adoption, refuses_frames_that_are_not_flex_and_changes_none_of_that_range) {
    for (const FrameState bad : {FrameState::Reserved, FrameState::Normal, FrameState::Shared,
                                 FrameState::Claimed, FrameState::Adopted, FrameState::Released}) {
        Frames f(1024);
        f.cells[700] = static_cast<u8>(bad);
        const Adoption result = f.adopt({FLEX_RANGE(kDram, 3), FLEX_RANGE(kDram + 0x200000, 9)}, 1024);
        EXPECT_FALSE(result.good);
        EXPECT_EQ(result.adopted, 1u) << "the first range is the caller's to give back";
        EXPECT_EQ(f.table.state(512), FrameState::Flex);
        EXPECT_EQ(f.table.state(700), bad);
    }
}

TEST(Adoption, refuses_a_frame_named_twice) {
    Frames f(1024);
    EXPECT_FALSE(f.adopt({FLEX_RANGE(kDram, 0), FLEX_RANGE(kDram, 0)}, 1024).good);
    Frames g(1024);
    EXPECT_FALSE(g.adopt({FLEX_RANGE(kDram + 0x3000, 0), FLEX_RANGE(kDram, 4)}, 1024).good);
}

TEST(Adoption, refuses_more_than_was_asked_for) {
    Frames f(1024);
    EXPECT_FALSE(f.adopt({FLEX_RANGE(kDram, 9)}, 511).good);
    EXPECT_EQ(f.table.count(FrameState::Adopted), 0u);
}

TEST(Adoption, refuses_addresses_that_are_no_dram_or_malformed) {
    Frames f(1024);
    for (const flex_range_t bad :
         {flex_range_t{0}, FLEX_RANGE(0x0e100000, 0), FLEX_RANGE(kDram - 0x1000, 0),
          FLEX_RANGE(kDram + 1024 * 4096, 0), FLEX_RANGE(kDram + 0x1000, 1), FLEX_RANGE(kDram, 19),
          FLEX_RANGE(kDram, 63), FLEX_RANGE(kDram, 0) | 0x40, FLEX_RANGE(0xfffffffffffff000, 0),
          FLEX_RANGE(kDram, 11), ~flex_range_t{0}}) {
        EXPECT_FALSE(f.adopt({bad}, 1u << 20).good) << std::hex << bad;
    }
    EXPECT_EQ(f.table.count(FrameState::Flex), 1024u);
}

TEST(FramePool, hands_out_each_frame_once_and_drains_to_aligned_ranges) {
    std::mt19937_64 random(5);
    auto pool = std::make_unique<FramePool>();
    std::set<u64> inside;
    for (u64 i = 0; i < 3 * kPagesPerBlock; i++) inside.insert(kDram + i * kPageBytes);
    for (const u64 frame : inside) ASSERT_TRUE(pool->put(frame));
    for (int round = 0; round < 20000; round++) {
        if (random() % 2 == 0 && pool->frames() > 0) {
            ASSERT_EQ(inside.erase(pool->take()), 1u);
        } else {
            const u64 frame = kDram + random() % (3 * kPagesPerBlock) * kPageBytes;
            if (inside.insert(frame).second) {
                ASSERT_TRUE(pool->put(frame));
            }
        }
        ASSERT_EQ(pool->frames(), inside.size());
    }
    while (pool->frames() > 0) {
        flex_range_t list[16];
        const u32 count = pool->drain(Span<flex_range_t>(list), 100);
        ASSERT_GT(count, 0u);
        for (u32 i = 0; i < count; i++) {
            ASSERT_TRUE(is_aligned(range_address(list[i]), range_bytes(list[i])));
            for (u64 at = 0; at < range_bytes(list[i]); at += kPageBytes)
                ASSERT_EQ(inside.erase(range_address(list[i]) + at), 1u);
        }
    }
    EXPECT_TRUE(inside.empty());
}

TEST(FramePool, gives_back_whole_chunks_as_blocks) {
    auto pool = std::make_unique<FramePool>();
    for (u64 i = 0; i < 2 * kPagesPerBlock; i++) ASSERT_TRUE(pool->put(kDram + i * kPageBytes));
    flex_range_t list[4];
    ASSERT_EQ(pool->drain(Span<flex_range_t>(list), kPagesPerBlock), 1u);
    EXPECT_EQ(range_order(list[0]), 9u);
    EXPECT_EQ(pool->frames(), kPagesPerBlock);
}

TEST(FramePool, replaces_a_frame_by_another_wherever_that_lies) {
    auto pool = std::make_unique<FramePool>();
    ASSERT_TRUE(pool->put(kDram));
    ASSERT_TRUE(pool->put(kDram + kPageBytes));
    EXPECT_TRUE(pool->contains(kDram));
    EXPECT_FALSE(pool->contains(kDram + 2 * kPageBytes));
    EXPECT_TRUE(pool->replace(kDram, kDram + 2 * kPageBytes)) << "in the same chunk";
    EXPECT_TRUE(pool->replace(kDram + kPageBytes, kDram + kBlockBytes)) << "in another one";
    EXPECT_FALSE(pool->contains(kDram) || pool->contains(kDram + kPageBytes));
    EXPECT_EQ(pool->frames(), 2u);
    EXPECT_TRUE(pool->replace(kDram + 2 * kPageBytes, kDram)) << "the chunk's last frame";
    const std::set<u64> taken = {pool->take(), pool->take()};
    EXPECT_EQ(taken, (std::set<u64>{kDram, kDram + kBlockBytes}));
    EXPECT_EQ(pool->take(), 0u);
}

TEST(FramePool, has_no_room_for_a_replacement_in_one_more_chunk_than_it_can_keep) {
    auto pool = std::make_unique<FramePool>();
    for (u64 n = 0; n < FramePool::kChunks; n++) ASSERT_TRUE(pool->put(kDram + n * kBlockBytes));
    const u64 elsewhere = kDram + FramePool::kChunks * kBlockBytes;
    EXPECT_FALSE(pool->room_for(elsewhere));
    EXPECT_FALSE(pool->replace(kDram, elsewhere));
    EXPECT_TRUE(pool->contains(kDram));
    EXPECT_TRUE(pool->room_for(kDram + kPageBytes));
}

TEST(FramePool, refuses_what_it_has_no_room_for) {
    auto pool = std::make_unique<FramePool>();
    u64 n = 0;
    while (pool->put(kDram + n * kBlockBytes)) n++;
    EXPECT_EQ(n, FramePool::kChunks);
    EXPECT_EQ(pool->frames(), n);
    EXPECT_TRUE(pool->put(kDram + kPageBytes)) << "into a chunk it has";
}
