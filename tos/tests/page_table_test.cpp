/* The page-table code against a plain map of pages, with a TLB that remembers what nobody invalidated. */
#include "core/page_table.hpp"

#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>

using namespace flex::tos;

namespace {

/* A hostile TLB: keeps every page it was ever told of until it is invalidated. */
std::set<u64> cached;

struct Tables {
    static constexpr u64 kFrames = 512;
    explicit Tables(u64 frames = kFrames)
        : memory(static_cast<u8*>(std::aligned_alloc(kPageBytes, frames * kPageBytes))) {
        pool.reset(0x1000000, frames * kPageBytes, reinterpret_cast<u64>(memory) - 0x1000000);
        cached.clear();
        EXPECT_TRUE(table.create(pool));
    }
    ~Tables() { std::free(memory); }
    u8* memory;
    TablePool pool;
    PageTable table;
};

constexpr u64 kData = leaf::kNormal | leaf::kUser | leaf::kNonSecure;
constexpr u64 kGigabyte = u64{1} << 30;

} // namespace

void tlb::publish() {}
void tlb::invalidate(u64 va, u64 bytes) {
    cached.erase(cached.lower_bound(va), cached.lower_bound(va + bytes));
}
void tlb::invalidate_block(u64 va) { invalidate(align_down(va, kBlockBytes), kBlockBytes); }

TEST(PageTable, uses_blocks_where_address_and_memory_are_aligned) {
    Tables t;
    ASSERT_TRUE(t.table.map(kGigabyte, 0x80000000, 2 * kBlockBytes + kPageBytes, kData));
    EXPECT_EQ(t.table.lookup(kGigabyte).bytes, kBlockBytes);
    EXPECT_EQ(t.table.lookup(kGigabyte + kBlockBytes + 5 * kPageBytes).physical, 0x80000000 + kBlockBytes);
    EXPECT_EQ(t.table.lookup(kGigabyte + 2 * kBlockBytes).bytes, kPageBytes);
    EXPECT_EQ(t.table.lookup(kGigabyte + 2 * kBlockBytes + kPageBytes).bytes, 0);
    ASSERT_TRUE(t.table.map(2 * kGigabyte, 0x80001000, kBlockBytes, kData));
    EXPECT_EQ(t.table.lookup(2 * kGigabyte).bytes, kPageBytes);
}

TEST(PageTable, splits_a_block_that_is_taken_in_part) {
    Tables t;
    ASSERT_TRUE(t.table.map(kGigabyte, 0x80000000, kBlockBytes, kData));
    cached.insert(kGigabyte);
    bool stuck = false;
    const u64 page = kGigabyte + 7 * kPageBytes;
    const PageTable::Leaf leaf = t.table.take(page, page + kPageBytes, stuck);
    EXPECT_EQ(leaf.physical, 0x80000000 + 7 * kPageBytes);
    EXPECT_EQ(leaf.bytes, kPageBytes);
    EXPECT_TRUE(cached.empty()) << "the block must be invalidated before pages take its place";
    EXPECT_EQ(t.table.lookup(page).bytes, 0);
    EXPECT_EQ(t.table.lookup(page + kPageBytes).physical, 0x80000000 + 8 * kPageBytes);
    EXPECT_EQ(t.table.lookup(page + kPageBytes).attributes, kData);
}

TEST(PageTable, says_stuck_when_no_table_is_left_for_a_split) {
    Tables t(2);
    ASSERT_TRUE(t.table.map(kGigabyte, 0x80000000, kBlockBytes, kData));
    bool stuck = false;
    EXPECT_EQ(t.table.take(kGigabyte + kPageBytes, kGigabyte + 2 * kPageBytes, stuck).bytes, 0);
    EXPECT_TRUE(stuck);
    EXPECT_EQ(t.table.lookup(kGigabyte).bytes, kBlockBytes);
}

TEST(PageTable, a_map_that_runs_out_of_tables_leaves_nothing_behind) {
    Tables t(4); /* root, one level 2, two level 3 */
    EXPECT_FALSE(t.table.map(kGigabyte, 0x80001000, 3 * kBlockBytes, kData));
    bool stuck = false;
    EXPECT_EQ(t.table.take(0, u64{1} << 39, stuck).bytes, 0);
    t.table.prune(kGigabyte, kGigabyte + 4 * kBlockBytes);
    EXPECT_EQ(t.pool.available(), 2);
}

TEST(PageTable, gives_every_empty_table_back) {
    Tables t;
    const u64 before = t.pool.available();
    ASSERT_TRUE(t.table.map(kGigabyte + kPageBytes, 0x80001000, 40 * kBlockBytes, kData));
    bool stuck = false;
    while (t.table.take(0, u64{1} << 39, stuck).bytes != 0) {
    }
    t.table.prune(0, u64{1} << 39);
    EXPECT_EQ(t.pool.available(), before - 1) << "all but the level 2 table";
}

TEST(PageTable, protect_changes_permissions_but_never_the_world) {
    Tables t;
    ASSERT_TRUE(t.table.map(kGigabyte, 0x80000000, kBlockBytes, leaf::user(3, true)));
    ASSERT_TRUE(t.table.map(2 * kGigabyte, 0xe100000, kPageBytes, leaf::user(1, false)));
    ASSERT_TRUE(t.table.protect(kGigabyte + kPageBytes, kGigabyte + 2 * kPageBytes, leaf::user(1, false)));
    ASSERT_TRUE(t.table.protect(2 * kGigabyte, 2 * kGigabyte + kPageBytes, leaf::user(5, true)));
    EXPECT_EQ(t.table.lookup(kGigabyte).attributes, leaf::user(3, true));
    EXPECT_EQ(t.table.lookup(kGigabyte + kPageBytes).attributes, leaf::user(1, true));
    EXPECT_EQ(t.table.lookup(2 * kGigabyte).attributes, leaf::user(5, false));
}

