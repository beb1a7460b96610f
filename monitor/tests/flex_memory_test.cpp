#include "fake_machine.hpp"
#include "layout.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <random>

namespace flex::monitor::test {
namespace {

constexpr u64 kBase = World::kBase;
constexpr flex_range_t frame(u64 n, u64 order = 0) { return FLEX_RANGE(kBase + n * kFrameSize, order); }

TEST(FlexMemory, protect_moves_frames_from_the_normal_tree_to_the_flex_tree) {
    World w;
    ASSERT_TRUE(w.ok);
    const auto outcome = w.protect({frame(3), frame(512, 9)});
    EXPECT_EQ(outcome.status, Status::Ok);
    EXPECT_EQ(w.state(kBase + 3 * kFrameSize), FrameState::Flex);
    EXPECT_EQ(w.normal_level(kBase + 3 * kFrameSize), 0u);
    EXPECT_EQ(w.flex_level(kBase + 3 * kFrameSize), 3u);
    EXPECT_EQ(w.normal_level(kBase + 2 * kMiB), 0u);
    EXPECT_EQ(w.flex_level(kBase + 2 * kMiB), 2u);
    EXPECT_EQ(w.normal_level(kBase + 4 * kFrameSize), 3u);
    EXPECT_EQ(w.flex_level(kBase + 4 * kFrameSize), 0u);
    EXPECT_EQ(w.memory.counters().get(FLEX_STAT_FRAMES_PROTECTED), 513u);
}

TEST(FlexMemory, recall_restores_the_largest_blocks) {
    World w;
    const u64 used = w.pool.in_use();
    ASSERT_EQ(w.protect({frame(3), frame(512, 9), frame(9)}).status, Status::Ok);
    for (const auto range : {frame(3), frame(512, 9), frame(9)}) ASSERT_TRUE(w.adopt_and_release(range));
    ASSERT_EQ(w.recall({frame(9), frame(512, 9), frame(3)}).status, Status::Ok);
    EXPECT_EQ(w.normal_level(kBase), 1u);
    EXPECT_EQ(w.table.count(FrameState::Normal), w.table.frames());
    EXPECT_EQ(w.pool.in_use(), used);
}

TEST(FlexMemory, a_frame_says_flex_only_after_cores_and_devices_forgot_it) {
    World w;
    const u64 address = kBase + 3 * kFrameSize;
    bool core_done = false;
    bool device_done = false;
    bool too_early = false;
    w.machine.observer = [&](const std::string& event) {
        const bool unmapped = w.normal_level(address) == 0;
        if (event == "core_wait" && unmapped) core_done = true;
        if (event == "device_wait" && unmapped && core_done) device_done = true;
        if (w.state(address) == FrameState::Flex && !device_done) too_early = true;
        if (w.flex_level(address) != 0 && !device_done) too_early = true;
    };
    ASSERT_EQ(w.protect({frame(3)}).status, Status::Ok);
    EXPECT_TRUE(device_done);
    EXPECT_FALSE(too_early);
}

TEST(FlexMemory, caches_are_settled_while_neither_world_reaches_the_frame) {
    World w;
    const u64 address = kBase + 3 * kFrameSize;
    unsigned settled = 0;
    w.machine.observer = [&](const std::string& event) {
        if (event != "settle_caches " + std::to_string(address)) return;
        settled++;
        EXPECT_EQ(w.normal_level(address), 0u);
        EXPECT_EQ(w.state(address), FrameState::Claimed);
    };
    ASSERT_EQ(w.protect({frame(3)}).status, Status::Ok);
    EXPECT_EQ(settled, 1u);
    ASSERT_TRUE(w.adopt_and_release(frame(3)));
    ASSERT_EQ(w.recall({frame(3)}).status, Status::Ok);
    EXPECT_EQ(settled, 2u);
}

// MemAttr, bits [5:2] (Arm ARM D8.6.5 and D8.6.6).
constexpr u64 type_of(u64 descriptor) { return descriptor >> 2 & 0xf; }

TEST(FlexMemory, what_comes_back_is_write_back_for_the_normal_world_whatever_it_says_itself) {
    for (const bool forced : {false, true}) {
        World w(64, 1, forced);
        const u64 address = kBase + 3 * kFrameSize;
        const u64 expected = forced ? 0x6 : 0xf;
        EXPECT_EQ(type_of(w.memory.normal_tree().find(address).descriptor), expected);
        ASSERT_EQ(w.protect({frame(3), frame(512, 9)}).status, Status::Ok);
        EXPECT_EQ(type_of(w.memory.flex_tree().find(address).descriptor), expected);
        EXPECT_EQ(type_of(w.memory.normal_tree().find(address + kFrameSize).descriptor), expected) << "split off a block";
        for (const auto range : {frame(3), frame(512, 9)}) ASSERT_TRUE(w.adopt_and_release(range));
        ASSERT_EQ(w.recall({frame(3), frame(512, 9)}).status, Status::Ok);
        EXPECT_EQ(w.normal_level(kBase), 1u) << "merged again";
        EXPECT_EQ(type_of(w.memory.normal_tree().find(address).descriptor), expected);
    }
}

TEST(Stage2, forced_types_keep_permissions_and_leave_the_normal_world_no_choice) {
    const auto rest = [](u64 attributes) { return attributes & ~(u64{0xf} << 2); };
    EXPECT_EQ(rest(stage2::kForced.memory), rest(stage2::kMemory));
    EXPECT_EQ(rest(stage2::kForced.device), rest(stage2::kDevice));
    EXPECT_EQ(rest(stage2::kForced.device_read_only), rest(stage2::kDeviceReadOnly));
    EXPECT_EQ(type_of(stage2::kForced.memory), 0x6u) << "write-back; 7 would leave it to stage 1";
    EXPECT_EQ(type_of(stage2::kForced.device), 0x1u);
}

TEST(Stage2, caches_are_left_alone_only_when_neither_a_core_nor_a_device_can_pass_them) {
    for (const bool cores : {false, true}) {
        for (const bool smmu : {false, true}) {
            for (const bool coherent : {false, true})
                EXPECT_EQ(stage2::no_access_passes_caches(cores, smmu, coherent), cores && (smmu || coherent));
        }
    }
}

TEST(FlexMemory, tlb_work_is_batched_over_a_list) {
    World w;
    std::vector<flex_range_t> ranges;
    for (u64 i = 0; i < FLEX_LIST_MAX; i++) w.machine.words[World::kList + 8 * i] = frame(2 * i);
    ASSERT_EQ(w.memory.protect(World::kList, FLEX_LIST_MAX).status, Status::Ok);
    const auto count = [&](const std::string& name) {
        return std::count(w.machine.events.begin(), w.machine.events.end(), name);
    };
    EXPECT_EQ(count("core_wait"), 1);
    EXPECT_LE(count("core_forget") + count("core_forget_all"), 1);
}

TEST(FlexMemory, a_whole_request_of_blocks_is_forgotten_at_once) {
    World w;
    for (u64 i = 0; i < 8; i++) w.machine.words[World::kList + 8 * i] = frame(512 * i, 9);
    w.machine.events.clear();
    ASSERT_EQ(w.memory.protect(World::kList, 8).status, Status::Ok);
    const auto count = [&](const std::string& name) {
        return std::count(w.machine.events.begin(), w.machine.events.end(), name);
    };
    EXPECT_EQ(count("core_forget_all"), 1);
    EXPECT_EQ(count("core_forget"), 0);
    EXPECT_EQ(count("core_wait"), 1);
    // By address, stage 2 alone is not enough.
    ASSERT_EQ(w.protect({frame(512 * 20, 9)}).status, Status::Ok);
    EXPECT_EQ(count("core_forget_all"), 1);
    EXPECT_EQ(count("core_forget_combined"), 1);
}

// "Everything" would make QEMU's SMMU drop the NPU's translations, too, whenever memory is lent.
TEST(FlexMemory, devices_forget_what_is_lent_and_come_to_no_other_memory) {
    for (const bool back : {false, true}) {
        World w;
        ASSERT_EQ(w.protect({frame(0)}).status, Status::Ok); // no leaf is larger than 2 MiB any more
        for (u64 i = 0; i < 300; i++) w.machine.words[World::kList + 8 * i] = frame(512 * 3 + i);
        if (back) {
            ASSERT_EQ(w.memory.protect(World::kList, 300).status, Status::Ok);
            for (u64 i = 0; i < 300; i++) ASSERT_TRUE(w.adopt_and_release(frame(512 * 3 + i)));
        }
        w.machine.events.clear();
        w.machine.device_forgotten.clear();
        ASSERT_EQ((back ? w.memory.recall(World::kList, 300) : w.memory.protect(World::kList, 300)).status, Status::Ok);
        EXPECT_EQ(std::ranges::count_if(w.machine.events, [](const auto& e) { return e.starts_with("device_forget_all"); }), 0);
        std::vector<bool> forgotten(1024 * 8);
        for (const TlbBatch::Range& r : w.machine.device_forgotten) {
            EXPECT_GE(r.address, kBase + 512 * 3 * kFrameSize);
            EXPECT_LE(r.address + r.bytes, kBase + 512 * 4 * kFrameSize) << "more than the table that changed";
            for (u64 at = r.address; at < r.address + r.bytes; at += kFrameSize) forgotten[(at - kBase) / kFrameSize] = true;
        }
        for (u64 i = 0; i < 300; i++) EXPECT_TRUE(forgotten[512 * 3 + i]) << i;
    }
}

TEST(FlexMemory, a_list_with_one_bad_range_changes_nothing_and_names_it) {
    struct Case {
        flex_range_t bad;
        Status status;
        const char* why;
    };
    const Case cases[] = {
        {frame(8), Status::State, "the same frame twice"},
        {frame(8, 3), Status::State, "overlaps"},
        {frame(20), Status::State, "pinned as a shared buffer"},
        {frame(21), Status::State, "the monitor's own"},
        {frame(22), Status::State, "protected already"},
        {frame(23), Status::State, "adopted"},
        {FLEX_RANGE(0x09000000, 0), Status::Argument, "a device"},
        {frame(1, 1), Status::Argument, "misaligned"},
        {FLEX_RANGE(kBase, 19), Status::Argument, "too long"},
        {FLEX_RANGE(0, 63), Status::Argument, "2^63 bytes"},
        {~u64{0}, Status::Argument, "wraps around"},
        {frame(0) | 0x800, Status::Argument, "reserved bits"},
    };
    for (const Case& c : cases) {
        World w;
        w.set_state(kBase + 20 * kFrameSize, FrameState::Shared);
        w.set_state(kBase + 21 * kFrameSize, FrameState::Reserved);
        w.set_state(kBase + 22 * kFrameSize, FrameState::Flex);
        w.set_state(kBase + 23 * kFrameSize, FrameState::Adopted);
        const u64 used = w.pool.in_use();
        const auto outcome = w.protect({frame(8), frame(512, 9), c.bad, frame(12)});
        EXPECT_EQ(outcome.status, c.status) << c.why;
        EXPECT_EQ(outcome.index, 2u) << c.why;
        EXPECT_EQ(w.table.count(FrameState::Normal), w.table.frames() - 4) << c.why;
        EXPECT_EQ(w.normal_level(kBase), 1u) << c.why;
        EXPECT_EQ(w.pool.in_use(), used) << c.why;
        EXPECT_EQ(w.memory.counters().get(FLEX_STAT_LISTS_REFUSED), 1u) << c.why;
    }
}

TEST(FlexMemory, recall_takes_released_frames_only) {
    for (const FrameState state : {FrameState::Reserved, FrameState::Normal, FrameState::Shared,
                                   FrameState::Claimed, FrameState::Flex, FrameState::Adopted}) {
        World w;
        w.set_state(kBase + 7 * kFrameSize, state);
        EXPECT_EQ(w.recall({frame(7)}).status, Status::State);
        EXPECT_EQ(w.state(kBase + 7 * kFrameSize), state);
    }
}

TEST(FlexMemory, a_failed_recall_leaves_the_others_released) {
    World w;
    ASSERT_EQ(w.protect({frame(1), frame(2)}).status, Status::Ok);
    ASSERT_TRUE(w.adopt_and_release(frame(1)));
    const auto outcome = w.recall({frame(1), frame(2)});
    EXPECT_EQ(outcome.status, Status::State);
    EXPECT_EQ(outcome.index, 1u);
    EXPECT_EQ(w.state(kBase + kFrameSize), FrameState::Released);
    EXPECT_EQ(w.normal_level(kBase + kFrameSize), 0u);
}

TEST(FlexMemory, a_list_must_lie_in_one_frame_of_the_normal_world) {
    World w;
    w.list({frame(1)});
    EXPECT_EQ(w.memory.protect(World::kList, 0).status, Status::Argument);
    EXPECT_EQ(w.memory.protect(World::kList, FLEX_LIST_MAX + 1).status, Status::Argument);
    EXPECT_EQ(w.memory.protect(World::kList, ~u64{0}).status, Status::Argument);
    EXPECT_EQ(w.memory.protect(World::kList + 4, 1).status, Status::Argument) << "misaligned";
    EXPECT_EQ(w.memory.protect(World::kList - 8, 2).status, Status::Argument) << "crosses a frame";
    EXPECT_EQ(w.memory.protect(World::kList + kFrameSize, 1).status, Status::Argument) << "outside DRAM";
    EXPECT_EQ(w.memory.protect(~u64{0} - 7, 1).status, Status::Argument) << "wraps";
    EXPECT_TRUE(w.machine.reads.empty()) << "nothing was read before the list's place was checked";
    for (const FrameState state : {FrameState::Reserved, FrameState::Flex, FrameState::Adopted,
                                   FrameState::Released, FrameState::Claimed}) {
        w.set_state(World::kList, state);
        EXPECT_EQ(w.memory.protect(World::kList, 1).status, Status::State);
    }
    EXPECT_TRUE(w.machine.reads.empty());
    w.set_state(World::kList, FrameState::Shared);
    EXPECT_EQ(w.memory.protect(World::kList, 1).status, Status::Ok);
}

TEST(FlexMemory, every_word_of_a_list_is_read_exactly_once) {
    World w;
    ASSERT_EQ(w.protect({frame(1), frame(2), frame(512, 9)}).status, Status::Ok);
    EXPECT_EQ(w.machine.reads.size(), 3u);
    for (const auto& [address, times] : w.machine.reads) EXPECT_EQ(times, 1u) << std::hex << address;
}

TEST(FlexMemory, a_shortage_of_tables_refuses_the_list_before_anything_is_changed) {
    bool refused = false;
    bool accepted = false;
    for (u64 tables = 2; tables < 16; tables++) {
        World w(tables);
        ASSERT_TRUE(w.ok);
        const auto outcome = w.protect({frame(0), frame(1024), frame(2048)});
        if (outcome.status == Status::Ok) {
            accepted = true;
            continue;
        }
        refused = true;
        EXPECT_EQ(outcome.status, Status::NoMemory);
        EXPECT_EQ(w.table.count(FrameState::Normal), w.table.frames());
        EXPECT_EQ(w.normal_level(kBase), 1u);
        EXPECT_EQ(w.pool.in_use(), 2u) << "the two roots";
    }
    EXPECT_TRUE(refused);
    EXPECT_TRUE(accepted);
}

// Two frames of each 2 MiB are enough for a table in either tree.
TEST(FlexMemory, tables_do_for_memory_that_is_lent_in_the_smallest_pieces) {
    World world(Layout::tables_for(kGiB));
    ASSERT_TRUE(world.ok);
    for (u64 block = World::kBase; block < World::kBase + kGiB; block += 2 * kMiB) {
        const auto outcome = world.protect({FLEX_RANGE(block, 0), FLEX_RANGE(block + kMiB, 0)});
        ASSERT_EQ(outcome.status, Status::Ok) << block;
    }
    EXPECT_EQ(world.flex_level(World::kBase), 3u);
    EXPECT_EQ(world.normal_level(World::kBase + kFrameSize), 3u);
}

TEST(FlexMemory, the_two_trees_stay_complements_under_random_calls) {
    World w(256);
    std::mt19937_64 random(11);
    constexpr u64 kFrames = 2048; // 8 MiB
    for (int i = 0; i < 3000; i++) {
        const u64 order = random() % 4 == 0 ? 9 : random() % 5;
        const flex_range_t range = frame(random() % kFrames >> order << order, order);
        if (random() % 2 == 0) {
            (void)w.protect({range, frame(random() % kFrames)});
        } else {
            (void)w.adopt_and_release(range);
            (void)w.recall({range});
        }
        if (i % 50 != 0) continue;
        for (u64 f = 0; f < kFrames; f++) {
            const u64 address = kBase + f * kFrameSize;
            const bool normal = w.state(address) == FrameState::Normal;
            ASSERT_EQ(w.normal_level(address) != 0, normal);
            ASSERT_EQ(w.flex_level(address) != 0, !normal);
        }
    }
    for (u64 f = 0; f < kFrames; f++) {
        (void)w.adopt_and_release(frame(f));
        if (w.state(kBase + f * kFrameSize) == FrameState::Adopted) (void)w.tos.release({f, 1});
        (void)w.recall({frame(f)});
    }
    EXPECT_EQ(w.table.count(FrameState::Normal), w.table.frames());
    EXPECT_EQ(w.normal_level(kBase), 1u);
    EXPECT_EQ(w.pool.in_use(), 2u);
}

TEST(FlexMemory, a_whole_gibibyte_is_one_entry) {
    World w(64, 2);
    w.machine.words[kBase + 2 * kGiB - kFrameSize] = FLEX_RANGE(kBase, 18);
    ASSERT_EQ(w.memory.protect(kBase + 2 * kGiB - kFrameSize, 1).status, Status::Ok);
    EXPECT_EQ(w.flex_level(kBase), 1u);
    EXPECT_EQ(w.normal_level(kBase), 0u);
    EXPECT_EQ(w.normal_level(kBase + kGiB), 1u);
    EXPECT_EQ(w.pool.in_use(), 2u);
}

} // namespace
} // namespace flex::monitor::test
