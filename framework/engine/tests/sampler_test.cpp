#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

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

} // namespace
} // namespace flex::engine
