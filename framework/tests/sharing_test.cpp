// Who is one caller, and how models take turns.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "api/caller.h"
#include "pipeline/fair_share.h"

namespace flex {
namespace {

const std::string kKey(api::kMinApiKeyBytes, 'k');

TEST(CallerTest, the_same_secrets_for_the_same_model_are_one_scope) {
    const api::Callers callers;
    const auto scope = [&](const std::string& header, const char* cache_key, const char* model = "m",
                           std::uint64_t version = 1) {
        return callers.of(header).scope(model, version, cache_key);
    };
    const std::string mine = scope("Bearer " + kKey, "");
    EXPECT_FALSE(mine.empty());
    EXPECT_EQ(scope("Bearer " + kKey, ""), mine);
    EXPECT_NE(scope("Bearer " + kKey + "2", ""), mine);
    EXPECT_NE(scope("Bearer " + kKey, "narrower"), mine);
    EXPECT_NE(scope("Bearer " + kKey, "", "other"), mine);
    EXPECT_NE(scope("Bearer " + kKey, "", "m", 2), mine);
    EXPECT_EQ(scope("", "conversation"), scope("Bearer none", "conversation"));
    EXPECT_EQ(mine.find(kKey), std::string::npos);
}

TEST(CallerTest, who_brings_no_secret_shares_with_nobody) {
    const api::Callers callers;
    for (const char* header : {"", "Bearer ", "Bearer none", "Bearer sk-no-key-required",
                               "Basic dXNlcjpwYXNzd29yZHBhc3N3b3JkcGFzcw=="})
        EXPECT_EQ(callers.of(header).scope("m", 1, ""), "") << header;
}

TEST(CallerTest, an_owner_is_whoever_brings_the_same_secret_again) {
    crypto::Secret32 key, same;
    key.bytes()[0] = same.bytes()[0] = std::byte{7};
    const api::Callers before(std::move(key)), after(std::move(same)), other;
    const std::string mine = before.of("Bearer " + kKey).owner("");
    EXPECT_FALSE(mine.empty());
    EXPECT_EQ(after.of("Bearer " + kKey).owner("any conversation"), mine);
    EXPECT_EQ(after.of("Bearer " + kKey).scope("m", 1, "c"), before.of("Bearer " + kKey).scope("m", 1, "c"));
    EXPECT_NE(other.of("Bearer " + kKey).owner(""), mine);
    EXPECT_NE(before.of("Bearer " + kKey + "2").owner(""), mine);
    EXPECT_EQ(before.of("").owner(""), "");
    EXPECT_EQ(before.of("Bearer none").owner("c"), before.of("").owner("c"));
    EXPECT_NE(before.of("").owner("c"), before.of("").owner("d"));
    EXPECT_EQ(before.fresh().owner("c"), "");
}

TEST(CallerTest, a_fresh_caller_is_nobody_else) {
    const api::Callers callers;
    const std::string one = callers.fresh().scope("m", 1, ""), two = callers.fresh().scope("m", 1, "");
    EXPECT_FALSE(one.empty());
    EXPECT_NE(one, two);
}

std::atomic<std::uint64_t> fake_ns{0};

// Turns of 30 against turns of 10: the short ones come three times as often.
TEST(FairShare, whoever_computed_least_is_next) {
    fake_ns = 0;
    pipeline::FairShare share([] { return fake_ns.load(); }, std::chrono::hours(1));
    pipeline::FairShare::Member slow, quick, gatekeeper;
    share.enter(gatekeeper); // until both wait
    std::vector<char> order; // written inside a turn only
    const auto run = [&](pipeline::FairShare::Member& member, char name, std::uint64_t turn, int turns) {
        for (int i = 0; i < turns; ++i) {
            share.enter(member);
            order.push_back(name);
            fake_ns += turn;
            // The turn ends when the other waits, or there would be no choice.
            const std::size_t others = order.size() < 12 ? 1 : 0;
            while (share.waiting() < others) std::this_thread::yield();
            share.leave(member);
        }
    };
    std::thread a(run, std::ref(slow), 's', 30, 4), b(run, std::ref(quick), 'q', 10, 12);
    while (share.waiting() < 2) std::this_thread::yield();
    share.leave(gatekeeper);
    a.join();
    b.join();
    const auto first = std::span(order).first(12);
    EXPECT_EQ(std::ranges::count(first, 's'), 3);
    EXPECT_EQ(slow.used_ns(), 120u);
    EXPECT_EQ(quick.used_ns(), 120u);
}

TEST(FairShare, nobody_waits_for_long_for_one_who_does_not_come_back) {
    fake_ns = 0;
    pipeline::FairShare share([] { return fake_ns.load(); });
    pipeline::FairShare::Member gone, stays;
    share.enter(stays);
    fake_ns += 100;
    share.leave(stays);
    share.enter(gone);
    share.leave(gone);
    share.enter(stays); // has used more, and gets its turn all the same
    share.leave(stays);
    EXPECT_EQ(stays.used_ns(), 100u);
}

TEST(FairShare, who_was_away_saved_nothing_up) {
    fake_ns = 0;
    pipeline::FairShare share([] { return fake_ns.load(); });
    pipeline::FairShare::Member busy, late;
    for (int i = 0; i < 10; ++i) {
        share.enter(busy);
        fake_ns += 100;
        share.leave(busy);
    }
    share.enter(late);
    EXPECT_GE(late.used_ns(), 900u);
    share.leave(late);
}

/// Weights that are there, but for those from `missing` on.
struct FakeWeights final : engine::WeightGate {
    Status acquire(engine::Stage stage) override {
        if (stage >= missing) return fail(ErrorCode::kBusy, "not there");
        return {};
    }
    void release(engine::Stage) override {}
    engine::Stage missing = 100;
};

TEST(SharedGate, a_turn_ends_with_the_last_stage_that_is_held) {
    FakeWeights weights;
    pipeline::FairShare share;
    pipeline::SharedGate one(weights, share), two(weights, share);
    ASSERT_TRUE(one.acquire(0).ok()); // the embedding takes no turn
    ASSERT_TRUE(one.acquire(1).ok());
    ASSERT_TRUE(one.acquire(2).ok()); // as for jobs under way
    weights.missing = 3;
    EXPECT_EQ(one.acquire(3).error().code, ErrorCode::kBusy); // what it had, it still has
    std::atomic<bool> inside{false};
    std::thread other([&] {
        ASSERT_TRUE(two.acquire(1).ok());
        inside = true;
        two.release(1);
    });
    while (share.waiting() == 0) std::this_thread::yield();
    one.release(1);
    EXPECT_FALSE(inside);
    one.release(2);
    other.join();
    EXPECT_TRUE(inside);
    one.release(0);
}

} // namespace
} // namespace flex
