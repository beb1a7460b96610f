#include "sim/simulator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "sim/cache.h"

namespace flex::sim {

std::uint64_t Model::bytes() const {
    std::uint64_t sum = 0;
    for (const Stage& stage : stages) sum += stage.bytes;
    return sum;
}

Model make_model(std::string name, std::uint64_t embedding_bytes, std::uint32_t layers,
                 std::uint64_t layer_bytes, std::uint64_t head_bytes, double prefill_rate,
                 double decode_rate) {
    Model model{std::move(name), {}, prefill_rate, decode_rate};
    model.stages.push_back({embedding_bytes, 0}); // a row a token is looked up
    for (std::uint32_t i = 0; i < layers; ++i) model.stages.push_back({layer_bytes, 1.0 / layers});
    model.stages.push_back({head_bytes, 0}); // for the last token only
    return model;
}

double Device::bandwidth() const { return std::min(load_bandwidth, decrypt_bandwidth); }

const char* name_of(Strategy strategy) {
    switch (strategy) {
    case Strategy::kAllFits:
        return "all fits";
    case Strategy::kPolicy:
        return "policy";
    case Strategy::kModelLru:
        return "model LRU";
    case Strategy::kPageLru:
        return "page LRU";
    case Strategy::kNoCache:
        return "no cache";
    }
    return "?";
}

double first_token(const Device& device, const Model& model, std::uint32_t prompt,
                   std::span<const std::uint64_t> missing) {
    const double prefill = prompt / model.prefill_rate;
    double loaded = 0, decrypted = 0, computed = 0;
    for (std::size_t i = 0; i < model.stages.size(); ++i) {
        if (missing[i] > 0) {
            const auto bytes = static_cast<double>(missing[i]);
            loaded += bytes / device.load_bandwidth;
            decrypted = std::max(decrypted, loaded) + bytes / device.decrypt_bandwidth;
            computed = std::max(computed, decrypted);
        }
        computed += prefill * model.stages[i].compute_share;
    }
    return computed;
}

namespace {

std::uint64_t budget_for(Strategy strategy, std::uint64_t bytes) {
    if (strategy == Strategy::kAllFits) return UINT64_MAX;
    return strategy == Strategy::kNoCache ? 0 : bytes;
}

} // namespace

std::vector<Outcome> simulate(const Device& device, const Trace& trace, Strategy strategy,
                              const memory::PolicyOptions& options) {
    const auto cache = make_cache(device, strategy, options);
    std::vector<Outcome> outcomes;
    double now = 0;
    std::uint64_t budget = budget_for(strategy, trace.budgets.empty() ? 0 : trace.budgets.front().bytes);
    std::size_t change = 0;
    std::vector<bool> waiting(device.models.size());
    for (std::size_t i = 0; i < trace.requests.size(); ++i) {
        const Request& request = trace.requests[i];
        const double start = std::max(now, request.at);
        for (; change < trace.budgets.size() && trace.budgets[change].at <= start; ++change) {
            const double at = std::max(trace.budgets[change].at, now);
            if (at > now) cache->rest(now, at, budget);
            now = at;
            budget = budget_for(strategy, trace.budgets[change].bytes);
            cache->limit(now, budget, waiting);
        }
        if (start > now) cache->rest(now, start, budget);
        const Model& model = device.models[request.model];
        const std::vector<std::uint64_t> missing = cache->missing(request.model);
        Outcome outcome;
        outcome.queued = start - request.at;
        outcome.ttft = first_token(device, model, request.prompt, missing);
        for (const std::uint64_t bytes : missing) outcome.streamed += bytes;
        outcomes.push_back(outcome);
        now = start + outcome.ttft + request.answer / model.decode_rate;
        cache->used(request, start + outcome.ttft, now);
        waiting.assign(waiting.size(), false);
        for (std::size_t next = i + 1; next < trace.requests.size() && trace.requests[next].at <= now; ++next)
            waiting[trace.requests[next].model] = true;
        cache->limit(now, budget, waiting);
    }
    return outcomes;
}

Summary summarise(std::span<const Outcome> outcomes, std::size_t skip) {
    outcomes = outcomes.subspan(std::min(skip, outcomes.size()));
    Summary summary;
    if (outcomes.empty()) return summary;
    std::vector<double> ttft;
    for (const Outcome& outcome : outcomes) {
        ttft.push_back(outcome.ttft);
        summary.mean_ttft += outcome.ttft;
        summary.mean_queued += outcome.queued;
        summary.streamed_bytes += static_cast<double>(outcome.streamed);
    }
    const auto count = static_cast<double>(outcomes.size());
    for (double* sum : {&summary.mean_ttft, &summary.mean_queued, &summary.streamed_bytes}) *sum /= count;
    std::ranges::sort(ttft);
    // Nearest rank: the smallest that at least this share does not exceed.
    const auto rank = [&](double share) {
        return ttft[static_cast<std::size_t>(std::ceil(share * count)) - 1];
    };
    summary.median_ttft = rank(0.5);
    summary.p95_ttft = rank(0.95);
    return summary;
}

} // namespace flex::sim
