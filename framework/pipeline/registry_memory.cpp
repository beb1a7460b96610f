// The registry's memory: carries out what the policy (memory/policy.h) decides.
#include <algorithm>

#include "pipeline/registry.h"

namespace flex::pipeline {

namespace {
using Clock = std::chrono::steady_clock;

constexpr double kAssumedPrefillRate = 100; // tokens/s, of a model that computed no prompt yet
constexpr double kAssumedReadRate = 100e6;  // bytes/s, of a store that nothing was read from yet

double seconds() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }
} // namespace

/// What the policy looks at, and whose it is. Valid while mutex_ is held.
struct Registry::Snapshot {
    std::vector<const Entry*> entries; // parallel to models and uses
    std::vector<ModelUse::Snapshot> uses;
    std::vector<memory::ModelView> models;
    std::vector<memory::SessionView> sessions;
    double repetition = 0;
    std::vector<std::pair<const Entry*, std::uint64_t>> conversations; // parallel to sessions

    [[nodiscard]] memory::MemoryView view() const { return {models, sessions, repetition}; }
    [[nodiscard]] bool any_pinned() const { return std::ranges::any_of(models, &memory::ModelView::pinned); }
};

/// mutex_ is held, so nobody comes to use a model that nobody uses.
Registry::Snapshot Registry::snapshot() const {
    Snapshot out;
    const auto store = store_status();
    const double read_rate = store && store->read_bandwidth > 0 ? store->read_bandwidth : kAssumedReadRate;
    out.uses.reserve(models_.size()); // the views point into it
    out.repetition = repetition_.excess();
    for (const auto& [name, entry] : models_) {
        const LoadedModel& weights = *entry.model->weights;
        const auto& use = out.uses.emplace_back(entry.model->use->snapshot());
        out.entries.push_back(&entry);
        memory::ModelView model;
        model.stages = weights.stage_bytes();
        model.resident = weights.stages_held();
        model.pinned = entry.model->in_use();
        model.last = name == last_;
        model.next = entry.expected;
        model.recent = use.recent;
        model.count = use.history.count();
        model.prompts = use.history.prompts();
        model.bandwidth = weights.streamed().bandwidth();
        model.prefill_rate = use.prefill_rate;
        out.models.push_back(model);
        const double rate = use.prefill_rate > 0 ? use.prefill_rate : kAssumedPrefillRate;
        for (const IdleConversation& idle : entry.model->conversations->list_idle()) {
            // What is in the store is read, unless computing it is faster.
            const auto stored = static_cast<double>(idle.saved_tokens),
                       all = static_cast<double>(idle.tokens);
            const double read = stored / all * static_cast<double>(idle.bytes) / read_rate;
            out.sessions.push_back({idle.bytes, idle.idle_seconds,
                                    (all - stored) / rate + std::min(read, stored / rate), false});
            out.conversations.emplace_back(&entry, idle.id);
        }
    }
    return out;
}

/// mutex_ is held. Returns what is free, or will be when `taken` goes.
std::uint64_t Registry::apply(const Snapshot& from, std::span<const memory::Step> drops, Taken& taken) {
    std::uint64_t freed = 0;
    for (const memory::Step& step : drops) {
        if (step.is_session) {
            const auto& [entry, id] = from.conversations[step.index];
            freed += entry->model->conversations->give_back(id);
        } else {
            freed += from.entries[step.index]->model->weights->drop(step.stages, taken.buffers);
        }
    }
    return freed;
}

/// mutex_ is held.
std::uint64_t Registry::release(std::uint64_t bytes, Taken& taken) {
    std::uint64_t freed = 0;
    for (const auto& [name, entry] : models_) freed += entry.model->kv->trim(); // which nobody uses
    while (freed < bytes) {
        const Snapshot now = snapshot();
        const auto drops = memory::victims(now.view(), options_.policy, bytes - freed);
        if (drops.empty()) break;
        freed += apply(now, drops, taken); // a stage in a loader's hands comes later and does not count
    }
    counters_.bytes_given_back += freed;
    return freed;
}

/// mutex_ is held. The last resort: what models have on the heap (tokenizer, scratch). One that nobody uses
/// and that no loader works for, so that its end waits for nobody; 0: there is none.
std::uint64_t Registry::close_idle(Taken& taken) {
    auto victim = models_.end();
    for (auto entry = models_.begin(); entry != models_.end(); ++entry) {
        const auto& model = entry->second.model;
        const bool idle = !model->in_use() && model->weights->quiet();
        if (idle && (victim == models_.end() || entry->second.last_use < victim->second.last_use))
            victim = entry;
    }
    if (victim == models_.end()) return 0;
    forget(victim->second, taken);
    models_.erase(victim);
    return 1; // how much the heap lets go is not known
}

