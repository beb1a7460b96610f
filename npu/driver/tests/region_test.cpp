// Region tables lead to the memory that was mapped, and nowhere else.
#include "npu/driver/region.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "npu/driver/tests/local_npu.h"

namespace flex::npu {
namespace {

constexpr std::uint64_t kPage = FLEX_NPU_PAGE;

/// Tables lie where LocalBus says; what is mapped is nowhere at all, but has the addresses that a test wants.
class TestBus final : public Bus {
public:
    Result<std::span<std::byte>> allocate(std::size_t bytes) override {
        if (refuse) return fail(ErrorCode::kOutOfMemory, "none left");
        FLEX_ASSIGN(const auto memory, local_.allocate(bytes));
        own_.emplace_back(memory);
        return memory;
    }
    void free(std::span<std::byte> memory) override { local_.free(memory); }
    Status addresses(const std::byte* from, std::span<std::uint64_t> pages) override {
        for (const auto& memory : own_)
            if (from >= memory.data() && from < memory.data() + memory.size())
                return local_.addresses(from, pages);
        if (refuse) return fail(ErrorCode::kInvalidArgument, "not yours");
        for (std::uint64_t& page : pages) {
            page = where(reinterpret_cast<std::uintptr_t>(from));
            from += kPage;
        }
        return {};
    }
    [[nodiscard]] std::size_t allocated() const { return local_.allocated(); }
    std::function<std::uint64_t(std::uintptr_t)> where;
    bool refuse = false;

private:
    testing::LocalBus local_;
    std::vector<std::span<std::byte>> own_;
};

/// As the device reads the tables: 0 where there is nothing.
std::uint64_t address_of(const flex_npu_region& region, std::uint64_t offset) {
    EXPECT_EQ(region.table % kPage, 0u);
    const auto entry = reinterpret_cast<const std::uint64_t*>(region.table)[offset / FLEX_NPU_BLOCK];
    const std::uint64_t rest = offset % FLEX_NPU_BLOCK;
    if ((entry & FLEX_NPU_ENTRY_BLOCK) != 0) return (entry & ~FLEX_NPU_ENTRY_BLOCK) + rest;
    if (entry == 0) return 0;
    const std::uint64_t page = reinterpret_cast<const std::uint64_t*>(entry)[rest / kPage];
    return page == 0 ? 0 : page + rest % kPage;
}

std::span<const std::byte> pages(std::uint64_t first, std::uint64_t count) {
    return {reinterpret_cast<const std::byte*>(first * kPage), count * kPage};
}

class Mapped : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Layouts, Mapped, ::testing::Range(0, 3));

TEST_P(Mapped, every_byte_is_found_where_the_bus_has_it) {
    TestBus bus;
    const std::function<std::uint64_t(std::uintptr_t)> layouts[] = {
        [](std::uintptr_t at) { return at + (1u << 30); },                         // all in one piece
        [](std::uintptr_t at) { return (at / kPage * 7919 % 65521 + 1) * kPage; }, // no two together
        [](std::uintptr_t at) { // blocks, apart from each other
            return at / FLEX_NPU_BLOCK * 3 * FLEX_NPU_BLOCK + at % FLEX_NPU_BLOCK;
        }};
    bus.where = layouts[GetParam()];
    Regions regions(bus);
    for (const std::uint64_t count : {1u, 511u, 512u, 513u, 1500u}) {
        const std::uint64_t first = 1024;
        const auto region = regions.map(pages(first, count));
        ASSERT_TRUE(region.ok());
        const flex_npu_region found = regions.find(*region);
        EXPECT_EQ(found.bytes, count * kPage);
        for (std::uint64_t i = 0; i < count; ++i)
            ASSERT_EQ(address_of(found, i * kPage + 5), bus.where((first + i) * kPage) + 5) << i;
        regions.unmap(*region);
        EXPECT_EQ(regions.find(*region).bytes, 0u);
    }
}

TEST(Regions, tables_are_used_again_and_hold_nothing_of_before) {
    TestBus bus;
    bus.where = [](std::uintptr_t at) { return (at / kPage * 7919 % 65521 + 1) * kPage; };
    Regions regions(bus);
    for (int i = 0; i < 100; ++i) {
        const Region region = regions.map(pages(4096, 5000)).value();
        const Region slots = regions.map_slots(3 * kPage, 400).value();
        EXPECT_EQ(address_of(regions.find(slots), 0), 0u);
        EXPECT_EQ(address_of(regions.find(slots), 1199 * kPage), 0u);
        regions.unmap(region);
        regions.unmap(slots);
    }
    EXPECT_LE(bus.allocated(), 64u * kPage);
}

TEST(Regions, addresses_are_asked_for_again_when_frames_were_moved) {
    TestBus bus;
    const auto together = [](std::uintptr_t at) { return at + (1u << 30); };
    const auto apart = [](std::uintptr_t at) { return (at / kPage * 7919 % 65521 + 1) * kPage; };
    bus.where = together;
    Regions regions(bus);
    const Region whole = regions.map(pages(1024, 1500)).value(), slots = regions.map_slots(300 * kPage, 5).value();
    ASSERT_TRUE(regions.place(slots, 2, pages(1 << 20, 300)).ok());
    for (const std::function<std::uint64_t(std::uintptr_t)>& layout : {std::function(apart), std::function(together), std::function(apart)}) {
        bus.where = layout;
        ASSERT_TRUE(regions.refresh().ok());
        const flex_npu_region all = regions.find(whole), some = regions.find(slots);
        for (std::uint64_t i = 0; i < 1500; ++i) ASSERT_EQ(address_of(all, i * kPage), layout((1024 + i) * kPage)) << i;
        for (std::uint64_t i = 0; i < 300; ++i) ASSERT_EQ(address_of(some, (600 + i) * kPage), layout(((1u << 20) + i) * kPage)) << i;
        EXPECT_EQ(address_of(some, 0), 0u) << "a slot that nobody filled";
    }
}

TEST(Regions, memory_that_is_gone_is_gone_from_the_tables_when_they_are_refreshed) {
    TestBus bus;
    bus.where = [](std::uintptr_t at) { return at + (1u << 30); };
    Regions regions(bus);
    const Region whole = regions.map(pages(1024, 600)).value(), slots = regions.map_slots(3 * kPage, 5).value();
    ASSERT_TRUE(regions.place(slots, 1, pages(1 << 20, 3)).ok());
    bus.refuse = true; // whatever is asked for; the tables themselves are still there
    ASSERT_TRUE(regions.refresh().ok());
    bus.refuse = false;
    EXPECT_EQ(address_of(regions.find(whole), 0), 0u);
    EXPECT_EQ(address_of(regions.find(whole), 599 * kPage), 0u);
    EXPECT_EQ(address_of(regions.find(slots), 3 * kPage), 0u);
    ASSERT_TRUE(regions.place(slots, 1, pages(2 << 20, 3)).ok());
    EXPECT_EQ(address_of(regions.find(slots), 3 * kPage), bus.where((2u << 20) * kPage));
}

TEST(Regions, a_slot_holds_what_was_put_there_last) {
    TestBus bus;
    bus.where = [](std::uintptr_t at) { return at + (1u << 30); };
    Regions regions(bus);
    const Region region = regions.map_slots(700 * kPage, 5).value();
    ASSERT_TRUE(regions.place(region, 3, pages(1 << 20, 700)).ok());
    ASSERT_TRUE(regions.place(region, 1, pages(2 << 20, 700)).ok());
    ASSERT_TRUE(regions.place(region, 3, pages(3 << 20, 700)).ok());
    const flex_npu_region found = regions.find(region);
    for (std::uint64_t i = 0; i < 700; ++i) {
        ASSERT_EQ(address_of(found, (3 * 700 + i) * kPage), bus.where(((3ull << 20) + i) * kPage));
        ASSERT_EQ(address_of(found, (1 * 700 + i) * kPage), bus.where(((2ull << 20) + i) * kPage));
        ASSERT_EQ(address_of(found, (2 * 700 + i) * kPage), 0u) << "a slot that nobody filled";
    }
    EXPECT_FALSE(regions.place(region, 5, pages(1, 700)).ok());
    EXPECT_FALSE(regions.place(region, 1, pages(1, 699)).ok());
    EXPECT_FALSE(regions.place(Region{77}, 1, pages(1, 700)).ok());
}

TEST(Regions, refuse_what_is_no_region_and_lose_no_page_over_it) {
    TestBus bus;
    bus.where = [](std::uintptr_t at) { return at; };
    Regions regions(bus);
    EXPECT_FALSE(regions.map({}).ok());
    EXPECT_FALSE(regions.map(pages(1, 1).first(100)).ok());
    EXPECT_FALSE(regions.map({reinterpret_cast<const std::byte*>(100), kPage}).ok());
    EXPECT_FALSE(regions.map(pages(1, FLEX_NPU_REGION_BYTES_MAX / kPage + 1)).ok());
    EXPECT_FALSE(regions.map_slots(kPage, (1u << 18) + 1).ok());
    EXPECT_FALSE(regions.map_slots(100, 2).ok());
    EXPECT_FALSE(regions.map_slots(0, 2).ok());
    EXPECT_TRUE(regions.map(pages(512, FLEX_NPU_REGION_BYTES_MAX / kPage)).ok());
    bus.refuse = true;
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(regions.map(pages(1, 5)).ok());
    bus.refuse = false;
    EXPECT_TRUE(regions.map(pages(1, 5)).ok());
    EXPECT_LE(bus.allocated(), 64u * kPage);
}

} // namespace
} // namespace flex::npu
