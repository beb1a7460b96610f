// What to keep, give back and bring in. Cases worked by hand, and properties over random memories.
#include "memory/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace flex::memory {
namespace {

constexpr std::uint64_t kGB = 1'000'000'000;
constexpr PolicyOptions kOptions;

/// A model of `count` stages of 1 GB each.
struct ModelOfGigabytes {
    explicit ModelOfGigabytes(std::uint32_t count) : bytes(count, kGB) {}
    [[nodiscard]] ModelView view(double recent, std::span<const std::uint32_t> prompts = {}) const {
        ModelView model;
        model.stages = bytes;
        model.resident = static_cast<std::uint32_t>(bytes.size());
        model.recent = recent;
        model.count = static_cast<std::uint64_t>(recent);
        model.prompts = prompts;
        model.bandwidth = 2e9;
        model.prefill_rate = 100;
        return model;
    }
    std::vector<std::uint64_t> bytes;
};

TEST(DeadlinePrefix, is_what_does_not_arrive_while_the_prompt_is_computed) {
    EXPECT_DOUBLE_EQ(deadline_prefix(8e9, 2e9, 1.5), 5e9);
    EXPECT_DOUBLE_EQ(deadline_prefix(8e9, 2e9, 4), 0);
    EXPECT_DOUBLE_EQ(deadline_prefix(8e9, 2e9, 100), 0);
    EXPECT_DOUBLE_EQ(deadline_prefix(8e9, 2e9, 0), 8e9);
}

TEST(UseHistory, halves_an_invocation_in_a_half_life) {
    UseHistory history;
    EXPECT_EQ(history.recent(5, kOptions), 0);
    history.note(0, 10, kOptions);
    EXPECT_DOUBLE_EQ(history.recent(0, kOptions), 1);
    EXPECT_DOUBLE_EQ(history.recent(600, kOptions), 0.5);
    history.note(600, 20, kOptions);
    EXPECT_DOUBLE_EQ(history.recent(600, kOptions), 1.5);
    EXPECT_DOUBLE_EQ(history.recent(1800, kOptions), 0.375);
    EXPECT_DOUBLE_EQ(history.recent(0, kOptions), 1.5); // a clock that ran backwards changes nothing
    EXPECT_EQ(history.count(), 2u);
    EXPECT_EQ(std::vector(history.prompts().begin(), history.prompts().end()),
              (std::vector<std::uint32_t>{10, 20}));
}

TEST(UseHistory, remembers_the_last_prompts_only) {
    UseHistory history;
    for (std::uint32_t i = 0; i < 100; ++i) history.note(0, i, kOptions);
    ASSERT_EQ(history.prompts().size(), UseHistory::kPrompts);
    EXPECT_EQ(std::ranges::min(history.prompts()), 100 - UseHistory::kPrompts);
}

TEST(HotModels, are_those_over_the_threshold) {
    const ModelOfGigabytes m(1);
    const ModelView models[] = {m.view(50), m.view(25), m.view(24), m.view(1)};
    EXPECT_EQ(hot_models({models, {}}, kOptions), (std::vector{true, true, false, false}));
    EXPECT_EQ(hot_models({models, {}}, {.hot_share = 0.3}), (std::vector{true, false, false, false}));
}

TEST(HotModels, are_the_top_three_where_none_is_over_the_threshold) {
    const ModelOfGigabytes m(1);
    const ModelView models[] = {m.view(10), m.view(20), m.view(20), m.view(20), m.view(15), m.view(15)};
    EXPECT_EQ(hot_models({models, {}}, kOptions), (std::vector{false, true, true, true, false, false}));
    EXPECT_EQ(hot_models({models, {}}, {.top = 1}), (std::vector{false, true, false, false, false, false}));
    const ModelView unused[] = {m.view(0), m.view(0)};
    EXPECT_EQ(hot_models({unused, {}}, kOptions), (std::vector{false, false}));
}

TEST(HotModels, are_the_last_one_too_where_requests_repeat) {
    const ModelOfGigabytes m(4);
    ModelView models[] = {m.view(90), m.view(10)};
    models[1].last = true;
    EXPECT_EQ(hot_models({models, {}, 0}, kOptions), (std::vector{true, false}));
    EXPECT_EQ(hot_models({models, {}, 0.16}, kOptions),
              (std::vector{true, false})); // 0.84 * 0.1 + 0.16 = 0.244
    EXPECT_EQ(hot_models({models, {}, 0.17}, kOptions), (std::vector{true, true})); // 0.253
    // 0.6 of the weight is enough to be first: 0.4 * 0.1 + 0.6 against 0.4 * 0.9.
    EXPECT_EQ(target({models, {}, 0.6}, kOptions, 4 * kGB).stages, (std::vector<std::uint32_t>{0, 4}));
}

TEST(Repetition, is_none_where_requests_are_independent_and_grows_where_they_are_not) {
    Repetition independent, same, turns;
    EXPECT_EQ(independent.excess(), 0);
    for (int i = 0; i < 400; ++i) {
        independent.note(i % 2 == 0, 0.5);
        same.note(true, 0.5);
        turns.note(i % 4 != 0, 0.25); // conversations of 4 turns
    }
    EXPECT_LT(independent.excess(), 0.02);
    EXPECT_GT(same.excess(), 0.75); // 32 * 0.5 / (32 * 0.5 + 4) = 0.8
    EXPECT_NEAR(turns.excess(), 32 * 0.5 / (32 * 0.75 + 4), 0.03);
}

TEST(Repetition, does_not_jump_to_conclusions) {
    Repetition one;
    one.note(true, 0.5);
    EXPECT_DOUBLE_EQ(one.excess(), 0.5 / 4.5);
}

TEST(HotModels, include_the_one_that_a_workflow_calls_next) {
    const ModelOfGigabytes m(1);
    ModelView models[] = {m.view(100), m.view(0)};
    models[1].next = true;
    EXPECT_EQ(hot_models({models, {}}, kOptions), (std::vector{true, true}));
    EXPECT_EQ(ranking({models, {}}, kOptions).front().index, 1u);
}

// 8 GB at 2 GB/s; 150 tokens at 100 tokens/s hide 3 GB, 300 hide 6 GB.
TEST(Target, gives_a_model_with_long_prompts_less) {
    const ModelOfGigabytes m(8);
    const std::uint32_t medium[] = {150, 150}, large[] = {300, 300};
    const ModelView models[] = {m.view(50, medium), m.view(50, large)};
    const Target got = target({models, {}}, kOptions, 7 * kGB);
    EXPECT_EQ(got.stages, (std::vector<std::uint32_t>{5, 2}));
    EXPECT_EQ(got.bytes, 7 * kGB);
}

TEST(Target, shares_between_equally_used_models_the_earliest_layers_first) {
    const ModelOfGigabytes m(8);
    const ModelView models[] = {m.view(50), m.view(50)};
    EXPECT_EQ(target({models, {}}, kOptions, 10 * kGB).stages, (std::vector<std::uint32_t>{5, 5}));
    EXPECT_EQ(target({models, {}}, kOptions, 11 * kGB).stages, (std::vector<std::uint32_t>{6, 5}));
}

TEST(Target, prefers_what_more_requests_wait_for) {
    const ModelOfGigabytes m(8);
    const std::uint32_t half_long[] = {100, 300}; // 6 GB, 2 GB have to be there
    const ModelView models[] = {m.view(60, half_long), m.view(40)};
    // The first 2 GB of model 0 are worth 0.6, the next 4 GB 0.3, all of model 1 0.4.
    EXPECT_EQ(target({models, {}}, kOptions, 2 * kGB).stages, (std::vector<std::uint32_t>{2, 0}));
    EXPECT_EQ(target({models, {}}, kOptions, 10 * kGB).stages, (std::vector<std::uint32_t>{2, 8}));
    EXPECT_EQ(target({models, {}}, kOptions, 14 * kGB).stages, (std::vector<std::uint32_t>{6, 8}));
    EXPECT_EQ(target({models, {}}, kOptions, 16 * kGB).stages, (std::vector<std::uint32_t>{8, 8}));
}

TEST(Target, fills_what_every_hot_model_needs_before_what_computing_hides) {
    const ModelOfGigabytes m(8);
    const std::uint32_t prompts[] = {300}; // 2 GB of 8 are needed
    SessionView session{kGB, 0, 1, false};
    const ModelView models[] = {m.view(70, prompts), m.view(30, prompts)};
    const MemoryView view{models, std::span(&session, 1)};
    EXPECT_EQ(target(view, kOptions, 4 * kGB).stages, (std::vector<std::uint32_t>{2, 2}));
    EXPECT_EQ(target(view, kOptions, 10 * kGB).stages, (std::vector<std::uint32_t>{8, 2}));
    EXPECT_FALSE(target(view, kOptions, 16 * kGB).sessions[0]);
    EXPECT_TRUE(target(view, kOptions, 17 * kGB).sessions[0]);
}

TEST(Target, weighs_recent_use_more_than_old) {
    const ModelOfGigabytes m(4);
    ModelView models[] = {m.view(10), m.view(30)};
    models[0].count = 300; // was used a lot once: 0.75 * 0.25 + 0.25 * 0.75 = 0.375 of the weight
    models[1].count = 100;
    EXPECT_EQ(target({models, {}}, kOptions, 4 * kGB).stages, (std::vector<std::uint32_t>{0, 4}));
    EXPECT_EQ(target({models, {}}, {.recent_weight = 0.25}, 4 * kGB).stages,
              (std::vector<std::uint32_t>{4, 0}));
}

TEST(Target, always_has_room_for_what_is_pinned) {
    const ModelOfGigabytes m(4);
    ModelView models[] = {m.view(99), m.view(1)};
    models[1].pinned = true;
    models[1].resident = 1;
    const Target small = target({models, {}}, kOptions, kGB);
    EXPECT_EQ(small.stages, (std::vector<std::uint32_t>{0, 4}));
    EXPECT_EQ(small.bytes, 4 * kGB);
    EXPECT_EQ(target({models, {}}, kOptions, 5 * kGB).stages, (std::vector<std::uint32_t>{1, 4}));
}

TEST(Victims, are_cold_tails_then_idle_sessions_then_hot_tails) {
    const ModelOfGigabytes m(2);
    const std::uint32_t prompts[] = {50}; // 1 GB of the 2 is hidden
    ModelView models[] = {m.view(75, prompts), m.view(20, prompts), m.view(5)};
    SessionView sessions[] = {{kGB, 10, 1, false}, {kGB, 10, 9, false}, {kGB, 0, 9, true}};
    const auto steps = victims({models, sessions}, kOptions, 100 * kGB);
    std::vector<std::string> order;
    for (const Step& step : steps) {
        EXPECT_EQ(step.bytes, kGB);
        order.push_back(step.is_session ? "session " + std::to_string(step.index)
                                        : "model " + std::to_string(step.index) + " keeps " +
                                              std::to_string(step.stages));
    }
    // Of the cold ones first what computing hides, of the hot one too.
    EXPECT_EQ(order, (std::vector<std::string>{"model 1 keeps 1", "model 2 keeps 1", "model 2 keeps 0",
                                               "model 1 keeps 0", "session 0", "session 1", "model 0 keeps 1",
                                               "model 0 keeps 0"}));
}

TEST(Victims, are_no_more_than_asked_for) {
    const ModelOfGigabytes m(4);
    const ModelView models[] = {m.view(80), m.view(20)};
    EXPECT_TRUE(victims({models, {}}, kOptions, 0).empty());
    EXPECT_EQ(victims({models, {}}, kOptions, 1).size(), 1u);
    EXPECT_EQ(victims({models, {}}, kOptions, 2 * kGB).size(), 2u);
    EXPECT_EQ(victims({models, {}}, kOptions, 2 * kGB + 1).size(), 3u);
}

TEST(Victims, among_sessions_are_those_that_cost_least_to_compute_again) {
    const SessionView sessions[] = {
        {kGB, 0, 4, false}, {kGB, 600, 9, false}, {2 * kGB, 0, 7, false}, {kGB, 1200, 15, false}};
    // By second a GB and age: 4, 4.5, 3.5, 3.75.
    std::vector<std::uint32_t> order;
    for (const Step& step : victims({{}, sessions}, kOptions, UINT64_MAX)) order.push_back(step.index);
    EXPECT_EQ(order, (std::vector<std::uint32_t>{2, 3, 0, 1}));
}

TEST(Balance, brings_back_the_hot_models_when_pressure_ends) {
    const ModelOfGigabytes m(4);
    ModelView models[] = {m.view(80), m.view(20)};
    models[0].resident = 1;
    models[1].resident = 2;
    const Plan plan = balance({models, {}}, kOptions, 100 * kGB);
    EXPECT_TRUE(plan.drops.empty());
    ASSERT_EQ(plan.loads.size(), 3u); // the cold one waits for its request
    for (std::uint32_t i = 0; i < 3; ++i) {
        EXPECT_EQ(plan.loads[i].index, 0u);
        EXPECT_EQ(plan.loads[i].stages, i + 2);
    }
}

TEST(Balance, makes_the_cold_give_way_to_the_hot) {
    const ModelOfGigabytes m(4);
    ModelView models[] = {m.view(80), m.view(20)};
    models[0].resident = 2;
    const Plan plan = balance({models, {}}, kOptions, 6 * kGB);
    ASSERT_EQ(plan.drops.size(), 2u);
    EXPECT_EQ(plan.drops[1].index, 1u);
    EXPECT_EQ(plan.drops[1].stages, 2u);
    EXPECT_EQ(plan.loads.size(), 2u);
}

TEST(Balance, leaves_loading_to_a_running_request) {
    const ModelOfGigabytes m(4);
    ModelView models[] = {m.view(80)};
    models[0].resident = 1;
    models[0].pinned = true;
    const Plan plan = balance({models, {}}, kOptions, 6 * kGB);
    EXPECT_TRUE(plan.drops.empty());
    EXPECT_TRUE(plan.loads.empty());
}

/// Memories of all kinds, from a seed.
struct RandomMemory {
    explicit RandomMemory(std::uint32_t seed) : random(seed) {
        const auto count = number(1, 6);
        stages.resize(count);
        prompts.resize(count);
        for (std::uint32_t i = 0; i < count; ++i) {
            for (auto left = number(1, 12); left > 0; --left) stages[i].push_back(number(0, 50));
            for (auto left = number(0, 4); left > 0; --left) prompts[i].push_back(number(1, 400));
            ModelView model;
            model.stages = stages[i];
            model.resident = number(0, static_cast<std::uint32_t>(stages[i].size()));
            model.pinned = number(0, 5) == 0;
            model.next = number(0, 9) == 0;
            model.recent = number(0, 2) == 0 ? 0 : number(1, 20);
            model.count = number(0, 40);
            model.prompts = prompts[i];
            model.bandwidth = number(0, 50);
            model.prefill_rate = number(0, 100);
            models.push_back(model);
        }
        repetition = number(0, 1) * number(0, 10) / 10.0;
        models[number(0, count - 1)].last = true;
        for (auto left = number(0, 6); left > 0; --left) {
            sessions.push_back({number(0, 40), static_cast<double>(number(0, 900)),
                                static_cast<double>(number(0, 9)), number(0, 5) == 0});
        }
    }
    std::uint32_t number(std::uint32_t least, std::uint32_t most) {
        return std::uniform_int_distribution(least, most)(random);
    }
    [[nodiscard]] MemoryView view() const { return {models, sessions, repetition}; }
    [[nodiscard]] std::uint64_t bytes(bool pinned_only, bool resident_only) const {
        std::uint64_t sum = 0;
        for (const ModelView& m : models) {
            if (pinned_only && !m.pinned) continue;
            for (std::size_t i = 0; i < (resident_only ? m.resident : m.stages.size()); ++i)
                sum += m.stages[i];
        }
        for (const SessionView& s : sessions) sum += pinned_only && !s.pinned ? 0 : s.bytes;
        return sum;
    }
    /// What is resident after the steps, each of which must be right where it stands.
    void apply(std::span<const Step> steps, bool drops) {
        std::vector<bool> gone(sessions.size());
        for (const Step& step : steps) {
            if (step.is_session) {
                ASSERT_TRUE(drops && !sessions[step.index].pinned && !gone[step.index]);
                gone[step.index] = true;
                EXPECT_EQ(step.bytes, std::exchange(sessions[step.index].bytes, 0));
                continue;
            }
            ModelView& m = models[step.index];
            ASSERT_FALSE(m.pinned);
            // One stage at its end: a prefix stays a prefix.
            ASSERT_EQ(step.stages + (drops ? 1 : 0), m.resident + (drops ? 0 : 1));
            m.resident = step.stages;
            EXPECT_EQ(step.bytes, stages[step.index][drops ? step.stages : step.stages - 1]);
        }
    }

