#include "memory/policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace flex::memory {
namespace {

constexpr double kAssumedBandwidth = 100e6; // bytes/s, of a model that was never brought in

double decay(double age, const PolicyOptions& options) {
    return std::exp2(-std::max(age, 0.0) / options.half_life_seconds);
}

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

/// Of the models, by the view's index: 0..1, together at most 1.
struct Shares {
    std::vector<double> recent;
    std::vector<double> weight; ///< how likely the next request is this model's; 2: it is known to be
};

Shares shares_of(const MemoryView& view, const PolicyOptions& options) {
    double recent = 0, count = 0;
    for (const ModelView& model : view.models) {
        recent += model.recent;
        count += static_cast<double>(model.count);
    }
    Shares shares;
    for (const ModelView& model : view.models) {
        const auto repeated = [&](double counted) {
            return (1 - view.repetition) * counted + (model.last ? view.repetition : 0);
        };
        const double lately = share(model.recent, recent);
        const double ever = share(static_cast<double>(model.count), count);
        shares.recent.push_back(repeated(lately));
        shares.weight.push_back(
            model.next ? 2 : repeated(options.recent_weight * lately + (1 - options.recent_weight) * ever));
    }
    return shares;
}

std::vector<bool> hot_by(const Shares& shares, const MemoryView& view, const PolicyOptions& options) {
    const std::size_t count = view.models.size();
    std::vector<bool> hot(count);
    bool any = false;
    for (std::size_t i = 0; i < count; ++i) {
        hot[i] = shares.recent[i] > 0 && shares.recent[i] >= options.hot_share;
        any |= hot[i];
    }
    if (!any) {
        std::vector<std::size_t> order(count);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::ranges::stable_sort(order, std::greater(), [&](std::size_t i) { return shares.recent[i]; });
        for (std::size_t i = 0; i < std::min<std::size_t>(count, options.top); ++i)
            hot[order[i]] = shares.recent[order[i]] > 0;
    }
    for (std::size_t i = 0; i < count; ++i) hot[i] = hot[i] || view.models[i].next;
    return hot;
}

/// Which of the model's recent prompts would wait for the byte at `offset`, were it not resident: 0..1.
double waiting(const ModelView& model, double weight_bytes, double bandwidth, std::uint64_t offset) {
    if (model.prompts.empty() || model.prefill_rate <= 0) return 1;
    const auto waits = std::ranges::count_if(model.prompts, [&](std::uint32_t tokens) {
        return static_cast<double>(offset) <
               deadline_prefix(weight_bytes, bandwidth, tokens / model.prefill_rate);
    });
    return static_cast<double>(waits) / static_cast<double>(model.prompts.size());
}

void rank_model(std::uint32_t index, const ModelView& model, bool hot, double weight,
                std::vector<Unit>& units) {
    const double bandwidth = model.bandwidth > 0 ? model.bandwidth : kAssumedBandwidth;
    const auto total =
        static_cast<double>(std::reduce(model.stages.begin(), model.stages.end(), std::uint64_t{0}));
    std::uint64_t offset = 0;
    for (std::uint32_t stage = 0; stage < model.stages.size(); ++stage) {
        Unit unit;
        unit.index = index;
        unit.stage = stage;
        unit.resident = stage < model.resident;
        unit.offset = offset;
        unit.bytes = model.stages[stage];
        offset += unit.bytes;
        const double waits = model.pinned ? 1 : waiting(model, total, bandwidth, unit.offset);
        unit.value = weight * (waits > 0 ? waits : 1) / bandwidth;
        unit.tier = model.pinned ? Tier::kPinned
                    : waits > 0  ? (hot ? Tier::kHot : Tier::kCold)
                                 : (hot ? Tier::kHotHidden : Tier::kColdHidden);
        units.push_back(unit);
    }
}

void rank_session(std::uint32_t index, const SessionView& session, const PolicyOptions& options,
                  std::vector<Unit>& units) {
    Unit unit;
    unit.tier = session.pinned ? Tier::kPinned : Tier::kSession;
    unit.is_session = unit.resident = true;
    unit.index = index;
    unit.bytes = session.bytes;
    const double bytes = static_cast<double>(std::max<std::uint64_t>(session.bytes, 1));
    unit.value = session.recompute_seconds / bytes * decay(session.idle_seconds, options);
    units.push_back(unit);
}

Step step_of(const Unit& unit, bool comes) {
    return {unit.is_session, unit.index, unit.is_session ? 0 : unit.stage + (comes ? 1 : 0), unit.bytes};
}

/// From the end of the ranking, until `bytes` are free.
std::vector<Step> last_of(std::span<const Unit> ranked, std::uint64_t bytes) {
    std::vector<Step> steps;
    std::uint64_t freed = 0;
    for (auto unit = ranked.rbegin(); unit != ranked.rend() && freed < bytes; ++unit) {
        if (!unit->resident || unit->tier == Tier::kPinned) continue;
        steps.push_back(step_of(*unit, false));
        freed += unit->bytes;
    }
    return steps;
}

/// How many units at the beginning of the ranking fit.
std::size_t fitting(std::span<const Unit> ranked, std::uint64_t budget) {
    std::uint64_t used = 0;
    std::size_t count = 0;
    for (const Unit& unit : ranked) {
        const bool fits = used <= budget && unit.bytes <= budget - used;
        if (!fits && unit.tier != Tier::kPinned) break;
        used += unit.bytes;
        ++count;
    }
    return count;
}

} // namespace