TEST(PageTable, finds_what_leads_to_a_physical_page) {
    Tables t;
    ASSERT_TRUE(t.table.map(kGigabyte, 0x80000000, 2 * kBlockBytes, kData));
    ASSERT_TRUE(t.table.map(5 * kGigabyte + 3 * kPageBytes, 0x90003000, 4 * kPageBytes, kData));
    EXPECT_EQ(t.table.find_physical(0x80000000 + kBlockBytes + 7 * kPageBytes).va, kGigabyte + kBlockBytes);
    EXPECT_EQ(t.table.find_physical(0x80000000 + kBlockBytes + 7 * kPageBytes).bytes, kBlockBytes);
    EXPECT_EQ(t.table.find_physical(0x90005000).va, 5 * kGigabyte + 5 * kPageBytes);
    EXPECT_EQ(t.table.find_physical(0x90005000).bytes, kPageBytes);
    EXPECT_EQ(t.table.find_physical(0x90007000).bytes, 0);
    EXPECT_EQ(t.table.find_physical(0x80000000 - kPageBytes).bytes, 0);
    EXPECT_EQ(t.table.find_physical(0).bytes, 0);
}

TEST(PageTable, a_pinned_page_stays_marked_through_splits_and_changes_of_permission) {
    Tables t;
    ASSERT_TRUE(t.table.map(kGigabyte, 0x80000000, kBlockBytes, kData));
    ASSERT_TRUE(t.table.map(2 * kGigabyte, 0x90000000, 2 * kPageBytes, kData));
    t.table.pin(kGigabyte, kGigabyte + kPageBytes);
    t.table.pin(2 * kGigabyte, 2 * kGigabyte + kPageBytes);
    ASSERT_TRUE(t.table.protect(kGigabyte + kPageBytes, kGigabyte + 2 * kPageBytes, kData | leaf::kReadOnly));
    EXPECT_NE(t.table.lookup(kGigabyte + kPageBytes).attributes & leaf::kPinned, 0)
        << "of a block, all is pinned";
    EXPECT_NE(t.table.lookup(kGigabyte + kPageBytes).attributes & leaf::kReadOnly, 0);
    EXPECT_NE(t.table.lookup(2 * kGigabyte).attributes & leaf::kPinned, 0);
    EXPECT_EQ(t.table.lookup(2 * kGigabyte + kPageBytes).attributes & leaf::kPinned, 0);
}

TEST(PageTable, user_leaves_are_never_executable_by_the_kernel) {
    for (u8 protection = 0; protection < 8; protection++) {
        const u64 bits = leaf::user(protection, true);
        EXPECT_NE(bits & leaf::kKernelNoExecute, 0u);
        EXPECT_EQ((bits & leaf::kUser) != 0, protection != 0);
        EXPECT_EQ((bits & leaf::kReadOnly) == 0, (protection & 2) != 0);
        EXPECT_EQ((bits & leaf::kUserNoExecute) == 0, (protection & 4) != 0);
    }
}

TEST(PageTable, behaves_like_a_map_of_pages_under_random_operations) {
    constexpr u64 kPages = 6 * kPagesPerBlock;
    Tables t;
    std::mt19937_64 random(7);
    std::map<u64, std::pair<u64, u64>> model; /* page -> frame, attributes */
    for (int round = 0; round < 4000; round++) {
        const u64 align = random() % 3 == 0 ? kPagesPerBlock : 1;
        const u64 from = align_down(random() % kPages, align);
        const u64 count = align == 1 ? 1 + random() % 700 : kPagesPerBlock;
        const u64 va = kGigabyte + from * kPageBytes, end = va + count * kPageBytes;
        const u64 physical =
            0x100000000 + (align == 1 ? random() % 4096 * kPageBytes : random() % 8 * kBlockBytes);
        const u64 attributes = leaf::user(static_cast<u8>(1 + random() % 3), true);
        if (random() % 2 == 0 && model.lower_bound(va) == model.lower_bound(end)) {
            ASSERT_TRUE(t.table.map(va, physical, end - va, attributes));
            for (u64 at = va; at < end; at += kPageBytes) model[at] = {physical + (at - va), attributes};
        } else if (random() % 3 == 0) {
            ASSERT_TRUE(t.table.protect(va, end, attributes));
            for (auto it = model.lower_bound(va); it != model.lower_bound(end); ++it)
                it->second.second = attributes;
        } else {
            bool stuck = false;
            u64 pages = 0;
            for (PageTable::Leaf leaf = t.table.take(va, end, stuck); leaf.bytes != 0;
                 leaf = t.table.take(va, end, stuck)) {
                ASSERT_GE(leaf.va, va);
                ASSERT_LE(leaf.va + leaf.bytes, end);
                ASSERT_EQ(leaf.physical, model.at(leaf.va).first);
                pages += leaf.bytes / kPageBytes;
            }
            ASSERT_FALSE(stuck);
            t.table.prune(va, end);
            ASSERT_EQ(pages, static_cast<u64>(std::distance(model.lower_bound(va), model.lower_bound(end))));
            model.erase(model.lower_bound(va), model.lower_bound(end));
        }
        for (int probe = 0; probe < 50; probe++) {
            const u64 at = kGigabyte + random() % (kPages + 700) * kPageBytes;
            const PageTable::Leaf leaf = t.table.lookup(at);
            const auto expected = model.find(at);
            ASSERT_EQ(leaf.bytes != 0, expected != model.end());
            if (leaf.bytes == 0) continue;
            ASSERT_EQ(leaf.physical + (at - leaf.va), expected->second.first);
            ASSERT_EQ(leaf.attributes, expected->second.second);
        }
    }
}
