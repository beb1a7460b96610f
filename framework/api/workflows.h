// POST /v1/flexserve/workflows: a workflow (schedule/workflow.h) runs next to the models. What its nodes
// answer stays inside, but for the workflow's output and what the client asked to see.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "api/caller.h"
#include "api/generator.h"
#include "pipeline/registry.h"

namespace httplib {
struct Request;
struct Response;
} // namespace httplib

namespace flex::api {

/// Workflows at the same time; each takes a thread of a connection.
inline constexpr std::size_t kMaxFlows = 2;

struct FlowCounters {
    std::uint64_t running = 0, done = 0, failed = 0, cancelled = 0, nodes = 0;
};

/// Any thread. All that it is made from must outlive it.
class Workflows {
public:
    Workflows(pipeline::Registry& models, Generator& generator, const Callers& callers);
    ~Workflows();

    /// {"workflow": {…}, "inputs": {"name": "text"}, "stream": false, "reveal": ["node", …] | true}
    void run(const httplib::Request& request, httplib::Response& response);
    /// Ends those that run.
    void stop() { stopping_ = true; }
    [[nodiscard]] FlowCounters counters() const;

private:
    class Run;
    class Hints;
    friend class Run;
    pipeline::Registry& models_;
    Generator& generator_;
    const Callers& callers_;
    std::atomic<bool> stopping_{false};
    mutable std::mutex mutex_;
    FlowCounters counters_;
    std::unique_ptr<Hints> hints_;
};

} // namespace flex::api
