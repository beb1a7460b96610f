#include "sim/trace.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

namespace flex::sim {
namespace {

constexpr double kLeastPrompt = 8, kMostPrompt = 4096;

/// The standard fixes the generator, but not its distributions: these are our own.
class Random {
public:
    explicit Random(std::uint64_t seed) : bits_(seed) {}
    /// 0 < u < 1
    double uniform() { return (static_cast<double>(bits_() >> 12) + 0.5) * 0x1p-52; }
    double exponential(double mean) { return -mean * std::log(uniform()); }
    double normal() { // Box-Muller
        const double radius = std::sqrt(-2 * std::log(uniform()));
        return radius * std::cos(2 * std::numbers::pi * uniform());
    }
    std::size_t one_of(const std::vector<double>& weights) {
        double sum = 0;
        for (const double weight : weights) sum += weight;
        double left = uniform() * sum;
        for (std::size_t i = 0; i + 1 < weights.size(); ++i) {
            left -= weights[i];
            if (left < 0) return i;
        }
        return weights.size() - 1;
    }

private:
    std::mt19937_64 bits_;
};

} // namespace

std::vector<Request> make_requests(const TraceOptions& options) {
    std::vector<double> weights;
    for (std::uint32_t k = 0; k < options.models; ++k) weights.push_back(std::pow(k + 1.0, -options.zipf));
    Random random(options.seed);
    std::vector<Request> requests;
    double now = 0;
    while (requests.size() < options.requests) {
        now += random.exponential(options.gap_seconds);
        const auto model = static_cast<std::uint32_t>(random.one_of(weights));
        for (std::uint32_t i = 0; i < options.burst && requests.size() < options.requests; ++i) {
            if (i > 0 && options.think_seconds > 0) now += random.exponential(options.think_seconds);
            const double tokens = options.prompt_median * std::exp(options.prompt_sigma * random.normal());
            requests.push_back({now, model,
                                static_cast<std::uint32_t>(std::clamp(tokens, kLeastPrompt, kMostPrompt)),
                                options.answer});
        }
    }
    return requests;
}

std::vector<Budget> make_pressure(std::uint64_t full, std::uint64_t low, double seconds) {
    constexpr int kSteps = 8; // down; then as long low; then up
    std::vector<Budget> budgets{{0, full}};
    for (int i = 1; i <= kSteps; ++i) {
        const auto fallen = (full - low) / kSteps * static_cast<std::uint64_t>(i);
        budgets.push_back({seconds * i / (3 * kSteps), full - fallen});
    }
    for (int i = 1; i <= kSteps; ++i) {
        const auto left = (full - low) / kSteps * static_cast<std::uint64_t>(kSteps - i);
        budgets.push_back({seconds * (2 * kSteps + i) / (3 * kSteps), full - left});
    }
    return budgets;
}

} // namespace flex::sim
