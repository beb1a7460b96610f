#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <map>
#include <random>

namespace flex::engine {
namespace {

std::map<TokenId, int> draw(SamplerOptions options, const std::vector<float>& logits, int times = 20000) {
    Sampler sampler(options);
    std::map<TokenId, int> counts;
    for (int i = 0; i < times; ++i) ++counts[*sampler.sample(logits)];
    return counts;
}

TEST(Sampler, temperature_zero_takes_the_likeliest_and_of_equals_the_first) {
    EXPECT_EQ(*Sampler({}).sample(std::vector<float>{1, 5, 2, 5}), 1u);
    EXPECT_EQ(*greedy(std::vector<float>{-3, -1, -2}), 1u);
}

TEST(Sampler, draws_in_proportion_to_the_probabilities) {
    const auto counts =
        draw({.temperature = 1.0F, .top_k = 0}, {std::log(0.5F), std::log(0.3F), std::log(0.2F)});
    EXPECT_NEAR(counts.at(0), 10000, 400);
    EXPECT_NEAR(counts.at(1), 6000, 400);
    EXPECT_NEAR(counts.at(2), 4000, 400);
}

TEST(Sampler, temperature_flattens_or_sharpens) {
    const std::vector<float> logits = {2, 1, 0};
    const double sharp = draw({.temperature = 0.5F}, logits)[0],
                 plain = draw({.temperature = 1.0F}, logits)[0];
    const double flat = draw({.temperature = 5.0F}, logits)[0];
    EXPECT_GT(sharp, plain + 500);
    EXPECT_GT(plain, flat + 500);
}

TEST(Sampler, top_k_top_p_and_min_p_leave_out_what_they_should) {
    const std::vector<float> logits = {std::log(0.1F), std::log(0.4F), std::log(0.3F), std::log(0.15F),
                                       std::log(0.05F)};
    EXPECT_EQ(draw({.temperature = 1.0F, .top_k = 2}, logits).size(), 2u);
    EXPECT_EQ(draw({.temperature = 1.0F, .top_k = 0, .top_p = 0.65F}, logits).size(),
              2u); // 0.4 + 0.3 reach it
    EXPECT_EQ(draw({.temperature = 1.0F, .top_k = 0, .min_p = 0.3F}, logits).size(), 3u); // at least 0.12
    EXPECT_EQ(draw({.temperature = 1.0F, .top_k = 1}, logits).begin()->first, 1u);
    EXPECT_EQ(draw({.temperature = 1.0F, .top_k = 0}, logits).size(), 5u);
}

TEST(Sampler, the_same_seed_gives_the_same_tokens_and_another_seed_others) {
    std::vector<float> logits(50);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i));
    const auto sequence = [&](std::uint64_t seed) {
        Sampler sampler({.temperature = 1.0F, .seed = seed});
        std::vector<TokenId> out;
        for (int i = 0; i < 64; ++i) out.push_back(*sampler.sample(logits));
        return out;
    };
    EXPECT_EQ(sequence(7), sequence(7));
    EXPECT_NE(sequence(7), sequence(8));
    // What seed 7 means, on every machine.
    const std::vector<TokenId> tokens = sequence(7);
    EXPECT_EQ(std::vector<TokenId>(tokens.begin(), tokens.begin() + 6),
              (std::vector<TokenId>{14, 39, 38, 21, 37, 26}));
}

TEST(Sampler, greedy_is_the_first_of_the_largest_finite_ones) {
    const auto by_definition = [](const std::vector<float>& logits) {
        std::size_t best = logits.size();
        for (std::size_t i = 0; i < logits.size(); ++i)
            if (std::isfinite(logits[i]) && (best == logits.size() || logits[i] > logits[best])) best = i;
        return best;
    };
    std::mt19937 random(3);
    const float odd[] = {0.0F, -0.0F, INFINITY, -INFINITY, std::nanf(""), -std::nanf(""), 1e-45F, -1e-45F, FLT_MAX, -FLT_MAX};
    for (int round = 0; round < 2000; ++round) {
        // Few values, so that the largest is there more than once; all of them odd in some rounds.
        std::vector<float> logits(1 + random() % (round % 10 == 0 ? 5000 : 40));
        const unsigned values = 1 + random() % 20, oddness = random() % 5;
        for (float& logit : logits) {
            logit = static_cast<float>(random() % values) - 10;
            if (random() % 4 < oddness) logit = odd[random() % std::size(odd)];
        }
        const std::size_t expected = by_definition(logits);
        const auto found = greedy(logits);
        ASSERT_EQ(found.ok(), expected < logits.size()) << round;
        if (found.ok()) { ASSERT_EQ(*found, expected) << round; }
    }
}

TEST(Sampler, survives_damaged_logits) {
    const float nan = std::nanf("");
    EXPECT_EQ(*greedy(std::vector<float>{nan, 1, INFINITY, 2}), 3u);
    EXPECT_FALSE(greedy(std::vector<float>{nan, nan}).ok());
    EXPECT_FALSE(greedy({}).ok());
    Sampler sampler({.temperature = 1e-30F});
    EXPECT_EQ(*sampler.sample(std::vector<float>{nan, 1, 2, -INFINITY}), 2u);
    EXPECT_FALSE(sampler.sample(std::vector<float>{nan, -INFINITY}).ok());
}

