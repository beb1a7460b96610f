// Computes requests: continuous batching. One thread makes pass after pass; every running request of a model
// takes part in the passes of that model, with its next token or with a piece of its prompt. So a request
// joins and leaves at any pass, and a long prompt delays the others' next token by one piece only. What a
// request gets does not depend on its company (engine/session.h).
#pragma once

#include <deque>
#include <thread>

#include "api/generation.h"

namespace flex::api {

struct GeneratorOptions {
    std::size_t max_running = 4; ///< requests computed together
    std::size_t max_waiting = 3;
    /// Prompt tokens per pass while others wait for their next token or prompt; alone, a prompt gets all the
    /// batch takes.
    std::size_t shared_prompt_tokens = 64;
    engine::NpuUse npu = engine::NpuUse::kAuto; ///< where a request says nothing else
};

/// Any thread.
class Generator {
public:
    explicit Generator(const GeneratorOptions& options) : options_(options), thread_([this] { work(); }) {}
    ~Generator(); // cancels everything

    /// In the order of calls. Error: kBusy (says how many wait).
    Status submit(std::shared_ptr<Generation> generation);
    [[nodiscard]] GeneratorStatus status() const;

private:
    using Shared = std::shared_ptr<Generation>;
    void work();
    bool wait_for_work();
    void admit();
    [[nodiscard]] bool fits(const Generation& generation) const;
    [[nodiscard]] std::vector<Shared> choose();
    [[nodiscard]] engine::NpuUse npu_use(const std::vector<Shared>& group) const;
    void pass(const std::vector<Shared>& group);
    [[nodiscard]] std::vector<engine::BatchPart> parts(const std::vector<Shared>& group,
                                                       std::vector<Shared>& owners);
    void end(const Shared& generation, const Status& status);

    const GeneratorOptions options_;
    std::vector<Shared> running_; // the thread's own; in the order of their arrival
    std::size_t turn_ = 0;        // whose model is next

    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Shared> queue_;
    std::vector<Shared> visible_;                // running_, for those who cancel and count
    pipeline::LoadedModel* computing_ = nullptr; // whose pass is under way
    std::uint64_t submitted_ = 0, seen_ = 0;     // requests ever, and how many of them admit() looked at
    GeneratorStatus status_;
    bool stop_ = false;
    std::thread thread_; // last: starts when all of the above is there
};

} // namespace flex::api
