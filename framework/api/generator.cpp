#include "api/generator.h"

#include <algorithm>
#include <new>
#include <system_error>

namespace flex::api {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t nanoseconds_since(Clock::time_point begin) {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count());
}

/// Until Linux, which told of no reason, is asked again for memory that it refused.
constexpr std::chrono::milliseconds kMemoryPause(50);

} // namespace

/// The requests of one model.
struct Generator::Lane {
    explicit Lane(std::shared_ptr<pipeline::ServedModel> m) : model(std::move(m)) {}

    const std::shared_ptr<pipeline::ServedModel> model;
    std::vector<Shared> running; // of the thread that serves the lane; in the order of their arrival

    // Guarded by the generator's mutex:
    std::deque<Shared> queue;
    std::vector<Shared> visible;           // running, for those who cancel and count
    bool taken = false;                    // a thread serves it
    bool in_pass = false;                  // and computes
    std::uint64_t submitted = 0, seen = 0; // requests ever, and how many of them admit() looked at
};

Generator::Generator(const GeneratorOptions& options) : options_(options) {}

Generator::~Generator() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        for (const auto& lane : lanes_) {
            for (const Shared& generation : lane->queue) generation->cancel();
            for (const Shared& generation : lane->visible) generation->cancel();
        }
        wake_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
}

/// mutex_ is held, as for the next two.
Generator::Lane& Generator::lane_of(const Generation& generation) {
    const auto found =
        std::ranges::find_if(lanes_, [&](const auto& lane) { return lane->model == generation.model_; });
    if (found != lanes_.end()) return **found;
    lanes_.push_back(std::make_unique<Lane>(generation.model_));
    ++untaken_;
    return *lanes_.back();
}

Status Generator::add_thread() {
    if (untaken_ <= idle_ || threads_.size() >= options_.max_lanes) return {};
    try {
        threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
        if (threads_.empty())
            return fail(ErrorCode::kOutOfMemory, "the system gives no thread to compute with; try again");
    }
    return {};
}

Status Generator::submit(std::shared_ptr<Generation> generation) {
    const std::lock_guard lock(mutex_);
    std::size_t all = 0;
    for (const auto& lane : lanes_) all += lane->queue.size() + lane->visible.size();
    Lane& lane = lane_of(*generation);
    // Those that find a place at once do not wait.
    const std::size_t places = options_.max_running - std::min(options_.max_running, lane.visible.size());
    Status status;
    if (all >= options_.max_requests || lane.queue.size() >= options_.max_waiting + places) {
        const std::size_t waiting = all >= options_.max_requests ? all : lane.queue.size();
        status = fail(ErrorCode::kBusy, std::to_string(waiting) + " requests are " +
                                            (all >= options_.max_requests ? "under way" : "waiting") +
                                            " already; try again later");
    } else {
        status = add_thread();
    }
    if (!status.ok()) {
        if (lane.submitted == 0) { // made for this one
            lanes_.pop_back();
            --untaken_;
        }
        return status;
    }
    ++lane.submitted;
    if (lane.in_pass) lane.model->weights->give_way(); // if it waits for weights, the new one may join it
    lane.queue.push_back(std::move(generation));
    lane.model->conversations->wake(); // if it waits for the store
    wake_.notify_one();
    return {};
}

GeneratorStatus Generator::status() const {
    const std::lock_guard lock(mutex_);
    GeneratorStatus status = status_;
    for (const auto& lane : lanes_) {
        status.waiting += lane->queue.size();
        status.running += lane->visible.size();
    }
    status.busy = status.running > 0;
    return status;
}

std::map<std::string, ModelCounters> Generator::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