TEST(Sampler, options_out_of_range_are_refused) {
    EXPECT_TRUE(check({}).ok());
    EXPECT_FALSE(check({.temperature = -1.0F}).ok());
    EXPECT_FALSE(check({.temperature = std::nanf("")}).ok());
    EXPECT_FALSE(check({.temperature = INFINITY}).ok());
    EXPECT_FALSE(check({.top_p = 0.0F}).ok());
    EXPECT_FALSE(check({.top_p = 1.5F}).ok());
    EXPECT_FALSE(check({.min_p = 1.0F}).ok());
}

TEST(Sampler, penalties_and_bias_move_the_logits_they_name_and_no_others) {
    const std::vector<float> logits = {1.0F, 0.9F, -1.0F};
    // Presence: once said, token 0 falls below token 1, and then they take turns at the same height.
    Sampler presence({.presence_penalty = 0.5F});
    EXPECT_EQ(*presence.sample(logits), 0u);
    EXPECT_EQ(*presence.sample(logits), 1u);
    EXPECT_EQ(*presence.sample(logits), 0u);
    EXPECT_EQ(*presence.sample(logits), 0u); // presence counts once
    Sampler frequency({.frequency_penalty = 0.5F});
    std::vector<TokenId> said;
    for (int i = 0; i < 4; ++i) said.push_back(*frequency.sample(logits));
    EXPECT_EQ(said, (std::vector<TokenId>{0, 1, 0, 1}));
    // Repeat: the prompt counts, and negative logits go further down.
    const TokenId prompt[] = {0, 2};
    EXPECT_EQ(*Sampler({.repeat_penalty = 1.5F}, prompt).sample(logits), 1u);
    EXPECT_EQ(*Sampler({.repeat_penalty = 1.05F}, prompt).sample(logits), 0u);
    EXPECT_EQ(*Sampler({.repeat_penalty = 2.0F}, std::span(prompt).subspan(1))
                   .sample(std::vector<float>{-3, -2, -1.4F}),
              1u);
    EXPECT_EQ(*Sampler({.logit_bias = {{2, 5.0F}, {99, 100.0F}}}).sample(logits), 2u);
    EXPECT_EQ(*Sampler({.logit_bias = {{0, -100.0F}}}).sample(logits), 1u);
}

TEST(Sampler, repeats_are_forgotten_after_the_window) {
    std::vector<TokenId> prompt(kRepeatWindow, 1);
    prompt.insert(prompt.begin(), 0); // just out of the window
    const std::vector<float> logits = {1.0F, 1.5F, 0.5F};
    Sampler sampler({.repeat_penalty = 10.0F}, prompt);
    EXPECT_EQ(*sampler.sample(logits), 0u);
    EXPECT_EQ(*sampler.sample(logits), 2u); // 0 has just been said
    Sampler long_ago({.repeat_penalty = 10.0F, .logit_bias = {{1, -100.0F}, {2, -100.0F}}}, prompt);
    for (std::size_t i = 0; i < 2 * kRepeatWindow; ++i) ASSERT_EQ(*long_ago.sample(logits), 0u);
}

TEST(Sampler, options_out_of_range_are_refused_by_name) {
    const std::pair<SamplerOptions, const char*> cases[] = {
        {{.repeat_penalty = 0.0F}, "repeat_penalty"},
        {{.repeat_penalty = NAN}, "repeat_penalty"},
        {{.presence_penalty = 2.5F}, "presence_penalty"},
        {{.frequency_penalty = -2.5F}, "frequency_penalty"},
        {{.logit_bias = {{5, 101.0F}}}, "token 5"},
        {{.logit_bias = {{5, NAN}}}, "token 5"},
        {{.logit_bias = std::vector<std::pair<TokenId, float>>(kMaxLogitBias + 1)}, "1024"},
    };
    for (const auto& [options, word] : cases) {
        const auto status = check(options);
        ASSERT_FALSE(status.ok()) << word;
        EXPECT_NE(status.error().message.find(word), std::string::npos) << status.error().message;
    }
}

TEST(Sampler, log_probabilities_are_those_of_the_softmax) {
    const std::vector<float> logits = {std::log(0.5F), NAN, std::log(0.2F), std::log(0.3F)};
    const auto p = logprobs_of(logits, 2, 3);
    EXPECT_NEAR(p.token.logprob, std::log(0.2), 1e-6);
    ASSERT_EQ(p.top.size(), 3u);
    EXPECT_EQ(p.top[0].id, 0u);
    EXPECT_EQ(p.top[1].id, 3u);
    EXPECT_NEAR(p.top[1].logprob, std::log(0.3), 1e-6);
    EXPECT_LT(logprobs_of(logits, 1, 0).token.logprob, -9000);
    EXPECT_EQ(logprobs_of(logits, 0, 20).top.size(), 4u);
}

} // namespace
} // namespace flex::engine
