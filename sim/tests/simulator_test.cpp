// Traces that can be worked out by hand.
#include "sim/simulator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "sim/trace.h"

namespace flex::sim {
namespace {

/// 1 byte/s to load, decryption for nothing but where a test says so; models of 10 stages of 10 bytes.
Device device(std::size_t models, double prefill_rate) {
    Device d{1, 1e12, {}};
    for (std::size_t i = 0; i < models; ++i)
        d.models.push_back(
            make_model(std::string(1, static_cast<char>('a' + i)), 10, 8, 10, 10, prefill_rate, 10));
    return d;
}
std::vector<std::uint64_t> missing_from(const Model& model, std::size_t first) {
    std::vector<std::uint64_t> bytes(model.stages.size());
    for (std::size_t i = first; i < bytes.size(); ++i) bytes[i] = model.stages[i].bytes;
    return bytes;
}

TEST(FirstToken, of_a_resident_model_is_the_prefill) {
    const Device d = device(1, 2);
    EXPECT_DOUBLE_EQ(first_token(d, d.models[0], 16, missing_from(d.models[0], 10)), 8);
}

TEST(FirstToken, of_a_missing_model_overlaps_loading_and_computing) {
    const Device d = device(1, 2);
    // 8 layers of 1 s each: the last layer is there at 90 s and done at 91; the head comes at 100.
    EXPECT_NEAR(first_token(d, d.models[0], 16, missing_from(d.models[0], 0)), 100, 1e-9);
    // 8 layers of 20 s each: they wait for the first one only, which is there at 20.
    EXPECT_NEAR(first_token(d, d.models[0], 320, missing_from(d.models[0], 0)), 20 + 160, 1e-9);
}

TEST(FirstToken, of_a_half_resident_model_hides_what_comes_in_time) {
    const Device d = device(1, 1);
    // Stages 5..9 are missing, 50 s; the 4 resident layers take 40 s, and layer 5 is there at 10.
    EXPECT_NEAR(first_token(d, d.models[0], 80, missing_from(d.models[0], 5)), 80, 1e-9);
    // 4 layers of 2 s: then each layer waits for its bytes, the head comes at 50.
    EXPECT_NEAR(first_token(d, d.models[0], 16, missing_from(d.models[0], 5)), 50, 1e-9);
}

TEST(FirstToken, waits_for_the_slower_of_reading_and_decrypting) {
    Device d = device(1, 1e9);
    d.decrypt_bandwidth = 0.5;
    // The first stage is read in 10 s; then decryption is what lasts: 10 stages of 20 s.
    EXPECT_NEAR(first_token(d, d.models[0], 1, missing_from(d.models[0], 0)), 10 + 200, 1e-6);
    EXPECT_DOUBLE_EQ(d.bandwidth(), 0.5);
}

Trace trace_of(std::initializer_list<std::uint32_t> models, std::uint64_t budget) {
    Trace trace{{}, {{0, budget}}};
    double at = 0;
    for (const std::uint32_t model : models) trace.requests.push_back({at += 1000, model, 16, 10});
    return trace;
}
std::vector<std::uint64_t> streamed(const Device& d, const Trace& trace, Strategy strategy) {
    std::vector<std::uint64_t> bytes;
    for (const Outcome& outcome : simulate(d, trace, strategy)) bytes.push_back(outcome.streamed);
    return bytes;
}

TEST(Simulate, whole_models_leave_by_age) {
    const Device d = device(3, 2);
    // Two fit. c takes a's place, then a takes b's, then b takes c's.
    EXPECT_EQ(streamed(d, trace_of({0, 1, 0, 1, 2, 1, 0, 2}, 200), Strategy::kModelLru),
              (std::vector<std::uint64_t>{100, 100, 0, 0, 100, 0, 100, 100}));
    // One and a half: only one stays.
    EXPECT_EQ(streamed(d, trace_of({0, 1, 1, 0, 0}, 150), Strategy::kModelLru),
              (std::vector<std::uint64_t>{100, 100, 0, 100, 0}));
}

TEST(Simulate, page_lru_loses_the_beginning_of_a_model) {
    const Device d = device(2, 2);
    const Trace trace = trace_of({0, 1, 0}, 8192 + 4096);
    Device large = d;
    for (Model& model : large.models)
        for (Stage& stage : model.stages) stage.bytes = 1024; // 10 240 of each; a page and a half too many
    large.load_bandwidth = 1024;
    const auto outcomes = simulate(large, trace, Strategy::kPageLru);
    EXPECT_EQ(outcomes[2].streamed, 8192u);
    // The 8 stages that went are the first: the last of them comes at 8 s; 1 s of computing for it and one
    // more layer.
    EXPECT_NEAR(outcomes[2].ttft, 8 + 2, 1e-6);
}

TEST(Simulate, without_a_cache_everything_comes_every_time) {
    EXPECT_EQ(streamed(device(2, 2), trace_of({0, 0, 1}, 1000), Strategy::kNoCache),
              (std::vector<std::uint64_t>{100, 100, 100}));
}

TEST(Simulate, where_all_fits_only_the_first_request_of_a_model_waits) {
    EXPECT_EQ(streamed(device(2, 2), trace_of({0, 0, 1, 0, 1}, 1), Strategy::kAllFits),
              (std::vector<std::uint64_t>{100, 0, 100, 0, 0}));
}

TEST(Simulate, the_policy_keeps_the_beginning_of_both_models) {
    // 16 tokens at 0.2/s compute for 80 s, in which 80 of 100 bytes come: 20 have to be there.
    const Device d = device(2, 0.2);
    const auto outcomes =
        simulate(d, trace_of({0, 1, 0, 1, 0, 1}, 50), Strategy::kPolicy, {.half_life_seconds = 6000});
    EXPECT_EQ(outcomes[0].streamed, 100u);
    for (std::size_t i = 2; i < outcomes.size(); ++i) {
        EXPECT_LE(outcomes[i].streamed, 80u) << i;
        EXPECT_NEAR(outcomes[i].ttft, 80, 1e-6) << i; // nobody waits
    }
}

TEST(Simulate, the_policy_brings_back_while_nothing_runs) {
    const Device d = device(1, 1e6); // computing hides nothing
    Trace trace = trace_of({0, 0, 0}, 100);
    trace.budgets.push_back({1500, 20}); // pressure after the first request
    trace.budgets.push_back({2500, 100});
    EXPECT_EQ(streamed(d, trace, Strategy::kPolicy), (std::vector<std::uint64_t>{100, 80, 0}));
    trace.budgets.back().at = 2955; // 45 s before the third: 4 stages come back
    EXPECT_EQ(streamed(d, trace, Strategy::kPolicy), (std::vector<std::uint64_t>{100, 80, 40}));
    EXPECT_EQ(streamed(d, trace, Strategy::kModelLru), (std::vector<std::uint64_t>{100, 100, 100}));
}

TEST(Simulate, a_request_waits_for_its_turn) {
    const Device d = device(1, 2);
    Trace trace{{{0, 0, 16, 10}, {50, 0, 16, 10}}, {{0, 1000}}};
    const auto outcomes = simulate(d, trace, Strategy::kModelLru);
    EXPECT_NEAR(outcomes[0].ttft, 100, 1e-6);
    EXPECT_NEAR(outcomes[1].queued, 100 + 1 - 50, 1e-6); // 10 tokens of answer take 1 s
    EXPECT_NEAR(outcomes[1].ttft, 8, 1e-6);
}

TEST(Simulate, what_a_request_waits_for_is_not_dropped_before_its_turn) {
    const Device d = device(2, 2);
    for (const Strategy strategy : {Strategy::kPolicy, Strategy::kModelLru, Strategy::kPageLru}) {
        Trace trace{{{0, 0, 16, 10}, {0, 0, 16, 10}, {9000, 0, 16, 10}}, {{0, 0}}};
        EXPECT_EQ(streamed(d, trace, strategy), (std::vector<std::uint64_t>{100, 0, 100}))
            << name_of(strategy);
    }
}

TEST(Summarise, has_mean_median_and_tail) {
    std::vector<Outcome> outcomes;
    for (int i = 0; i <= 20; ++i) outcomes.push_back({static_cast<double>(i), 1, 100});
    const Summary summary = summarise(outcomes, 1); // 1..20
    EXPECT_DOUBLE_EQ(summary.mean_ttft, 10.5);
    EXPECT_DOUBLE_EQ(summary.median_ttft, 10);
    EXPECT_DOUBLE_EQ(summary.p95_ttft, 19);
    EXPECT_DOUBLE_EQ(summary.streamed_bytes, 100);
    EXPECT_EQ(summarise(outcomes, 100).mean_ttft, 0);
}

TEST(Requests, follow_the_distribution_and_the_seed) {
    const TraceOptions options{.requests = 6000, .models = 3, .zipf = 1, .gap_seconds = 10};
    const auto requests = make_requests(options);
    std::vector<int> by_model(3);
    std::vector<std::uint32_t> prompts;
    for (const Request& request : requests) {
        ++by_model.at(request.model);
        prompts.push_back(request.prompt);
    }
    // 6 : 3 : 2 of 11
    EXPECT_NEAR(by_model[0], 6000 * 6 / 11, 150);
    EXPECT_NEAR(by_model[2], 6000 * 2 / 11, 150);
    std::ranges::sort(prompts);
    EXPECT_NEAR(prompts[3000], 256, 15);
    EXPECT_NEAR(requests.back().at, 60000, 3000);
    EXPECT_EQ(make_requests(options)[77].prompt, requests[77].prompt);
    const auto bursts = make_requests({.requests = 100, .models = 3, .burst = 4, .think_seconds = 1});
    for (std::size_t i = 0; i < bursts.size(); ++i) {
        EXPECT_EQ(bursts[i].model, bursts[i / 4 * 4].model);
        EXPECT_EQ(i % 4 != 0 && bursts[i].at == bursts[i - 1].at, false);
    }
    EXPECT_NE(make_requests({.requests = 6000, .models = 3, .gap_seconds = 10, .seed = 2})[77].at,
              requests[77].at);
}

TEST(Pressure, falls_to_the_low_and_comes_back) {
    const auto budgets = make_pressure(800, 80, 2400);
    EXPECT_EQ(budgets.front().bytes, 800u);
    EXPECT_EQ(budgets.back().bytes, 800u);
    EXPECT_EQ(budgets.back().at, 2400);
    EXPECT_EQ(budgets[8].bytes, 80u);
    EXPECT_EQ(budgets[8].at, 800);
    for (std::size_t i = 1; i < budgets.size(); ++i) EXPECT_GT(budgets[i].at, budgets[i - 1].at);
}

} // namespace
} // namespace flex::sim
