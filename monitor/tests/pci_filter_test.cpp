// The real filter over a bus of fake functions.
#include <gtest/gtest.h>

#include "fake_bus.hpp"
#include "pci_filter.hpp"

namespace flex::monitor {
namespace {

constexpr Region kMemoryWindow{0x10000000, 0x20000000}, kIoWindow{0, 0x10000};
using namespace test;
constexpr u32 kFirst = 1u << 15, kSecond = 2u << 15, kThird = 3u << 15; // devices 1 to 3 of bus 0

class PciFilterTest : public testing::Test {
protected:
    PciFilterTest() {
        bus_.add(kFirst, {{kBar0, {0xfffff000, 0}}, {kBar1, {0xffffffe0, 1}}, {kRom, {0xffff0001, 0}}});
        bus_.add(kSecond, {{kBar0, {0xffff0000, 4}}, {kBar1, {0xffffffff, 0}}, {kBar2, {0xffffffe0, 1}}});
        EXPECT_TRUE(filter_.init(bus_, 1, kMemoryWindow, kIoWindow));
    }
    bool write(u32 offset, u64 value, unsigned bytes = 4) { return filter_.write(bus_, offset, bytes, value); }
    u32 decoding(u32 at) const { return bus_.read(at + kCommand) & 3; }
    /// First in the window with both spaces on.
    void place_first() {
        EXPECT_FALSE(write(kFirst + kBar0, 0x10004000));
        EXPECT_FALSE(write(kFirst + kBar1, 0x1000));
        EXPECT_FALSE(write(kFirst + kCommand, 3, 2));
        EXPECT_EQ(decoding(kFirst), 3u);
    }
    FakeBus bus_;
    PciFilter<FakeBus> filter_;
};

TEST_F(PciFilterTest, finds_the_functions_and_turns_their_decoding_off) {
    EXPECT_EQ(filter_.functions(), 2u);
    EXPECT_EQ(decoding(kFirst), 0u);
    EXPECT_EQ(decoding(kSecond), 0u);
}

TEST_F(PciFilterTest, lets_a_kernel_size_and_place_a_device) {
    EXPECT_FALSE(write(kFirst + kBar0, 0xffffffff));
    EXPECT_EQ(bus_.read(kFirst + kBar0), 0xfffff000u);
    place_first();
}

TEST_F(PciFilterTest, a_device_that_answers_does_not_move) {
    place_first();
    for (const unsigned bytes : {1u, 2u, 4u}) {
        for (u32 reg = kBar0; reg < kBar0 + 24; reg += bytes) EXPECT_TRUE(write(kFirst + reg, 0x20000000, bytes)) << reg;
    }
    EXPECT_EQ(bus_.read(kFirst + kBar0), 0x10004000u);
    EXPECT_EQ(bus_.read(kFirst + kBar1), 0x1001u);
}

TEST_F(PciFilterTest, two_devices_never_answer_at_the_same_address) {
    place_first();
    write(kSecond + kBar1, 0);
    write(kSecond + kBar2, 0x2000);
    EXPECT_FALSE(write(kSecond + kBar0, 0x10000000)); // 64 KiB: the first's page lies in it
    EXPECT_TRUE(write(kSecond + kCommand, 2, 2));
    EXPECT_EQ(decoding(kSecond), 0u);
    EXPECT_FALSE(write(kSecond + kCommand, 1, 1)) << "its I/O ports are its own";
    EXPECT_FALSE(write(kSecond + kCommand, 0, 1));
    EXPECT_FALSE(write(kSecond + kBar0, 0x10010000));
    EXPECT_FALSE(write(kSecond + kCommand, 7, 2));
    EXPECT_EQ(decoding(kSecond), 3u);
    EXPECT_FALSE(write(kFirst + kCommand, 0, 2));
    EXPECT_FALSE(write(kFirst + kBar0, 0x10018000)); // now into the second's
    EXPECT_TRUE(write(kFirst + kCommand, 3, 2));
    EXPECT_EQ(decoding(kFirst), 1u) << "I/O lies well, memory does not";
}

TEST_F(PciFilterTest, ports_do_not_overlap_either) {
    place_first();
    write(kSecond + kBar0, 0x10010000);
    write(kSecond + kBar2, 0x1000);
    EXPECT_TRUE(write(kSecond + kCommand, 3, 2));
    EXPECT_EQ(decoding(kSecond), 2u);
}

TEST_F(PciFilterTest, nothing_answers_outside_the_windows) {
    for (const u32 base : {0x00000000u, 0x09000000u, 0x0ffff000u, 0x30000000u, 0x40000000u, 0xfffff000u}) {
        EXPECT_FALSE(write(kFirst + kBar0, base));
        EXPECT_TRUE(write(kFirst + kCommand, 2, 2)) << std::hex << base;
        EXPECT_EQ(decoding(kFirst), 0u);
    }
    write(kSecond + kBar0, 0x10000000);
    write(kSecond + kBar1, 1); // above 4 GiB
    EXPECT_TRUE(write(kSecond + kCommand, 2, 2));
    write(kSecond + kBar0, 0x2ffff000); // 64 KiB-aligned by the device: the last that fits
    write(kSecond + kBar1, 0);
    EXPECT_FALSE(write(kSecond + kCommand, 2, 2));
}

TEST_F(PciFilterTest, an_expansion_rom_stays_off) {
    EXPECT_TRUE(write(kFirst + kRom, 0x10000001));
    EXPECT_EQ(bus_.read(kFirst + kRom), 0x10000000u);
    EXPECT_FALSE(write(kFirst + kRom, 0xfffff800));
}

TEST_F(PciFilterTest, odd_stores_and_absent_functions_are_refused) {
    EXPECT_TRUE(write(kFirst + kCommand, 0, 8));
    EXPECT_TRUE(write(kFirst + kCommand + 1, 0, 2));
    EXPECT_TRUE(write(kThird + kCommand, 3, 2));
    EXPECT_FALSE(write(kFirst + 0x3c, 5, 1)) << "the rest of a function's registers is Linux' affair";
    EXPECT_FALSE(write(kFirst + 0x40, 0x12345678));
}

TEST_F(PciFilterTest, a_held_function_keeps_every_register_and_its_place) {
    place_first();
    filter_.hold(kFirst);
    for (const unsigned bytes : {1u, 2u, 4u}) {
        for (u32 reg = 0; reg < 256; reg += bytes) EXPECT_TRUE(write(kFirst + reg, 0, bytes)) << reg;
    }
    EXPECT_EQ(decoding(kFirst), 3u);
    EXPECT_EQ(bus_.read(kFirst + kBar0), 0x10004000u);
    write(kSecond + kBar2, 0x2000);
    EXPECT_FALSE(write(kSecond + kBar0, 0x10000000)); // over the held one's
    EXPECT_TRUE(write(kSecond + kCommand, 2, 2));
    EXPECT_EQ(decoding(kSecond), 0u);
    filter_.let_go();
    EXPECT_FALSE(write(kFirst + kCommand, 0, 2));
    EXPECT_EQ(decoding(kFirst), 0u);
}

TEST_F(PciFilterTest, tells_where_a_function_answers_only_if_that_is_whole_frames_of_memory) {
    PciFilter<FakeBus>::Windows windows;
    EXPECT_FALSE(filter_.windows(bus_, kSecond, windows)) << "its decoding is off";
    write(kSecond + kBar0, 0x10010000);
    write(kSecond + kBar2, 0x2000);
    write(kSecond + kCommand, 6, 2);
    EXPECT_FALSE(filter_.windows(bus_, kSecond, windows)) << "it has ports";

    bus_.add(kThird, {{kBar0, {0xffffc000, 0}}, {kBar2, {0xfffff000, 0}}});
    EXPECT_TRUE(filter_.init(bus_, 1, kMemoryWindow, kIoWindow));
    write(kThird + kBar0, 0x10008000);
    write(kThird + kBar2, 0x10020000);
    write(kThird + kCommand, 2, 2);
    EXPECT_FALSE(filter_.windows(bus_, kThird, windows)) << "it cannot do DMA";
    write(kThird + kCommand, 6, 2);
    ASSERT_TRUE(filter_.windows(bus_, kThird, windows));
    EXPECT_EQ(windows.bars[0].base, 0x10008000u);
    EXPECT_EQ(windows.bars[0].bytes, 0x4000u);
    EXPECT_EQ(windows.bars[1].bytes, 0u);
    EXPECT_EQ(windows.bars[2].base, 0x10020000u);
    EXPECT_EQ(filter_.memory_bytes(kThird, 0), 0x4000u);
    EXPECT_EQ(filter_.memory_bytes(kSecond, 2), 0u) << "ports are no memory";
    EXPECT_EQ(filter_.memory_bytes(kThird, 6), 0u);

    bus_.add(kThird, {{kBar0, {0xfffff800, 0}}});
    EXPECT_TRUE(filter_.init(bus_, 1, kMemoryWindow, kIoWindow));
    write(kThird + kBar0, 0x10008000);
    write(kThird + kCommand, 6, 2);
    EXPECT_FALSE(filter_.windows(bus_, kThird, windows)) << "half a frame may be another's";
}

TEST_F(PciFilterTest, refuses_to_start_with_more_functions_than_it_can_watch) {
    FakeBus crowded;
    for (u32 i = 0; i <= PciFilter<FakeBus>::kMostFunctions; i++) crowded.add(i << 12, {});
    PciFilter<FakeBus> filter;
    EXPECT_FALSE(filter.init(crowded, 1, kMemoryWindow, kIoWindow));
}

} // namespace
} // namespace flex::monitor
