#include "fake_machine.hpp"

#include <gtest/gtest.h>
#include <random>
#include <set>

namespace flex::monitor::test {
namespace {

struct Tree {
    explicit Tree(u64 tables = 64) : memory(TablePool::bytes_for(tables)) {
        pool.init(memory.address(), tables);
        ready = tree.init(machine, pool, {.cores = true, .devices = true, .vmid = 1});
    }
    void settle() { tree.sync(), pool.free_retired(); }
    Memory memory;
    FakeMachine machine;
    TablePool pool;
    PageTree<FakeMachine> tree;
    bool ready = false;
};

TEST(PageTree, maps_a_region_with_the_largest_leaves_that_fit) {
    Tree t;
    ASSERT_TRUE(t.tree.map_region({kGiB - 2 * kMiB - 0x1000, 2 * kGiB + 2 * kMiB + 0x2000}, stage2::kMemory));
    EXPECT_EQ(t.tree.find(kGiB - 2 * kMiB - 0x1001).level, 0u);
    EXPECT_EQ(t.tree.find(kGiB - 2 * kMiB - 0x1000).level, 3u);
    EXPECT_EQ(t.tree.find(kGiB - 2 * kMiB).level, 2u);
    EXPECT_EQ(t.tree.find(kGiB).level, 1u);
    EXPECT_EQ(t.tree.find(2 * kGiB).level, 1u);
    EXPECT_EQ(t.tree.find(3 * kGiB).level, 3u);
    EXPECT_EQ(t.tree.find(3 * kGiB + 0x1000).level, 0u);
}

TEST(PageTree, refuses_what_lies_beyond_its_input_range) {
    Tree t;
    EXPECT_FALSE(t.tree.map_region({u64{1} << kInputBits, 0x1000}, stage2::kMemory));
    EXPECT_FALSE(t.tree.map_region({~u64{0} - 0xfff, 0x2000}, stage2::kMemory));
    EXPECT_EQ(t.tree.find(~u64{0}).level, 0u);
}

TEST(PageTree, a_leaf_translates_to_its_own_address_at_every_level) {
    Tree t;
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    ASSERT_TRUE(t.tree.prepare(kGiB + 5 * kMiB, 3));
    for (const u64 address : {kGiB, kGiB + 4 * kMiB, kGiB + 5 * kMiB, kGiB + 5 * kMiB + 0x1000}) {
        const auto leaf = t.tree.find(address);
        ASSERT_NE(leaf.level, 0u);
        EXPECT_EQ(leaf.descriptor & descriptor::kAddress, round_down(address, level_bytes(leaf.level)));
        EXPECT_EQ(leaf.descriptor & stage2::kMemory, stage2::kMemory);
    }
}

TEST(PageTree, splitting_changes_no_translation_and_tidying_restores_the_block) {
    Tree t;
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    t.settle();
    const u64 used = t.pool.in_use();
    ASSERT_TRUE(t.tree.prepare(kGiB + 0x1000, 3));
    for (u64 a = kGiB; a < 2 * kGiB; a += 0x1ff000) EXPECT_NE(t.tree.find(a).level, 0u);
    t.tree.tidy(kGiB + 0x1000);
    t.settle();
    EXPECT_EQ(t.tree.find(kGiB).level, 1u);
    EXPECT_EQ(t.pool.in_use(), used);
}

TEST(PageTree, breaks_before_it_makes_when_the_hardware_needs_it) {
    Tree t;
    t.machine.direct = false;
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    t.settle();
    const u64* slot = t.tree.root() + 1;
    bool was_invalid = false;
    bool forgotten_while_invalid = false;
    t.machine.observer = [&](const std::string& event) {
        if (!descriptor::valid(*slot)) was_invalid = true;
        if (event == "core_wait" && !descriptor::valid(*slot)) forgotten_while_invalid = true;
    };
    ASSERT_TRUE(t.tree.prepare(kGiB, 2));
    EXPECT_TRUE(was_invalid);
    EXPECT_TRUE(forgotten_while_invalid);
    EXPECT_TRUE(descriptor::valid(*slot));
}

TEST(PageTree, never_leaves_a_gap_when_the_hardware_replaces_directly) {
    Tree t;
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    bool gap = false;
    t.machine.observer = [&](const std::string&) { gap = gap || t.tree.find(kGiB + 0x5000).level == 0; };
    ASSERT_TRUE(t.tree.prepare(kGiB, 3));
    t.tree.unmap(kGiB, 3);
    t.settle();
    t.tree.map(kGiB, 3, stage2::kMemory);
    t.tree.tidy(kGiB);
    t.settle();
    EXPECT_EQ(t.tree.find(kGiB).level, 1u);
    EXPECT_FALSE(gap) << "a device's DMA to a neighbouring frame would have failed";
}

TEST(PageTree, tables_are_not_reused_before_the_tlbs_forgot_them) {
    Tree t(4); // root, level 2, level 3, one spare
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    ASSERT_TRUE(t.tree.prepare(kGiB, 3));
    t.tree.tidy(kGiB); // both tables retired
    EXPECT_EQ(t.pool.available(), 1u);
    t.settle();
    EXPECT_EQ(t.pool.available(), 3u);
}

TEST(PageTree, says_when_the_pool_is_used_up) {
    Tree t(2);
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    EXPECT_FALSE(t.tree.prepare(kGiB, 3));
    EXPECT_EQ(t.tree.find(kGiB).level, 2u) << "split once, then no table was left";
    t.tree.tidy(kGiB);
    t.settle();
    EXPECT_EQ(t.tree.find(kGiB).level, 1u);
}

TEST(PageTree, agrees_with_a_set_of_pages_after_random_changes) {
    Tree t(256);
    ASSERT_TRUE(t.tree.map_region({kGiB, kGiB}, stage2::kMemory));
    std::set<u64> missing;
    std::mt19937_64 random(7);
    for (int i = 0; i < 5000; i++) {
        const u64 address = kGiB + random() % (16 * kMiB / kFrameSize) * kFrameSize;
        ASSERT_TRUE(t.tree.prepare(address, 3));
        if (missing.count(address) != 0) {
            t.tree.map(address, 3, stage2::kMemory);
            missing.erase(address);
        } else {
            t.tree.unmap(address, 3);
            missing.insert(address);
        }
        t.tree.tidy(address);
        t.settle();
    }
    for (u64 a = kGiB; a < kGiB + 16 * kMiB; a += kFrameSize)
        ASSERT_EQ(t.tree.find(a).level == 0, missing.count(a) != 0);
    for (const u64 address : missing) {
        ASSERT_TRUE(t.tree.prepare(address, 3));
        t.tree.map(address, 3, stage2::kMemory);
        t.tree.tidy(address);
    }
    t.settle();
    EXPECT_EQ(t.tree.find(kGiB).level, 1u);
    EXPECT_EQ(t.pool.in_use(), 1u) << "only the root is left";
}

} // namespace
} // namespace flex::monitor::test
