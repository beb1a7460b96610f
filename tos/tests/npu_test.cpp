/* What the trusted OS believes of the NPU's control page, and how long a hold lasts. */
#include "abi/npu_control.hpp"
#include "core/npu.hpp"

#include <gtest/gtest.h>

using namespace flex::tos;

namespace {

constexpr u64 kLow = 0x10000000, kHigh = 0x3eff0000;

flex_npu_control good() {
    flex_npu_control where{};
    where.state = FLEX_NPU_HELD;
    where.registers = 0x10008000;
    where.bytes = 0x4000;
    where.common = 0, where.isr = 0x1000, where.device = 0x2000, where.notify = 0x3000;
    where.notify_multiplier = 4;
    return where;
}
bool valid(const flex_npu_control& where) { return npu_registers_valid(where, kLow, kHigh); }

} // namespace

TEST(NpuRegisters, lie_in_whole_pages_of_the_pci_window) {
    EXPECT_TRUE(valid(good()));
    for (const u64 base : {u64{0}, kLow - 0x1000, kLow - 0x4000, kHigh, kHigh - 0x3000, u64{0x10008800},
                           u64{0x40000000}, ~u64{0}, ~u64{0xfff}}) {
        flex_npu_control where = good();
        where.registers = base;
        EXPECT_FALSE(valid(where)) << std::hex << base;
    }
    for (const u64 bytes : {u64{0}, u64{0x800}, u64{0x4800}, u64{0x200000}, ~u64{0}, ~u64{0xfff}}) {
        flex_npu_control where = good();
        where.bytes = bytes;
        EXPECT_FALSE(valid(where)) << std::hex << bytes;
    }
    flex_npu_control last = good();
    last.registers = kHigh - 0x4000;
    EXPECT_TRUE(valid(last));
}

TEST(NpuRegisters, hold_every_structure_whole) {
    for (flex_u32 flex_npu_control::*field : {&flex_npu_control::common, &flex_npu_control::notify,
                                              &flex_npu_control::isr, &flex_npu_control::device}) {
        for (const u32 offset : {0x4000u, 0x3fffu, 0x1002u, 0xfffffffcu, 0x80000000u}) {
            flex_npu_control where = good();
            where.*field = offset;
            EXPECT_FALSE(valid(where)) << std::hex << offset;
        }
    }
    flex_npu_control where = good();
    where.common = 0x4000 - 52;
    EXPECT_FALSE(valid(where));
    where.common = 0x4000 - 56;
    EXPECT_TRUE(valid(where));
}

TEST(NpuHold, ends_when_a_recall_is_overdue_and_not_before) {
    NpuHold hold;
    EXPECT_FALSE(hold.recall(10)) << "nothing is held";
    EXPECT_FALSE(hold.overdue(NpuHold::kNoTime - 1));
    hold.begin();
    EXPECT_FALSE(hold.recalled());
    EXPECT_EQ(hold.deadline(), NpuHold::kNoTime);
    EXPECT_FALSE(hold.overdue(NpuHold::kNoTime));
    ASSERT_TRUE(hold.recall(100));
    EXPECT_TRUE(hold.recalled());
    EXPECT_FALSE(hold.overdue(99));
    EXPECT_TRUE(hold.overdue(100));
    hold.lose();
    EXPECT_FALSE(hold.held());
    EXPECT_TRUE(hold.lost());
    EXPECT_FALSE(hold.overdue(200)) << "it is lost once";
    EXPECT_FALSE(hold.recall(300));
    EXPECT_EQ(hold.deadline(), NpuHold::kNoTime);
    hold.end();
    EXPECT_TRUE(hold.none());
}

TEST(NpuHold, a_later_recall_grants_no_more_time) {
    NpuHold hold;
    hold.begin();
    ASSERT_TRUE(hold.recall(100));
    ASSERT_TRUE(hold.recall(500));
    EXPECT_EQ(hold.deadline(), 100u);
    ASSERT_TRUE(hold.recall(50));
    EXPECT_EQ(hold.deadline(), 50u);
}

TEST(NpuHold, a_recall_whose_time_is_beyond_the_clock_is_a_recall_still) {
    NpuHold hold;
    hold.begin();
    ASSERT_TRUE(hold.recall(NpuHold::kNoTime));
    EXPECT_TRUE(hold.recalled());
}

TEST(NpuHold, a_new_hold_knows_nothing_of_the_recall_of_the_last) {
    NpuHold hold;
    hold.begin();
    ASSERT_TRUE(hold.recall(1));
    hold.end();
    hold.begin();
    EXPECT_FALSE(hold.recalled());
}

TEST(NpuHold, an_interrupt_is_kept_for_the_next_wait_once_and_not_over_holds) {
    NpuHold hold;
    hold.ring();
    EXPECT_FALSE(hold.take_ring()) << "nothing is held";
    hold.begin();
    EXPECT_FALSE(hold.take_ring());
    hold.ring();
    hold.ring();
    EXPECT_TRUE(hold.take_ring());
    EXPECT_FALSE(hold.take_ring());
    hold.ring();
    hold.end();
    hold.begin();
    EXPECT_FALSE(hold.take_ring());
}

TEST(NpuControl, the_trusted_os_takes_only_what_was_given_and_returns_only_what_it_holds) {
    for (u32 state = FLEX_NPU_ABSENT; state <= FLEX_NPU_RETURNED; state++) {
        flex_npu_control page = good(), copy{};
        page.state = state;
        const flex::TrustedOsNpuControl<> control(&page);
        EXPECT_EQ(control.hold(copy), state == FLEX_NPU_GIVEN) << state;
        page.state = state;
        EXPECT_EQ(control.put_back(), state == FLEX_NPU_HELD) << state;
    }
}
