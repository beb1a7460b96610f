// How the NPU is found, and how it changes hands: the real logic on a fake bus and a machine that notes what
// is done.
#include "fake_bus.hpp"
#include "npu_function.hpp"
#include "npu_switch.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace flex::monitor {
namespace {

using namespace test;

constexpr u32 kAt = NpuFunction::kAt, kBar4 = kBar0 + 16;

/// The NPU as QEMU's carrier shows it: a table of MSI-X in BAR 1, the structures in BAR 4.
class NpuFinderTest : public testing::Test {
protected:
    struct Structure {
        u32 type, bar, offset, length;
    };
    NpuFinderTest() {
        build({{1, 4, 0, 0x38}, {3, 4, 0x1000, 0x1000}, {4, 4, 0x2000, 0x1000}, {2, 4, 0x3000, 0x1000}});
    }

    void build(const std::vector<Structure>& structures, u32 least_head = 16) {
        bus_ = {};
        bus_.add(kAt, {{kBar1, {0xfffff000, 0}}, {kBar4, {0xffffc000, 4}}, {kBar4 + 4, {0xffffffff, 0}}});
        bus_.set(kAt, BOARD_NPU_PCI_ID);
        bus_.set(kAt + 0x34, 0xc0);
        bus_.set(kAt + 0xc0, 0x00038011 | 0x40 << 8); // MSI-X, then on
        u32 at = 0x40;
        for (std::size_t i = 0; i < structures.size(); i++, at += 20) {
            const Structure& s = structures[i];
            const u32 head = s.type == 2 ? 20 : least_head, next = i + 1 < structures.size() ? at + 20 : 0;
            bus_.set(kAt + at, s.type << 24 | head << 16 | next << 8 | 0x09);
            bus_.set(kAt + at + 4, s.bar);
            bus_.set(kAt + at + 8, s.offset);
            bus_.set(kAt + at + 12, s.length);
            if (s.type == 2) bus_.set(kAt + at + 16, 4);
        }
        bus_.set(kAt + 0xc0, 0x00030011 | 0x40 << 8);
        EXPECT_TRUE(filter_.init(bus_, 1, {0x10000000, 0x20000000}, {0, 0x10000}));
    }
    bool find() {
        found_ = {};
        return NpuFinder(bus_, filter_).find(found_);
    }
    FakeBus bus_;
    PciFilter<FakeBus> filter_;
    NpuFunction found_;
};

TEST_F(NpuFinderTest, finds_the_structures_and_what_can_send_interrupts) {
    bus_.set(kAt + 4, 1u << 20);
    ASSERT_TRUE(find());
    EXPECT_EQ(found_.bar, 4u);
    EXPECT_EQ(found_.common, 0u);
    EXPECT_EQ(found_.isr, 0x1000u);
    EXPECT_EQ(found_.device, 0x2000u);
    EXPECT_EQ(found_.notify, 0x3000u);
    EXPECT_EQ(found_.notify_multiplier, 4u);
    EXPECT_EQ(found_.msix, 0xc0u);
    EXPECT_EQ(found_.msi, 0u);
}

TEST_F(NpuFinderTest, another_device_or_none_is_no_npu) {
    bus_.set(kAt, 0x10001af4);
    EXPECT_FALSE(find());
    bus_.set(kAt, ~u32{0});
    EXPECT_FALSE(find());
    bus_.set(kAt, BOARD_NPU_PCI_ID);
    bus_.set(kAt + 4, 0);
    EXPECT_FALSE(find()) << "no capability list";
}

TEST_F(NpuFinderTest, every_structure_must_be_there_and_lie_whole_in_the_same_bar) {
    const std::vector<Structure> good{
        {1, 4, 0, 0x38}, {3, 4, 0x1000, 0x1000}, {4, 4, 0x2000, 0x1000}, {2, 4, 0x3000, 0x1000}};
    for (std::size_t i = 0; i < good.size(); i++) {
        auto structures = good;
        structures.erase(structures.begin() + static_cast<long>(i));
        build(structures);
        EXPECT_FALSE(find()) << "without structure " << i;

        const Structure bad[] = {
            {good[i].type, 1, 0, 0x1000},          {good[i].type, 4, 0x3ffc, 0x1000},
            {good[i].type, 4, 0x4000, 0x38},       {good[i].type, 4, 0xfffffffc, 0x1000},
            {good[i].type, 4, 0, 0xffffffff},      {good[i].type, 4, 0x1002, 0x100},
            {good[i].type, 4, 0x1000, 0},          {good[i].type, 0xff, 0x1000, 0x1000},
            {good[i].type, 5, 0, 0x1000},          {good[i].type, 6, 0x1000, 0x1000},
            {good[i].type, 4, 0xfffffffc, 0x1000},
        };
        for (const Structure& one : bad) {
            structures = good;
            structures[i] = one;
            build(structures);
            EXPECT_FALSE(find()) << i << ": bar " << one.bar << " offset " << std::hex << one.offset
                                 << " length " << one.length;
        }
    }
    build(good, 15);
    EXPECT_FALSE(find()) << "capabilities too short to hold the fields";
}

TEST_F(NpuFinderTest, the_first_structure_of_a_kind_counts) {
    build({{1, 4, 0, 0x38},
           {1, 4, 0x800, 0x38},
           {3, 4, 0x1000, 0x1000},
           {4, 4, 0x2000, 0x1000},
           {2, 4, 0x3000, 0x1000}});
    bus_.set(kAt + 4, 1u << 20);
    ASSERT_TRUE(find());
    EXPECT_EQ(found_.common, 0u);
}

TEST_F(NpuFinderTest, a_capability_list_that_runs_in_a_circle_ends) {
    bus_.set(kAt + 4, 1u << 20);
    bus_.set(kAt + 0x40, (bus_.read(kAt + 0x40) & ~0xff00u) | 0x4000);
    EXPECT_FALSE(find());
}

TEST_F(NpuFinderTest, no_configuration_space_makes_it_name_registers_outside_the_bar) {
    std::mt19937 random(7);
    unsigned found = 0;
    for (int i = 0; i < 20000; i++) {
        build({{1, 4, 0, 0x38}, {3, 4, 0x1000, 0x1000}, {4, 4, 0x2000, 0x1000}, {2, 4, 0x3000, 0x1000}});
        bus_.set(kAt + 4, 1u << 20);
        for (int k = 0; k < 3; k++) {
            const u32 word = kAt + 0x34 + random() % 51 * 4;
            bus_.set(word, random() % 2 ? bus_.read(word) ^ 1u << random() % 32 : static_cast<u32>(random()));
        }
        if (!find()) continue;
        found++;
        const u64 bytes = filter_.memory_bytes(kAt, found_.bar);
        EXPECT_EQ(bytes % kFrameSize, 0u);
        EXPECT_LE(found_.common + 56u, bytes);
        EXPECT_LE(found_.notify + 2u, bytes);
        EXPECT_LE(found_.isr + 1u, bytes);
        EXPECT_LE(found_.device + 12u, bytes);
        EXPECT_LE(found_.msix, 0xfcu);
        EXPECT_LE(found_.msi, 0xfcu);
    }
    EXPECT_GT(found, 100u) << "the test would show nothing";
}

struct NotingMachine {
    std::vector<std::string> done;
    Status located = Status::Ok;
    bool hides = true, resets = true;
    std::function<void(const std::string&)> meanwhile;