/// A thread's life: lane after lane.
void Generator::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        ++idle_;
        wake_.wait(lock, [&] { return untaken_ > 0 || stop_; });
        --idle_;
        const auto free = std::ranges::find_if(lanes_, [](const auto& lane) { return !lane->taken; });
        if (free == lanes_.end()) return; // stop_, and the other threads end the rest
        Lane& lane = **free;
        lane.taken = true;
        --untaken_;
        lock.unlock();
        serve(lane);
        lock.lock();
        // What waits in it lets the lanes go first that have no thread.
        const auto served = std::ranges::find_if(lanes_, [&](const auto& l) { return l.get() == &lane; });
        std::unique_ptr<Lane> mine = std::move(*served);
        lanes_.erase(served);
        if (!mine->queue.empty()) {
            mine->taken = false;
            ++untaken_;
            lanes_.push_back(std::move(mine));
        }
        lock.unlock();
        mine.reset(); // perhaps the model with it: without the lock
        lock.lock();
    }
}

/// Until nothing of it runs and nothing waits, or another lane needs the thread.
void Generator::serve(Lane& lane) {
    for (bool first = true;; first = false) {
        if (lane.running.empty()) {
            const std::lock_guard lock(mutex_);
            const bool needed_elsewhere = untaken_ > 0 && idle_ == 0;
            if (lane.queue.empty() || (needed_elsewhere && !first)) return;
        }
        admit(lane);
        if (!lane.running.empty()) pass(lane);
    }
}

/// Starts those that wait, in order, as long as there is room.
void Generator::admit(Lane& lane) {
    for (;;) {
        Shared next;
        {
            const std::lock_guard lock(mutex_);
            lane.seen = lane.submitted;
            if (lane.queue.empty()) return;
            const Shared& first = lane.queue.front();
            const bool room = lane.running.size() < options_.max_running && fits(lane, *first) &&
                              (untaken_ == 0 || idle_ > 0 || lane.running.empty());
            if (!room && !first->cancelled()) return;
            next = std::move(lane.queue.front());
            lane.queue.pop_front();
            lane.visible.push_back(next);
        }
        lane.running.push_back(next);
        Status started = [&]() -> Status {
            try {
                return next->start();
            } catch (const std::bad_alloc&) {
                return fail(ErrorCode::kOutOfMemory, "the request needs more memory than there is");
            }
        }();
        if (!started.ok()) end(lane, next, started);
    }
}

/// Whether the KV cache holds all that the running requests may come to need, and this one too. The first
/// always fits: its context is no longer than the cache.
bool Generator::fits(const Lane& lane, const Generation& generation) {
    const auto blocks = [](const Generation& g) {
        return (g.most_tokens() + engine::kKvBlockTokens - 1) / engine::kKvBlockTokens;
    };
    std::size_t needed = blocks(generation);
    for (const Shared& other : lane.running) needed += blocks(*other);
    return lane.running.empty() || needed <= lane.model->kv->limit();
}

