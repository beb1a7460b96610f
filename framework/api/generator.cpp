#include "api/generator.h"

#include <algorithm>
#include <new>

namespace flex::api {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t nanoseconds_since(Clock::time_point begin) {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count());
}

} // namespace

Generator::~Generator() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        for (const Shared& generation : queue_) generation->cancel();
        for (const Shared& generation : visible_) generation->cancel();
        wake_.notify_all();
    }
    thread_.join();
}

Status Generator::submit(std::shared_ptr<Generation> generation) {
    const std::lock_guard lock(mutex_);
    // Those that find a place at once do not wait.
    const std::size_t places = options_.max_running - std::min(options_.max_running, visible_.size());
    if (queue_.size() >= options_.max_waiting + places) {
        return fail(ErrorCode::kBusy,
                    std::to_string(queue_.size()) + " requests are waiting already; try again later");
    }
    ++submitted_;
    if (computing_ != nullptr) computing_->give_way();
    queue_.push_back(std::move(generation));
    wake_.notify_all();
    return {};
}

GeneratorStatus Generator::status() const {
    const std::lock_guard lock(mutex_);
    GeneratorStatus status = status_;
    status.waiting = queue_.size();
    status.running = visible_.size();
    status.busy = !visible_.empty();
    return status;
}

void Generator::work() {
    while (wait_for_work()) {
        admit();
        if (running_.empty()) continue;
        pass(choose());
    }
}

/// The requests of the model whose turn it is: models take turns, a pass each, but those that are not all in
/// memory yet only when there is no other.
std::vector<Generator::Shared> Generator::choose() {
    ++turn_;
    std::size_t chosen = turn_ % running_.size();
    for (std::size_t i = 0; i < running_.size(); ++i) {
        const std::size_t next = (turn_ + i) % running_.size();
        if (!running_[next]->model_->weights->settled()) continue;
        chosen = next;
        break;
    }
    std::vector<Shared> group;
    for (const Shared& generation : running_) {
        if (generation->model_ == running_[chosen]->model_) group.push_back(generation);
    }
    return group;
}

/// False when there is nothing left to do, for ever.
bool Generator::wait_for_work() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stop_ || !queue_.empty() || !running_.empty(); });
    return !queue_.empty() || !running_.empty();
}

/// Starts those that wait, in order, as long as there is room.
void Generator::admit() {
    for (;;) {
        Shared next;
        {
            const std::lock_guard lock(mutex_);
            seen_ = submitted_;
            if (queue_.empty()) return;
            const Shared& first = queue_.front();
            const bool room = running_.size() < options_.max_running && fits(*first);
            if (!room && !first->cancelled()) return;
            next = std::move(queue_.front());
            queue_.pop_front();
            visible_.push_back(next);
        }
        running_.push_back(next);
        Status started = [&]() -> Status {
            try {
                return next->start();
            } catch (const std::bad_alloc&) {
                return fail(ErrorCode::kOutOfMemory, "the request needs more memory than there is");
            }
        }();
        if (!started.ok()) end(next, started);
    }
}

/// Whether the KV cache holds all that the running requests of its model may come to need, and this one too.
/// The first of a model always fits: its context is no longer than the cache.
bool Generator::fits(const Generation& generation) const {
    const engine::KvPool& pool = *generation.model_->kv;
    const auto blocks = [](const Generation& g) {
        return (g.most_tokens() + engine::kKvBlockTokens - 1) / engine::kKvBlockTokens;
    };
    std::size_t needed = blocks(generation);
    bool first = true;
    for (const Shared& other : running_) {
        if (other->model_ != generation.model_) continue;
        first = false;
        needed += blocks(*other);
    }
    return first || needed <= pool.limit();
}

/// What each computes in a pass: a token those that answer, pieces of their prompts the others. Some may get
/// no turn.
std::vector<engine::BatchPart> Generator::parts(const std::vector<Shared>& group,
                                                std::vector<Shared>& owners) {
    const std::size_t rows = group.front()->model_->batch->rows();
    const auto prompts = static_cast<std::size_t>(
        std::ranges::count_if(group, [](const Shared& generation) { return generation->in_prompt(); }));
    const std::size_t answers = group.size() - prompts;
    std::size_t budget = rows - std::min(rows, answers);
    if (group.size() > 1) budget = std::min(budget, options_.shared_prompt_tokens);
    std::size_t left = prompts;
    std::vector<engine::BatchPart> parts;
    for (const Shared& generation : group) {
        // An equal share each; what a short prompt leaves over goes to the later ones.
        const bool in_prompt = generation->in_prompt();
        const std::size_t share = in_prompt ? budget / left-- : 1;
        if (share == 0) continue;
        parts.push_back(generation->next(share));
        owners.push_back(generation);
        if (in_prompt) budget -= parts.back().tokens.size();
    }
    return parts;
}

/// Who computes a pass: what the first request says that says something.
engine::NpuUse Generator::npu_use(const std::vector<Shared>& group) const {
    for (const Shared& generation : group)
        if (generation->options_.npu) return *generation->options_.npu;
    return options_.npu;
}

/// One pass for requests of one model.
void Generator::pass(const std::vector<Shared>& group) {
    const auto model = group.front()->model_; // stays, whoever ends
    {
        const std::lock_guard lock(mutex_);
        computing_ = model->weights.get();
        // Whoever comes or goes from here on interrupts the waiting for weights; who came since admit()
        // looked, does now.
        computing_->wait_again();
        if (submitted_ != seen_) computing_->give_way();
    }
    engine::Batch& batch = *model->batch;
    std::vector<Shared> owners;
    std::vector<engine::BatchPart> parts = this->parts(group, owners);
    const auto begin = Clock::now();
    const engine::BatchTimings before = batch.timings();
    batch.use_npu(npu_use(owners));
    const bool wanted = std::ranges::none_of(owners, [](const Shared& g) { return g->cancelled(); });
    Status computed = fail(ErrorCode::kBusy, "some have left");
    if (wanted) computed = batch.run(parts);
    {
        const std::lock_guard lock(mutex_);
        computing_ = nullptr;
    }
    const engine::BatchTimings& after = batch.timings();
    const Generation::PassTimes times{nanoseconds_since(begin),
                                      after.weights_wait_ns - before.weights_wait_ns,
                                      after.npu_ns - before.npu_ns, after.npu_passes - before.npu_passes};
    for (std::size_t i = 0; i < parts.size(); ++i) {
        Result<bool> done = [&]() -> Result<bool> {
            if (!computed && computed.error().code == ErrorCode::kBusy) return false; // another time
            FLEX_TRY(computed);
            try {
                return owners[i]->advance(parts[i], times);
            } catch (const std::bad_alloc&) {
                return fail(ErrorCode::kOutOfMemory, "the answer needs more memory than there is");
            }
        }();
        if (!done)
            end(owners[i], done.error());
        else if (*done)
            end(owners[i], {});
        else if (owners[i]->cancelled())
            end(owners[i], fail(ErrorCode::kCancelled, "cancelled"));
    }
}

void Generator::end(const Shared& generation, const Status& status) {
    std::erase(running_, generation);
    {
        const std::lock_guard lock(mutex_);
        std::erase(visible_, generation);
        if (status.ok())
            ++status_.done;
        else if (status.error().code == ErrorCode::kCancelled)
            ++status_.cancelled;
        else
            ++status_.failed;
    }
    generation->finish(status);
}

} // namespace flex::api
