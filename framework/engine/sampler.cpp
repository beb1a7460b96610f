#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "engine/kernels/exact.h"

namespace flex::engine {

namespace {

std::uint64_t rotate_left(std::uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

/// splitmix64: spreads a seed (even 0) over the generator's state.
std::uint64_t next_seed(std::uint64_t& x) {
    x += 0x9e3779b97f4a7c15ull;
    std::uint64_t z = x;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

Error no_number() {
    return fail(ErrorCode::kInternal, "the model computed no finite logit (are its weights damaged?)");
}

} // namespace

Status check(const SamplerOptions& options) {
    // Written so that NaN fails.
    if (!(options.temperature >= 0.0F && options.temperature <= 100.0F)) {
        return fail(ErrorCode::kInvalidArgument, "temperature must be from 0 to 100");
    }
    if (!(options.top_p > 0.0F && options.top_p <= 1.0F)) {
        return fail(ErrorCode::kInvalidArgument, "top_p must be above 0 and at most 1");
    }
    if (!(options.min_p >= 0.0F && options.min_p < 1.0F)) {
        return fail(ErrorCode::kInvalidArgument, "min_p must be at least 0 and below 1");
    }
    if (!(options.repeat_penalty >= 0.1F && options.repeat_penalty <= 10.0F)) {
        return fail(ErrorCode::kInvalidArgument, "repeat_penalty must be from 0.1 to 10");
    }
    if (!(options.presence_penalty >= -2.0F && options.presence_penalty <= 2.0F)) {
        return fail(ErrorCode::kInvalidArgument, "presence_penalty must be from -2 to 2");
    }
    if (!(options.frequency_penalty >= -2.0F && options.frequency_penalty <= 2.0F)) {
        return fail(ErrorCode::kInvalidArgument, "frequency_penalty must be from -2 to 2");
    }
    if (options.logit_bias.size() > kMaxLogitBias) {
        return fail(ErrorCode::kInvalidArgument,
                    "logit_bias may name " + std::to_string(kMaxLogitBias) + " tokens at most");
    }
    for (const auto& [token, bias] : options.logit_bias) {
        if (!(bias >= -100.0F && bias <= 100.0F)) {
            return fail(ErrorCode::kInvalidArgument,
                        "logit_bias of token " + std::to_string(token) + " must be from -100 to 100");
        }
    }
    return {};
}

namespace {

constexpr std::int32_t kNoNumber = std::numeric_limits<std::int32_t>::min();

/// Integers in the order of the floats they are made of, both zeros the same; kNoNumber for what is not finite.
/// Vectors of integers are fast everywhere; comparing floats is not where the processor is emulated. Without
/// branches, which GCC 12 would not turn into vectors.
std::int32_t order_of(float value) {
    const auto bits = std::bit_cast<std::int32_t>(value);
    const std::int32_t magnitude = bits & 0x7fffffff, sign = bits >> 31;
    const std::int32_t finite = (magnitude - 0x7f800000) >> 31; // all ones, or none
    return (((magnitude ^ sign) - sign) & finite) | (kNoNumber & ~finite);
}

std::int32_t most_of(std::span<const float> some) {
    std::int32_t most = kNoNumber;
    for (const float value : some) most = std::max(most, order_of(value));
    return most;
}

} // namespace

Result<TokenId> greedy(std::span<const float> logits) {
    constexpr std::size_t kBlock = 1024;
    std::int32_t most = kNoNumber;
    std::size_t where = 0; // the block in which it is found first
    for (std::size_t i = 0; i < logits.size(); i += kBlock) {
        const std::int32_t here = most_of(logits.subspan(i, std::min(kBlock, logits.size() - i)));
        if (here > most) {
            most = here;
            where = i;
        }
    }
    if (most == kNoNumber) return no_number();
    const auto first = std::ranges::find(logits.subspan(where), most, order_of);
    return static_cast<TokenId>(first - logits.begin());
}

Sampler::Sampler(const SamplerOptions& options, std::span<const TokenId> prompt) : options_(options) {
    std::uint64_t seed = options.seed;
    for (std::uint64_t& word : state_) word = next_seed(seed);
    recent_.assign(prompt.end() - static_cast<std::ptrdiff_t>(std::min(prompt.size(), kRepeatWindow)),
                   prompt.end());
}

void Sampler::remember(TokenId token) {
    if (options_.presence_penalty != 0.0F || options_.frequency_penalty != 0.0F) ++counts_[token];
    if (options_.repeat_penalty == 1.0F) return;
    if (recent_.size() < kRepeatWindow) {
        recent_.push_back(token);
    } else {
        recent_[recent_at_] = token;
        recent_at_ = (recent_at_ + 1) % kRepeatWindow;
    }
}

/// The logits themselves when nothing is asked of them: greedy stays exactly the model's choice.
std::span<const float> Sampler::adjusted(std::span<const float> logits) {
    const bool repeats = options_.repeat_penalty != 1.0F;
    if (!repeats && counts_.empty() && options_.logit_bias.empty()) return logits;
    adjusted_.assign(logits.begin(), logits.end());
    if (repeats) {
        std::vector<TokenId> seen = recent_;
        std::sort(seen.begin(), seen.end());
        seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
        for (const TokenId token : seen) {
            if (token >= adjusted_.size()) continue;
            float& logit = adjusted_[token];
            logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
        }
    }
    for (const auto& [token, count] : counts_) {
        adjusted_[token] -=
            options_.presence_penalty + options_.frequency_penalty * static_cast<float>(count);
    }
    for (const auto& [token, bias] : options_.logit_bias) {
        if (token < adjusted_.size()) adjusted_[token] += bias;
    }
    return adjusted_;
}

/// xoshiro256++
double Sampler::draw() {
    const std::uint64_t out = rotate_left(state_[0] + state_[3], 23) + state_[0];
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate_left(state_[3], 45);
    return static_cast<double>(out >> 11) * 0x1p-53;
}

Result<TokenId> Sampler::sample(std::span<const float> logits) {
    auto token = choose(adjusted(logits));
    if (token) remember(*token);
    return token;
}

Result<TokenId> Sampler::choose(std::span<const float> logits) {
    if (options_.temperature <= 0.0F) return greedy(logits);
    candidates_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i) {
        if (std::isfinite(logits[i])) candidates_.push_back({logits[i], static_cast<TokenId>(i)});
    }
    if (candidates_.empty()) return no_number();
    const auto likelier = [](const Candidate& a, const Candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    std::size_t keep = candidates_.size();
    if (options_.top_k != 0) keep = std::min<std::size_t>(keep, options_.top_k);
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(keep),
                      candidates_.end(), likelier);

    // Relative to the likeliest, whose weight is 1.
    const float most = candidates_[0].logit;
    weights_.resize(keep);
    double total = 0;
    for (std::size_t i = 0; i < keep; ++i) total += weights_[i] = exact_exp(candidates_[i].logit - most);

    double sum = 0;
    for (std::size_t i = 0; i < keep && options_.top_p < 1.0F; ++i) {
        sum += weights_[i];
        if (sum >= options_.top_p * total) keep = i + 1;
    }
    while (keep > 1 && weights_[keep - 1] < options_.min_p) --keep; // sorted: the least likely are last

    total = 0;
    for (std::size_t i = 0; i < keep; ++i) {
        total += weights_[i] = exact_exp((candidates_[i].logit - most) / options_.temperature);
    }
    double target = draw() * total;
    for (std::size_t i = 0; i < keep; ++i) {
        target -= weights_[i];
        if (target < 0) return candidates_[i].id;
    }
    return candidates_[keep - 1].id;
}

TokenLogprobs logprobs_of(std::span<const float> logits, TokenId token, std::uint32_t top) {
    float most = -std::numeric_limits<float>::infinity();
    for (const float logit : logits) {
        if (std::isfinite(logit)) most = std::max(most, logit);
    }
    double total = 0;
    for (const float logit : logits) {
        if (std::isfinite(logit)) total += exact_exp(logit - most);
    }
    const double log_total = std::log(total);
    // What JSON cannot say (minus infinity) becomes a number as small as the API's own.
    constexpr float kImpossible = -9999.0F;
    const auto logprob = [&](TokenId id) {
        if (id >= logits.size() || !std::isfinite(logits[id])) return kImpossible;
        return static_cast<float>(static_cast<double>(logits[id]) - most - log_total);
    };
    TokenLogprobs out{{token, logprob(token)}, {}};
    std::vector<TokenId> ids(top == 0 ? 0 : logits.size());
    std::iota(ids.begin(), ids.end(), 0u);
    const auto keep = static_cast<std::ptrdiff_t>(std::min<std::size_t>(top, ids.size()));
    std::partial_sort(ids.begin(), ids.begin() + keep, ids.end(), [&](TokenId a, TokenId b) {
        const float x = std::isfinite(logits[a]) ? logits[a] : -std::numeric_limits<float>::infinity();
        const float y = std::isfinite(logits[b]) ? logits[b] : -std::numeric_limits<float>::infinity();
        return x != y ? x > y : a < b;
    });
    for (std::ptrdiff_t i = 0; i < keep; ++i)
        out.top.push_back({ids[static_cast<std::size_t>(i)], logprob(ids[static_cast<std::size_t>(i)])});
    return out;
}

} // namespace flex::engine