    std::mt19937 random;
    double repetition = 0;
    std::vector<std::vector<std::uint64_t>> stages;
    std::vector<std::vector<std::uint32_t>> prompts;
    std::vector<ModelView> models;
    std::vector<SessionView> sessions;
};

class PolicyProperties : public testing::TestWithParam<std::uint32_t> {};

TEST_P(PolicyProperties, the_target_keeps_the_budget_and_grows_with_it) {
    const RandomMemory memory(GetParam());
    const std::uint64_t pinned = memory.bytes(true, false);
    Target before = target(memory.view(), kOptions, 0);
    EXPECT_EQ(before.bytes, pinned);
    for (std::uint64_t budget = 1; budget < memory.bytes(false, false) + 10; budget += 7) {
        const Target now = target(memory.view(), kOptions, budget);
        EXPECT_LE(now.bytes, std::max(budget, pinned));
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < now.stages.size(); ++i) {
            EXPECT_GE(now.stages[i], before.stages[i]);
            for (std::uint32_t s = 0; s < now.stages[i]; ++s) sum += memory.stages[i][s];
        }
        for (std::size_t i = 0; i < now.sessions.size(); ++i) {
            EXPECT_GE(now.sessions[i], before.sessions[i]);
            sum += now.sessions[i] ? memory.sessions[i].bytes : 0;
        }
        EXPECT_EQ(now.bytes, sum);
        before = now;
    }
}

