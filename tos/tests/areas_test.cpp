/* The areas of the address space against a plain model: one entry a page. */
#include "core/areas.hpp"

#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <random>

using namespace flex::tos;

namespace {

Area area(u64 begin, u64 end, u8 protection = kProtectRead | kProtectWrite, Backing backing = Backing::Zero) {
    Area a;
    a.begin = begin;
    a.end = end;
    a.protection = protection;
    a.backing = backing;
    return a;
}

constexpr u64 kBase = kAnonymousBase;
u64 page(u64 n) { return kBase + n * kPageBytes; }

} // namespace

TEST(Areas, refuses_overlap_and_finds_by_address) {
    auto areas = std::make_unique<Areas>();
    EXPECT_EQ(areas->insert(area(page(2), page(4))), kOk);
    EXPECT_EQ(areas->insert(area(page(3), page(5))), kEexist);
    EXPECT_EQ(areas->insert(area(page(0), page(9))), kEexist);
    EXPECT_EQ(areas->find(page(1)), nullptr);
    ASSERT_NE(areas->find(page(3) + 5), nullptr);
    EXPECT_EQ(areas->find(page(4)), nullptr);
}

TEST(Areas, an_image_area_that_is_split_keeps_its_place_in_the_file) {
    auto areas = std::make_unique<Areas>();
    Area image = area(page(0), page(10), kProtectRead, Backing::ImageCopy);
    image.image_offset = 0x7000;
    ASSERT_EQ(areas->insert(image), kOk);
    ASSERT_EQ(areas->remove(page(3), page(5)), kOk);
    EXPECT_EQ(areas->find(page(5))->image_offset, 0x7000 + 5 * kPageBytes);
    EXPECT_EQ(areas->find(page(2))->end, page(3));
}

TEST(Areas, a_split_that_finds_no_room_changes_nothing) {
    auto areas = std::make_unique<Areas>();
    for (u32 i = 0; i + 1 < Areas::kMax; i++)
        ASSERT_EQ(areas->insert(area(page(4 * i), page(4 * i + 3))), kOk);
    EXPECT_EQ(areas->remove(page(1), page(2)), kEnomem);
    EXPECT_EQ(areas->count(), Areas::kMax - 1);
    EXPECT_TRUE(areas->covered(page(0), page(3)));
}

TEST(Areas, behave_like_a_table_of_pages_under_random_operations) {
    constexpr u64 kPages = 64;
    std::mt19937 random(1);
    auto areas = std::make_unique<Areas>();
    std::map<u64, std::pair<u8, Backing>> model;
    for (int round = 0; round < 20000; round++) {
        u64 from = random() % kPages, to = from + 1 + random() % 8;
        const u8 protection = static_cast<u8>(random() % 4);
        const bool free = model.lower_bound(from) == model.lower_bound(to);
        switch (random() % 4) {
        case 0:
            EXPECT_EQ(areas->insert(area(page(from), page(to), protection)), free ? kOk : kEexist);
            for (u64 i = from; free && i < to; i++) model[i] = {protection, Backing::Zero};
            break;
        case 1:
            ASSERT_EQ(areas->remove(page(from), page(to)), kOk);
            model.erase(model.lower_bound(from), model.lower_bound(to));
            break;
        case 2:
            ASSERT_EQ(areas->protect(page(from), page(to), protection), kOk);
            for (auto it = model.lower_bound(from); it != model.lower_bound(to); ++it)
                it->second.first = protection;
            break;
        case 3:
            ASSERT_EQ(areas->set_backing(page(from), page(to), Backing::Dying), kOk);
            for (auto it = model.lower_bound(from); it != model.lower_bound(to); ++it)
                it->second.second = Backing::Dying;
            break;
        }
        u64 pages = 0;
        for (u32 i = 0; i < areas->count(); i++) {
            const Area& a = (*areas)[i];
            ASSERT_LT(a.begin, a.end);
            if (i > 0) {
                ASSERT_LE((*areas)[i - 1].end, a.begin);
            }
            pages += (a.end - a.begin) / kPageBytes;
        }
        ASSERT_EQ(pages, model.size());
        for (const auto& [n, what] : model) {
            const Area* found = areas->find(page(n));
            ASSERT_NE(found, nullptr);
            ASSERT_EQ(found->protection, what.first);
            ASSERT_EQ(found->backing, what.second);
        }
        const Result<u64> place = areas->place(3 * kPageBytes, kPageBytes, page(0), page(kPages + 64));
        ASSERT_TRUE(place.ok());
        ASSERT_EQ(areas->find(place.value), nullptr);
        ASSERT_EQ(areas->find(place.value + 3 * kPageBytes - 1), nullptr);
    }
}

TEST(UserRanges, never_wrap_nor_leave_the_programs_half) {
    u64 end = 0;
    EXPECT_TRUE(user_pages(kUserLow, kPageBytes, end));
    EXPECT_TRUE(user_pages(kUserHigh - kPageBytes, kPageBytes, end));
    EXPECT_EQ(end, kUserHigh);
    EXPECT_FALSE(user_pages(kUserHigh - kPageBytes, kPageBytes + 1, end));
    EXPECT_FALSE(user_pages(0, kPageBytes, end));
    EXPECT_FALSE(user_pages(kUserLow + 8, kPageBytes, end));
    EXPECT_FALSE(user_pages(kUserLow, ~u64{0}, end));
    EXPECT_FALSE(user_pages(~u64{0} - kPageBytes + 1, kPageBytes, end));
    EXPECT_FALSE(user_bytes(0xffffff800e100000, 8));
    EXPECT_FALSE(user_bytes(kUserLow, ~u64{0} - 3));
    EXPECT_TRUE(user_bytes(0, 0)) << "nothing is never a fault";
}

TEST(Protection, never_allows_writable_and_executable) {
    EXPECT_TRUE(protection_allowed(kProtectRead | kProtectWrite));
    EXPECT_TRUE(protection_allowed(kProtectRead | kProtectExecute));
    EXPECT_FALSE(protection_allowed(kProtectWrite | kProtectExecute));
    EXPECT_FALSE(protection_allowed(kProtectRead | kProtectWrite | kProtectExecute));
    EXPECT_FALSE(protection_allowed(8));
    EXPECT_FALSE(protection_allowed(~u64{0}));
}