    void note(const std::string& what) {
        done.push_back(what);
        if (meanwhile) meanwhile(what);
    }
    Status locate(flex_npu_control& where) {
        note("locate");
        where.registers = 0x10000000, where.bytes = 0x4000, where.notify_multiplier = 4;
        return located;
    }
    bool hide() {
        note("hide");
        return hides;
    }
    void show() { note("show"); }
    void cut_stream() { note("cut"); }
    void join_stream(bool flex) { note(flex ? "join flex" : "join normal"); }
    bool reset() {
        note("reset");
        return resets;
    }
    void settle_interrupts(bool flex) { note(flex ? "interrupts off" : "interrupts back"); }
};

class NpuSwitchTest : public testing::Test {
protected:
    NpuSwitchTest() { EXPECT_TRUE(npu_.control().appear()); }
    flex_npu_control control_{};
    NotingMachine machine_;
    NpuSwitch<NotingMachine> npu_{machine_, &control_};
    TrustedOsNpuControl<> tos_{&control_};
    flex_npu_control where_{};
};

using Steps = std::vector<std::string>;

TEST_F(NpuSwitchTest, is_reset_between_the_worlds_while_its_dma_aborts_and_nobody_reaches_it) {
    EXPECT_EQ(npu_.give(), Status::Ok);
    EXPECT_EQ(machine_.done, (Steps{"locate", "hide", "cut", "reset", "interrupts off", "join flex"}));
    EXPECT_EQ(control_.state, u32{FLEX_NPU_GIVEN});
    machine_.done.clear();
    ASSERT_TRUE(tos_.hold(where_));
    EXPECT_EQ(where_.registers, 0x10000000u);
    EXPECT_EQ(where_.notify_multiplier, 4u);
    ASSERT_TRUE(tos_.put_back());
    EXPECT_EQ(npu_.take(), Status::Ok);
    EXPECT_EQ(machine_.done, (Steps{"cut", "reset", "interrupts back", "join normal", "show"}));
    EXPECT_EQ(control_.state, u32{FLEX_NPU_NORMAL});
}

TEST_F(NpuSwitchTest, says_moving_as_long_as_anything_is_under_way) {
    machine_.meanwhile = [&](const std::string& what) {
        EXPECT_EQ(control_.state, u32{FLEX_NPU_MOVING}) << what;
        EXPECT_FALSE(tos_.hold(where_)) << what;
        EXPECT_FALSE(tos_.put_back()) << what;
    };
    EXPECT_EQ(npu_.give(), Status::Ok);
    EXPECT_EQ(npu_.take(), Status::Ok);
}

TEST_F(NpuSwitchTest, a_call_in_the_wrong_state_does_nothing) {
    EXPECT_EQ(npu_.take(), Status::State);
    ASSERT_EQ(npu_.give(), Status::Ok);
    machine_.done.clear();
    EXPECT_EQ(npu_.give(), Status::State);
    ASSERT_TRUE(tos_.hold(where_));
    EXPECT_EQ(npu_.give(), Status::State);
    EXPECT_EQ(npu_.take(), Status::State) << "the secure world has it";
    EXPECT_FALSE(tos_.hold(where_));
    ASSERT_TRUE(tos_.put_back());
    EXPECT_FALSE(tos_.put_back());
    EXPECT_EQ(npu_.give(), Status::State);
    EXPECT_EQ(machine_.done, Steps{});
    EXPECT_EQ(npu_.take(), Status::Ok);
}

TEST_F(NpuSwitchTest, what_was_given_and_not_held_can_be_taken_back) {
    ASSERT_EQ(npu_.give(), Status::Ok);
    EXPECT_EQ(npu_.take(), Status::Ok);
    EXPECT_FALSE(tos_.hold(where_));
}

TEST_F(NpuSwitchTest, no_npu_is_never_given) {
    flex_npu_control nobody{};
    NpuSwitch<NotingMachine> absent(machine_, &nobody);
    EXPECT_EQ(absent.give(), Status::State);
    EXPECT_EQ(absent.take(), Status::State);
    EXPECT_EQ(nobody.state, u32{FLEX_NPU_ABSENT});
}

TEST_F(NpuSwitchTest, a_give_that_fails_leaves_the_npu_with_the_normal_world) {
    machine_.located = Status::Argument;
    EXPECT_EQ(npu_.give(), Status::Argument);
    EXPECT_EQ(machine_.done, Steps{"locate"});
    machine_ = {};
    machine_.hides = false;
    EXPECT_EQ(npu_.give(), Status::NoMemory);
    EXPECT_EQ(machine_.done, (Steps{"locate", "hide"}));
    machine_ = {};
    machine_.resets = false;
    EXPECT_EQ(npu_.give(), Status::Busy);
    EXPECT_EQ(machine_.done, (Steps{"locate", "hide", "cut", "reset", "join normal", "show"}));
    EXPECT_EQ(control_.state, u32{FLEX_NPU_NORMAL});
    machine_ = {};
    EXPECT_EQ(npu_.give(), Status::Ok);
}

TEST_F(NpuSwitchTest, what_cannot_be_reset_does_not_come_back_to_the_normal_world) {
    ASSERT_EQ(npu_.give(), Status::Ok);
    machine_ = {};
    machine_.resets = false;
    EXPECT_EQ(npu_.take(), Status::Busy);
    EXPECT_EQ(machine_.done, (Steps{"cut", "reset"}));
    EXPECT_EQ(control_.state, u32{FLEX_NPU_RETURNED});
    EXPECT_FALSE(tos_.hold(where_)) << "nor to the secure one";
    machine_.resets = true;
    EXPECT_EQ(npu_.take(), Status::Ok);
}

} // namespace
} // namespace flex::monitor
