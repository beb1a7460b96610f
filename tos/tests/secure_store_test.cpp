/* The rollback-proof store over a flash that fails and loses power. */
#include "core/secure_store.hpp"

#include <cstring>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace flex::tos;

namespace {

struct PowerCut : std::runtime_error {
    PowerCut() : std::runtime_error("power cut") {}
};

/* NOR: erasing sets bits, programming clears them. Power goes before the operation `cut_after`, in the middle
 * of it. */
class FakeFlash final : public StoreFlash {
public:
    std::vector<u8> copies[2] = {std::vector<u8>(65536, 0xff), std::vector<u8>(65536, 0xff)};
    long cut_after = -1;
    bool fail = false;

    void read(u32 copy, u64 offset, void* to, u64 bytes) override {
        std::memcpy(to, copies[copy].data() + offset, bytes);
    }
    bool erase(u32 copy) override {
        const u64 bytes = cut() ? copies[copy].size() / 2 : copies[copy].size();
        std::memset(copies[copy].data(), 0xff, bytes);
        if (bytes != copies[copy].size()) throw PowerCut();
        return !fail;
    }
    bool program(u32 copy, u64 offset, const void* from, u64 bytes) override {
        const bool last = cut();
        if (last) bytes /= 2;
        for (u64 i = 0; i < bytes; i++) copies[copy][offset + i] &= static_cast<const u8*>(from)[i];
        if (last) throw PowerCut();
        return !fail;
    }

private:
    bool cut() { return cut_after >= 0 && cut_after-- == 0; }
};

const u8 kKey[32] = {1, 2, 3};
const u8 kOtherKey[32] = {9};

std::unique_ptr<SecureStore> open(FakeFlash& flash, const u8* key = kKey) {
    auto store = std::make_unique<SecureStore>();
    store->load(flash, {key, 32});
    return store;
}

SecureStore::Progress write(SecureStore& store, const std::string& text) {
    store.begin({reinterpret_cast<const u8*>(text.data()), text.size()}, store.boot_counter());
    SecureStore::Progress progress;
    do progress = store.step();
    while (progress == SecureStore::Progress::More);
    return progress;
}

std::string content(const SecureStore& store) {
    return {reinterpret_cast<const char*>(store.data().data), static_cast<size_t>(store.data().size)};
}

} // namespace

TEST(SecureStore, is_empty_at_first_and_keeps_the_last_write) {
    FakeFlash flash;
    EXPECT_EQ(content(*open(flash)), "");
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(write(*open(flash), "version " + std::to_string(i)), SecureStore::Progress::Written);
        EXPECT_EQ(content(*open(flash)), "version " + std::to_string(i));
    }
    const std::string large(FLEX_SECURE_STORE_BYTES, 'x');
    EXPECT_EQ(write(*open(flash), large), SecureStore::Progress::Written);
    EXPECT_EQ(content(*open(flash)), large);
}

TEST(SecureStore, a_power_cut_at_any_moment_leaves_the_old_or_the_new_content) {
    const std::string old_text(3000, 'o'), new_text(9000, 'n');
    int old_seen = 0, new_seen = 0;
    for (long cut = 0;; cut++) {
        FakeFlash flash;
        ASSERT_EQ(write(*open(flash), "first"), SecureStore::Progress::Written);
        ASSERT_EQ(write(*open(flash), old_text), SecureStore::Progress::Written);
        flash.cut_after = cut;
        bool power_lost = false;
        try {
            (void)write(*open(flash), new_text);
        } catch (const PowerCut&) {
            power_lost = true;
        }
        flash.cut_after = -1;
        const std::string found = content(*open(flash));
        ASSERT_TRUE(found == old_text || found == new_text) << "after cut " << cut;
        (found == old_text ? old_seen : new_seen)++;
        ASSERT_EQ(write(*open(flash), "next"), SecureStore::Progress::Written);
        ASSERT_EQ(content(*open(flash)), "next");
        if (!power_lost) break;
    }
    EXPECT_GT(old_seen, 10);
    EXPECT_GT(new_seen, 0);
}

TEST(SecureStore, damage_and_foreign_keys_are_noticed) {
    FakeFlash flash;
    ASSERT_EQ(write(*open(flash), "one"), SecureStore::Progress::Written);
    ASSERT_EQ(write(*open(flash), "two"), SecureStore::Progress::Written);
    EXPECT_EQ(content(*open(flash, kOtherKey)), "") << "made by another device";
    const u32 newest = std::search(flash.copies[0].begin(), flash.copies[0].begin() + 100, "two",
                                   "two" + 3) != flash.copies[0].begin() + 100
                           ? 0
                           : 1;
    for (const u64 at : {u64{0}, u64{8}, u64{16}, u64{24}, u64{33}, u64{63}, u64{66}}) {
        FakeFlash damaged = flash;
        damaged.copies[newest][at] ^= 1;
        EXPECT_EQ(content(*open(damaged)), "one") << "damage at " << at;
    }
}

TEST(SecureStore, a_failed_write_keeps_the_old_content_and_a_later_one_succeeds) {
    FakeFlash flash;
    auto store = open(flash);
    ASSERT_EQ(write(*store, "good"), SecureStore::Progress::Written);
    flash.fail = true;
    EXPECT_EQ(write(*store, "bad"), SecureStore::Progress::Failed);
    EXPECT_EQ(content(*store), "good");
    EXPECT_EQ(content(*open(flash)), "good");
    flash.fail = false;
    EXPECT_EQ(write(*store, "better"), SecureStore::Progress::Written);
    EXPECT_EQ(content(*open(flash)), "better");
}

TEST(SecureStore, the_boot_counter_grows_without_touching_the_data) {
    FakeFlash flash;
    auto store = open(flash);
    ASSERT_EQ(write(*store, "data"), SecureStore::Progress::Written);
    store->begin(store->data(), store->boot_counter() + 1);
    while (store->step() == SecureStore::Progress::More) {
    }
    store = open(flash);
    EXPECT_EQ(store->boot_counter(), 1u);
    EXPECT_EQ(content(*store), "data");
}
