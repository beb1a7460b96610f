#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

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
    return {};
}

Result<TokenId> greedy(std::span<const float> logits) {
    float most = 0;
    std::size_t best = logits.size();
    for (std::size_t i = 0; i < logits.size(); ++i) {
        if (std::isfinite(logits[i]) && (best == logits.size() || logits[i] > most)) {
            most = logits[i];
            best = i;
        }
    }
    if (best == logits.size()) return no_number();
    return static_cast<TokenId>(best);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
    std::uint64_t seed = options.seed;
    for (std::uint64_t& word : state_) word = next_seed(seed);
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

} // namespace flex::engine
