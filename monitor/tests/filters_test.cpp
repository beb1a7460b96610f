#include "core_registry.hpp"
#include "gicr_filter.hpp"
#include "id_registers.hpp"
#include "layout.hpp"
#include "smc_filter.hpp"

#include <gtest/gtest.h>
#include <set>

namespace flex::monitor {
namespace {

TEST(SmcFilter, lets_through_what_is_listed_and_nothing_else) {
    const std::set<u32> allowed{
        smc::kVersion,      smc::kArchFeatures,
        smc::kWorkaround1,  smc::kWorkaround2,
        smc::kWorkaround3,  smc::kPsciVersion,
        smc::kCpuSuspend,   0xc4000001,
        smc::kCpuOff,       smc::kCpuOn,
        0xc4000003,         smc::kAffinityInfo,
        0xc4000004,         smc::kMigrateInfoType,
        smc::kSystemOff,    smc::kSystemReset,
        smc::kPsciFeatures, smc::kSystemReset2,
        0xc4000012,         smc::kTrngVersion,
        smc::kTrngFeatures, smc::kTrngUuid,
        smc::kTrngRandom,   0xc4000053,
        0xf2000000,         0xf2000001,
        0xf2000002,         0xf2000003,
        0xf2000004,         0xf2000005,
        0xf2000006,
        0x72000001,
    };
    // Every function number below 2^16 of every owner, fast and yielding, 32 and 64 bit.
    for (u32 top = 0; top < 0x100; top++) {
        for (u32 owner = 0; owner < 64; owner++) {
            for (u32 n = 0; n < 0x10000; n += (n < 0x200 || n > 0x7f00) ? 1 : 0x101) {
                const u32 function = (top & 0xc0) << 24 | owner << 24 | n;
                ASSERT_EQ(filter_smc(function) != SmcAction::Deny, allowed.count(function) != 0)
                    << std::hex << function;
            }
        }
        top |= 0x3f;
    }
}

TEST(SmcFilter, the_calls_of_the_monitor_to_the_trusted_os_are_not_the_normal_worlds) {
    EXPECT_EQ(filter_smc(static_cast<u32>(FLEX_TOS_BOOT)), SmcAction::Deny);
    EXPECT_EQ(filter_smc(static_cast<u32>(FLEX_TOS_QUIESCE)), SmcAction::Deny);
}

TEST(SmcFilter, a_suspend_that_loses_the_cores_state_is_refused) {
    EXPECT_TRUE(keeps_core_state(0));
    EXPECT_FALSE(keeps_core_state(0x10000));
}

TEST(GicrFilter, lpis_can_be_neither_enabled_nor_given_tables) {
    EXPECT_TRUE(filter_gicr_write(0x0, 4, 0x1).refused);
    EXPECT_EQ(filter_gicr_write(0x0, 4, 0x03000001).value, 0x03000000u);
    for (const u64 offset : {0x40, 0x48, 0x70, 0x74, 0x78, 0x7c, 0xa0, 0xb0}) {
        for (const unsigned bytes : {1u, 2u, 4u, 8u}) {
            EXPECT_FALSE(filter_gicr_write(offset, bytes, ~u64{0}).perform) << offset;
            EXPECT_TRUE(filter_gicr_write(offset, bytes, 0).refused) << offset;
        }
    }
}

TEST(GicrFilter, a_wider_or_narrower_store_does_not_reach_a_neighbouring_register) {
    for (const unsigned bytes : {1u, 2u, 8u}) EXPECT_FALSE(filter_gicr_write(0x0, bytes, ~u64{0}).perform);
}

TEST(GicrFilter, what_a_kernel_needs_still_works) {
    EXPECT_TRUE(filter_gicr_write(0x14, 4, 2).perform);
    EXPECT_FALSE(filter_gicr_write(0x14, 4, 2).refused);
}

TEST(IdRegisters, hide_what_the_worlds_do_not_switch) {
    const u64 ones = ~u64{0};
    EXPECT_EQ(field(visible_id_register(4, 0, ones), 35, 32), 0u) << "SVE";
    EXPECT_EQ(field(visible_id_register(4, 1, ones), 27, 24), 0u) << "SME";
    EXPECT_EQ(field(visible_id_register(4, 1, ones), 11, 8), 0u) << "MTE";
    EXPECT_EQ(field(visible_id_register(5, 0, ones), 11, 8), 0u) << "PMU";
    EXPECT_EQ(field(visible_id_register(5, 0, ones), 35, 32), 0u) << "SPE";
    EXPECT_EQ(field(visible_id_register(5, 0, ones), 47, 44), 0u) << "trace buffer";
    EXPECT_EQ(visible_id_register(4, 4, ones), 0u) << "ZFR0";
    EXPECT_EQ(field(visible_id_register(4, 0, ones), 19, 16), 0xfu) << "floating point stays";
    EXPECT_EQ(visible_id_register(6, 0, ones), ones) << "instruction set features stay";
}

TEST(CoreRegistry, a_core_is_started_by_one_caller_at_a_time) {
    CoreRegistry cores;
    ASSERT_TRUE(cores.add(0x80000000));
    ASSERT_TRUE(cores.add(0x80000001));
    EXPECT_EQ(cores.find(1), 1u);
    EXPECT_EQ(cores.find(2), CoreRegistry::kMost);
    EXPECT_EQ(cores.find(0x80000001), CoreRegistry::kMost) << "bits outside the affinity are not ignored";
    EXPECT_TRUE(cores.begin_start(1, {0x1000, 7}));
    EXPECT_FALSE(cores.begin_start(1, {0x2000, 8}));
    EXPECT_TRUE(cores.is_starting(1));
    const auto entry = cores.finish_start(1);
    EXPECT_EQ(entry.address, 0x1000u);
    EXPECT_EQ(entry.context, 7u);
    EXPECT_FALSE(cores.begin_start(1, {0x2000, 8}));
    cores.set_off(1);
    EXPECT_TRUE(cores.begin_start(1, {0x2000, 8}));
}

TEST(Layout, keeps_its_promise_of_size_for_every_supported_dram) {
    for (u64 gib = 1; gib <= 16; gib++) {
        Layout layout;
        ASSERT_TRUE(Layout::plan({BOARD_DRAM_BASE, gib * kGiB}, layout)) << gib;
        EXPECT_LT(layout.region.bytes, 80 * kMiB);
        EXPECT_GE(layout.pool, Layout::kFrameTable + layout.frames);
        EXPECT_GE(layout.region.end(), layout.pool + TablePool::bytes_for(layout.pool_tables));
    }
    Layout layout;
    EXPECT_FALSE(Layout::plan({BOARD_DRAM_BASE, 17 * kGiB}, layout));
    EXPECT_FALSE(Layout::plan({BOARD_DRAM_BASE, kGiB / 2}, layout)) << "the region would not fit";
    EXPECT_FALSE(Layout::plan({0x80000000, kGiB}, layout));
}

} // namespace
} // namespace flex::monitor