TEST_P(PolicyProperties, victims_free_what_was_asked_and_nothing_pinned) {
    for (const std::uint64_t asked : {1u, 17u, 60u, 200u, 100000u}) {
        RandomMemory memory(GetParam());
        const std::uint64_t before = resident_bytes(memory.view());
        ASSERT_EQ(before, memory.bytes(false, true));
        const std::uint64_t can = before - memory.bytes(true, true);
        memory.apply(victims(memory.view(), kOptions, asked), true);
        EXPECT_GE(before - resident_bytes(memory.view()), std::min<std::uint64_t>(asked, can));
    }
}

TEST_P(PolicyProperties, a_balance_keeps_the_budget_and_rests_when_it_is_reached) {
    for (const std::uint64_t budget : {0u, 50u, 150u, 400u, 100000u}) {
        RandomMemory memory(GetParam());
        const std::uint64_t pinned = memory.bytes(true, true);
        const Target wanted = target(memory.view(), kOptions, budget);
        Plan plan = balance(memory.view(), kOptions, budget);
        memory.apply(plan.drops, true);
        memory.apply(plan.loads, false);
        EXPECT_LE(resident_bytes(memory.view()), std::max(budget, pinned));
        const auto hot = hot_models(memory.view(), kOptions);
        for (std::size_t i = 0; i < hot.size(); ++i) {
            if (hot[i] && !memory.models[i].pinned) {
                EXPECT_GE(memory.models[i].resident, wanted.stages[i]);
            }
        }
        // A conversation that had to go no longer stands before what is worth less and smaller.
        std::size_t rounds = 0;
        for (;; ++rounds) {
            plan = balance(memory.view(), kOptions, budget);
            std::erase_if(plan.drops, [](const Step& step) { return step.bytes == 0; });
            if (plan.loads.empty() && plan.drops.empty()) break;
            ASSERT_LE(rounds, memory.sessions.size());
            memory.apply(plan.drops, true);
            memory.apply(plan.loads, false);
        }
    }
}

TEST_P(PolicyProperties, the_same_memory_is_ranked_the_same) {
    const RandomMemory one(GetParam()), two(GetParam());
    const auto a = ranking(one.view(), kOptions), b = ranking(two.view(), kOptions);
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].is_session, b[i].is_session);
        EXPECT_EQ(a[i].index, b[i].index);
        EXPECT_EQ(a[i].stage, b[i].stage);
    }
}

INSTANTIATE_TEST_SUITE_P(Seeds, PolicyProperties, testing::Range(0u, 200u));

} // namespace
} // namespace flex::memory
