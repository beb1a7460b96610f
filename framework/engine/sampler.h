// Chooses the next token from logits. Deterministic: the same logits, options and seed give the same tokens
// on every machine (own generator, own exponential).
#pragma once

#include <cstdint>
#include <span>
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
};

/// Checks ranges (finite, temperature 0..100, top_p in (0, 1], min_p in [0, 1)). Error: kInvalidArgument.
Status check(const SamplerOptions& options);

/// One sequence, one thread.
class Sampler {
public:
    explicit Sampler(const SamplerOptions& options);

    /// Order: top-k, top-p, min-p (all on the probabilities at temperature 1), then temperature, then one
    /// draw. Ties go to the lower id. Error: kInternal when no logit is a number.
    Result<TokenId> sample(std::span<const float> logits);

private:
    struct Candidate {
        float logit;
        TokenId id;
    };
    double draw(); // [0, 1)

    SamplerOptions options_;
    std::uint64_t state_[4];
    std::vector<Candidate> candidates_;
    std::vector<double> weights_;
};

/// The likeliest token; ties go to the lower id. Error: kInternal when no logit is a number.
Result<TokenId> greedy(std::span<const float> logits);

} // namespace flex::engine