void UseHistory::note(double now, std::uint32_t prompt_tokens, const PolicyOptions& options) {
    decayed_ = recent(now, options) + 1;
    at_ = std::max(now, at_);
    prompts_[count_ % kPrompts] = prompt_tokens;
    ++count_;
}

double UseHistory::recent(double now, const PolicyOptions& options) const {
    return decayed_ * decay(now - at_, options);
}

double deadline_prefix(double weight_bytes, double bandwidth, double prefill_seconds) {
    return std::max(0.0, weight_bytes - bandwidth * prefill_seconds);
}

void Repetition::note(bool again, double chance) {
    constexpr double kKeeps = 31.0 / 32; // what happened 32 requests ago counts a third
    again_ = again_ * kKeeps + (again ? 1 : 0);
    by_chance_ = by_chance_ * kKeeps + chance;
    all_ = all_ * kKeeps + 1;
}

double Repetition::excess() const {
    constexpr double kDoubt = 4; // requests that did not repeat, before the first
    return std::clamp((again_ - by_chance_) / (all_ - by_chance_ + kDoubt), 0.0, 1.0);
}

std::vector<bool> hot_models(const MemoryView& view, const PolicyOptions& options) {
    return hot_by(shares_of(view, options), view, options);
}

std::vector<Unit> ranking(const MemoryView& view, const PolicyOptions& options) {
    const Shares shares = shares_of(view, options);
    const std::vector<bool> hot = hot_by(shares, view, options);
    std::vector<Unit> units;
    for (std::uint32_t i = 0; i < view.models.size(); ++i) {
        rank_model(i, view.models[i], hot[i], shares.weight[i], units);
    }
    for (std::uint32_t i = 0; i < view.sessions.size(); ++i)
        rank_session(i, view.sessions[i], options, units);
    // Of equal worth, the earlier part of a model is: equal models share, instead of one having all.
    std::ranges::sort(units, [](const Unit& a, const Unit& b) {
        return std::tuple(a.tier, -a.value, a.offset, a.is_session, a.index, a.stage) <
               std::tuple(b.tier, -b.value, b.offset, b.is_session, b.index, b.stage);
    });
    return units;
}

Target target(const MemoryView& view, const PolicyOptions& options, std::uint64_t budget) {
    const std::vector<Unit> ranked = ranking(view, options);
    Target result;
    result.stages.resize(view.models.size());
    result.sessions.resize(view.sessions.size());
    for (const Unit& unit : std::span(ranked).first(fitting(ranked, budget))) {
        result.bytes += unit.bytes;
        if (unit.is_session)
            result.sessions[unit.index] = true;
        else
            result.stages[unit.index] = unit.stage + 1;
    }
    return result;
}

std::vector<Step> victims(const MemoryView& view, const PolicyOptions& options, std::uint64_t bytes) {
    return last_of(ranking(view, options), bytes);
}

Plan balance(const MemoryView& view, const PolicyOptions& options, std::uint64_t budget) {
    const std::vector<Unit> ranked = ranking(view, options);
    const std::vector<bool> hot = hot_models(view, options);
    Plan plan;
    std::uint64_t wanted = resident_bytes(view);
    for (const Unit& unit : std::span(ranked).first(fitting(ranked, budget))) {
        // A running request brings in its model by itself.
        if (unit.resident || unit.tier == Tier::kPinned || !hot[unit.index]) continue;
        plan.loads.push_back(step_of(unit, true));
        wanted += unit.bytes;
    }
    if (wanted > budget) plan.drops = last_of(ranked, wanted - budget);
    return plan;
}

std::uint64_t resident_bytes(const MemoryView& view) {
    std::uint64_t bytes = 0;
    for (const ModelView& model : view.models) {
        const auto resident = model.stages.first(std::min<std::size_t>(model.resident, model.stages.size()));
        bytes = std::reduce(resident.begin(), resident.end(), bytes);
    }
    for (const SessionView& session : view.sessions) bytes += session.bytes;
    return bytes;
}

} // namespace flex::memory