/// What each computes in a pass: a token those that answer, pieces of their prompts the others. Some may get
/// no turn, or wait for what another of their caller computes, or for the store. Nothing: all wait for it.
std::vector<engine::BatchPart> Generator::parts(Lane& lane, std::vector<Shared>& owners) const {
    std::vector<Shared> computing;
    for (auto it = lane.running.begin(); it != lane.running.end(); ++it) {
        Generation& generation = **it;
        generation.catch_up();
        if (generation.waits_for_store()) continue;
        const auto ahead = [&](const Shared& earlier) { return generation.waits_for(*earlier); };
        if (std::none_of(lane.running.begin(), it, ahead)) computing.push_back(*it);
    }
    const auto prompts = static_cast<std::size_t>(
        std::ranges::count_if(computing, [](const Shared& generation) { return generation->in_prompt(); }));
    const std::size_t rows = lane.model->batch->rows(), answers = computing.size() - prompts;
    std::size_t budget = rows - std::min(rows, answers);
    if (computing.size() > 1) budget = std::min(budget, options_.shared_prompt_tokens);
    std::size_t left = prompts;
    std::vector<engine::BatchPart> parts;
    for (const Shared& generation : computing) {
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

void Generator::pass(Lane& lane) {
    {
        const std::lock_guard lock(mutex_);
        // Whoever comes or goes from here on interrupts the waiting for weights; who came since admit()
        // looked, does now.
        lane.in_pass = true;
        lane.model->weights->wait_again();
        if (lane.submitted != lane.seen) lane.model->weights->give_way();
    }
    engine::Batch& batch = *lane.model->batch;
    std::vector<Shared> owners;
    std::vector<engine::BatchPart> parts = this->parts(lane, owners);
    if (parts.empty()) return wait_for_store(lane);
    const auto begin = Clock::now();
    const engine::BatchTimings before = batch.timings();
    batch.use_npu(npu_use(owners));
    const bool wanted = std::ranges::none_of(owners, [](const Shared& g) { return g->cancelled(); });
    Status computed = fail(ErrorCode::kBusy, "some have left");
    if (wanted) computed = batch.run(parts);
    {
        const std::lock_guard lock(mutex_);
        lane.in_pass = false;
    }
    const engine::BatchTimings& after = batch.timings();
    const Generation::PassTimes times{nanoseconds_since(begin),
                                      after.weights_wait_ns - before.weights_wait_ns,
                                      after.npu_ns - before.npu_ns, after.npu_passes - before.npu_passes};
    std::size_t short_of_memory = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        Result<bool> done = [&]() -> Result<bool> {
            if (!computed && computed.error().code == ErrorCode::kBusy) return false; // another time
            FLEX_TRY(computed);
            if (!parts[i].status && parts[i].status.error().code == ErrorCode::kOutOfMemory) {
                // What was kept for later gives way to what runs.
                if (lane.model->conversations->evict_one()) return false;
                // It comes back, from Linux or from another request. What has begun is broken off last.
                if (owners[i]->waits_for_memory(owners[i]->begun() ? options_.begun_memory_patience
                                                                   : options_.memory_patience)) {
                    ++short_of_memory;
                    return false;
                }
            }
            try {
                return owners[i]->advance(parts[i], times);
            } catch (const std::bad_alloc&) {
                return fail(ErrorCode::kOutOfMemory, "the answer needs more memory than there is");
            }
        }();
        if (!done)
            end(lane, owners[i], done.error());
        else if (*done)
            end(lane, owners[i], {});
    }
    if (short_of_memory == parts.size()) lane.model->conversations->wait_until(Clock::now() + kMemoryPause);
    end_cancelled(lane);
}

/// Until something came of it, somebody else came, or one left.
void Generator::wait_for_store(Lane& lane) {
    {
        const std::lock_guard lock(mutex_);
        lane.in_pass = false;
    }
    auto end = Clock::time_point::max();
    for (const Shared& generation : lane.running)
        end = std::min(end, generation->waits_for_store().value_or(end));
    lane.model->conversations->wait_until(end);
    end_cancelled(lane);
}

void Generator::end_cancelled(Lane& lane) {
    for (const Shared& generation : std::vector(lane.running)) {
        if (generation->cancelled()) end(lane, generation, fail(ErrorCode::kCancelled, "cancelled"));
    }
}

void Generator::end(Lane& lane, const Shared& generation, const Status& status) {
    std::erase(lane.running, generation);
    const Finished finished = generation->summary();
    {
        const std::lock_guard lock(mutex_);
        std::erase(lane.visible, generation);
        ModelCounters& model = counters_[lane.model->weights->info().name];
        if (status.ok()) {
            ++status_.done;
            ++model.done;
            model.first_token.add(finished.ttft_ms / 1000);
        } else if (status.error().code == ErrorCode::kCancelled) {
            ++status_.cancelled;
            ++model.cancelled;
        } else {
            ++status_.failed;
            ++model.failed;
        }
        model.prompt_tokens += finished.prompt_tokens;
        model.cached_tokens += finished.cached_tokens;
        model.answer_tokens += finished.answer_tokens;
    }
    generation->finish(status);
}

} // namespace flex::api
