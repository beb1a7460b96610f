// Chooses the next token from logits. Deterministic: the same logits, options and seed give the same tokens
// on every machine (own generator, own exponential).
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/token.h"

namespace flex::engine {

struct SamplerOptions {
    float temperature = 0.0F; ///< 0: greedy (then the rest is not used)
    std::uint32_t top_k = 40; ///< 0: all
    float top_p = 1.0F;       ///< keep the smallest set whose probability reaches it; 1: all
    float min_p = 0.0F;       ///< drop tokens less likely than this times the likeliest; 0: none
    std::uint64_t seed = 0;

    // Before all of the above, and before the greedy choice too:
    float repeat_penalty =
        1.0F; ///< logits of the last kRepeatWindow tokens / this (negative ones * this); 1: off
    float presence_penalty = 0.0F;  ///< taken from the logit of each token of the answer so far …
    float frequency_penalty = 0.0F; ///< … and this for each time it is there
    std::vector<std::pair<TokenId, float>> logit_bias =
        {}; ///< added to the logit; ids outside the vocabulary: nothing
};
inline constexpr std::size_t kRepeatWindow = 64;
inline constexpr std::size_t kMaxLogitBias = 1024;

/// Checks ranges (finite, temperature 0..100, top_p in (0, 1], min_p in [0, 1), repeat_penalty 0.1..10, the
/// other penalties -2..2, biases -100..100). Error: kInvalidArgument.
Status check(const SamplerOptions& options);

/// One sequence, one thread.
class Sampler {
public:
    /// `prompt`: what the answer follows; only repeat_penalty looks at it.
    explicit Sampler(const SamplerOptions& options, std::span<const TokenId> prompt = {});

    /// Order: penalties and bias, top-k, top-p, min-p (all on the probabilities at temperature 1), then
    /// temperature, then one draw. Ties go to the lower id. The token counts as part of the answer from then
    /// on. Error: kInternal when no logit is a number.
    Result<TokenId> sample(std::span<const float> logits);

private:
    struct Candidate {
        float logit;
        TokenId id;
    };
    double draw(); // [0, 1)
    Result<TokenId> choose(std::span<const float> logits);
    std::span<const float> adjusted(std::span<const float> logits);
    void remember(TokenId token);

    SamplerOptions options_;
    std::uint64_t state_[4];
    std::vector<Candidate> candidates_;
    std::vector<double> weights_;
    std::vector<float> adjusted_;
    std::vector<TokenId> recent_; // a ring of the last kRepeatWindow tokens
    std::size_t recent_at_ = 0;
    std::unordered_map<TokenId, std::uint32_t> counts_; // of the answer; only with penalties
};

/// A token with its share of the probability.
struct TokenLogprob {
    TokenId id = 0;
    float logprob = 0; ///< natural logarithm
};
inline constexpr std::uint32_t kMaxTopLogprobs = 20;

/// What the model itself gave `token` (temperature 1, before penalties and bias), and the `top` likeliest
/// tokens, the likeliest first. A logit that is no number counts as impossible.
struct TokenLogprobs {
    TokenLogprob token;
    std::vector<TokenLogprob> top;
};
[[nodiscard]] TokenLogprobs logprobs_of(std::span<const float> logits, TokenId token, std::uint32_t top);

/// The likeliest token; ties go to the lower id. Error: kInternal when no logit is a number.
Result<TokenId> greedy(std::span<const float> logits);

} // namespace flex::engine