/// For its loader. A request that has just ended, or a stage in another loader's hands, lets its memory go a
/// moment later; Linux may find some, too. Nobody waits for a model that is in use by nobody.
Room Registry::make_room_for(const ServedModel& served, std::uint64_t bytes,
                             std::chrono::nanoseconds refused_for) {
    if (make_room(bytes) > 0) return Room::kFreed;
    return served.in_use() && refused_for < options_.memory_patience ? Room::kLater : Room::kNone;
}

/// For loaders and KV caches, which must not wait for each other.
std::uint64_t Registry::make_room(std::uint64_t bytes) {
    Taken taken; // outlives the lock
    const std::lock_guard lock(mutex_);
    const std::uint64_t freed = release(bytes, taken);
    return freed > 0 ? freed : close_idle(taken);
}

std::uint64_t Registry::give_back(std::uint64_t bytes) {
    Taken taken; // outlives the lock
    const std::lock_guard lock(mutex_);
    pressure_.asked(seconds());
    ++counters_.asks;
    counters_.bytes_asked += bytes;
    std::uint64_t freed = release(bytes, taken);
    while (freed < bytes) {
        const std::uint64_t closed = close_idle(taken);
        if (closed == 0) break;
        freed += closed;
    }
    return freed;
}

void Registry::tend() {
    Taken taken; // outlives the lock
    const std::lock_guard lock(mutex_);
    const double now = seconds();
    for (const auto& [name, entry] : models_) {
        if (entry.model->weights->take_refusal()) pressure_.asked(now);
    }
    const Snapshot have = snapshot();
    const std::uint64_t limit = options_.cache_bytes == 0 ? UINT64_MAX : options_.cache_bytes;
    const memory::Plan plan = memory::balance(have.view(), options_.policy, limit);
    if (have.any_pinned()) { // what runs has the machine, but for what is known to come next
        begin_loads(have, plan.loads, true);
    } else if (pressure_.calm(now)) {
        counters_.bytes_given_back += apply(have, plan.drops, taken);
        begin_loads(have, plan.loads, false);
    } else if (const std::uint64_t held = memory::resident_bytes(have.view()); held > limit) {
        release(held - limit, taken);
    }
}

/// mutex_ is held.
void Registry::begin_loads(const Snapshot& from, std::span<const memory::Step> loads, bool expected_only) {
    for (const memory::Step& step : loads) {
        const Entry& entry = *from.entries[step.index];
        if (expected_only && !entry.expected) continue;
        if (entry.model->weights->prefetch(step.stages)) ++counters_.prefetches;
        pressure_.refilled(seconds());
    }
}

Status Registry::expect(const std::string& name, bool expected) {
    if (expected) {
        const std::lock_guard one_at_a_time(open_mutex_);
        FLEX_TRY(get_or_open(name));
    }
    {
        const std::lock_guard lock(mutex_);
        if (const auto found = models_.find(name); found != models_.end()) found->second.expected = expected;
    }
    tend();
    return {};
}

std::vector<ModelStatus> Registry::status() const {
    const std::lock_guard lock(mutex_);
    const Snapshot now = snapshot();
    const std::vector<bool> hot = memory::hot_models(now.view(), options_.policy);
    std::vector<ModelStatus> all;
    for (const auto& [name, entry] : models_) {
        const LoadedModel& weights = *entry.model->weights;
        const std::chrono::duration<double> idle = Clock::now() - entry.last_use;
        all.push_back({name, weights.info().kind, weights.info().version, weights.info().bytes,
                       weights.bytes_loaded(), entry.model->context, entry.model->in_use(), idle.count(),
                       weights.model().stages(), weights.stages_loaded(), hot[all.size()],
                       entry.model->conversations->idle(), entry.model->conversations->status(),
                       entry.model->kv->layout().block_bytes()});
    }
    return all;
}

CacheCounters Registry::counters() const {
    const std::lock_guard lock(mutex_);
    CacheCounters sum = counters_;
    for (const auto& [name, entry] : models_) {
        const StreamCounters streamed = entry.model->weights->streamed();
        sum.stages_streamed += streamed.stages;
        sum.bytes_streamed += streamed.bytes;
    }
    return sum;
}

} // namespace flex::pipeline
