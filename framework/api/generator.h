// Computes requests: continuous batching, model by model. The requests of a model form a lane: a thread makes
// pass after pass, in which every running request of the lane takes part with its next token or with a piece
// of its prompt. So a request joins and leaves at any pass, and a long prompt delays the others' next token
// by one piece only. Lanes run at the same time and share the cores by the layer (pipeline/fair_share.h); one
// that waits for weights delays nobody. What a request gets does not depend on its company
// (engine/session.h).
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <thread>

#include "api/generation.h"

namespace flex::api {

struct GeneratorOptions {
    std::size_t max_running = 4;   ///< requests of a model that are computed together
    std::size_t max_waiting = 3;   ///< of a model
    std::size_t max_requests = 10; ///< of all models, running or waiting
    std::size_t max_lanes = 4;     ///< models that compute at the same time: a thread each, made when needed
    /// Prompt tokens per pass while others wait for their next token or prompt; alone, a prompt gets all the
    /// batch takes.
    std::size_t shared_prompt_tokens = 64;
    engine::NpuUse npu = engine::NpuUse::kAuto; ///< where a request says nothing else
    /// A request waits so long for memory of the KV cache before it is refused, and an answer that has begun before
    /// it breaks off.
    std::chrono::milliseconds memory_patience{5000}, begun_memory_patience{30000};
};

/// Any thread.
class Generator {
public:
    explicit Generator(const GeneratorOptions& options);
    ~Generator(); // cancels everything

    /// In the order of calls, for each model. Errors: kBusy (says how many wait), kOutOfMemory (no thread to
    /// compute with).
    Status submit(std::shared_ptr<Generation> generation);
    [[nodiscard]] GeneratorStatus status() const;
    /// By the model's name, since the start.
    [[nodiscard]] std::map<std::string, ModelCounters> counters() const;

private:
    using Shared = std::shared_ptr<Generation>;
    struct Lane;
    void work();
    void serve(Lane& lane);
    void admit(Lane& lane);
    [[nodiscard]] static bool fits(const Lane& lane, const Generation& generation);
    [[nodiscard]] engine::NpuUse npu_use(const std::vector<Shared>& group) const;
    void pass(Lane& lane);
    void wait_for_store(Lane& lane);
    void end_cancelled(Lane& lane);
    [[nodiscard]] std::vector<engine::BatchPart> parts(Lane& lane, std::vector<Shared>& owners) const;
    void end(Lane& lane, const Shared& generation, const Status& status);
    [[nodiscard]] Lane& lane_of(const Generation& generation);
    Status add_thread();

    const GeneratorOptions options_;
    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::unique_ptr<Lane>> lanes_; // that have requests; the one served last comes last
    std::size_t untaken_ = 0;                  // of those, how many no thread serves
    std::size_t idle_ = 0;                     // threads without a lane
    GeneratorStatus status_;
    std::map<std::string, ModelCounters> counters_;
    bool stop_ = false;
    std::vector<std::thread> threads_; // at most max_lanes
};

} // namespace flex::api
