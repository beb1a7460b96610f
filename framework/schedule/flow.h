// Runs a workflow: whatever may run does, at the same time, until the output is there or something failed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "schedule/workflow.h"

namespace flex::schedule {

/// Nodes of one workflow that run at the same time.
inline constexpr std::size_t kMaxParallel = 4;

/// Woken when a call has something new. Any thread.
class Bell {
public:
    void ring() {
        const std::lock_guard lock(mutex_);
        rung_ = true;
        changed_.notify_all();
    }
    /// Until it rings, rang since the last wait, or the time is over.
    void wait(std::chrono::milliseconds most) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, most, [&] { return rung_; });
        rung_ = false;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool rung_ = false;
};

struct CallResult {
    std::uint32_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
    double load_ms = 0; ///< of weights, beyond what was there: allocate, load and decrypt
    double first_token_ms = 0, tokens_per_second = 0;
};

/// A model's answer on its way. Its end, when it is not done, cancels it.
class Call {
public:
    virtual ~Call() = default;
    struct News {
        std::string text; ///< since the last call
        bool done = false;
    };
    virtual News news() = 0;
    /// After done.
    virtual Result<CallResult> result() = 0;
};

/// Who computes. Used from one thread.
class Backend {
public:
    virtual ~Backend() = default;
    struct Prompt {
        std::string role, content;
    };
    /// Errors: kBusy (it is tried again), and those of the request.
    virtual Result<std::unique_ptr<Call>> start(const Node& node, const std::vector<Prompt>& messages,
                                                std::shared_ptr<Bell> bell) = 0;
    /// This model will be called soon (or, after all, will not). Returns at once.
    virtual void expect(const std::string& model, bool expected) = 0;
};

enum class NodeState : std::uint8_t { kWaiting, kRunning, kDone, kSkipped, kFailed };
[[nodiscard]] const char* name_of(NodeState state);

/// Milliseconds since the workflow began; 0: not yet.
struct NodeReport {
    NodeState state = NodeState::kWaiting;
    double ready_ms = 0, started_ms = 0, first_text_ms = 0, ended_ms = 0;
    CallResult result;
};

struct Event {
    enum class Kind : std::uint8_t { kTick, kStarted, kText, kEnded };
    Kind kind = Kind::kTick;
    std::size_t node = 0;
    std::string text; ///< of kText
};

/// How a workflow ended badly.
struct FlowError {
    Error error;
    std::optional<std::size_t> node; ///< whose
    bool deadline = false;
};

class Flow {
public:
    /// `workflow` and `backend` must outlive it. `inputs`: of bind_inputs.
    Flow(const Workflow& workflow, std::vector<std::string> inputs, Backend& backend);
    ~Flow(); // cancels what runs

    /// Tells `on_event` what happens, and kTick several times a second; when that returns false, all is
    /// cancelled. Returns when all has ended: with the output, or with nothing (see error()).
    std::optional<std::string> run(const std::function<bool(const Event&)>& on_event);

    [[nodiscard]] const FlowError& error() const { return *error_; }
    [[nodiscard]] const std::vector<NodeReport>& reports() const { return reports_; }
    [[nodiscard]] const std::vector<std::string>& outputs() const { return outputs_; }
    [[nodiscard]] double elapsed_ms() const;

private:
    bool begin_ready();
    bool begin(std::size_t node);
    void expect_next();
    bool collect();
    bool check_deadlines();
    bool tell(Event::Kind kind, std::size_t node, std::string text = {});
    bool failed(Error error, std::optional<std::size_t> node = {}, bool deadline = false);
    [[nodiscard]] bool ended(std::size_t node) const;
    [[nodiscard]] bool all_ended() const;

    const Workflow& workflow_;
    const std::vector<std::string> inputs_;
    Backend& backend_;
    const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
    const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
    std::vector<NodeReport> reports_;
    std::vector<std::string> outputs_; // by node
    std::vector<std::unique_ptr<Call>> calls_;
    std::vector<std::string> expected_; // models hinted at and not called yet
    std::function<bool(const Event&)> on_event_;
    std::optional<FlowError> error_;
};

} // namespace flex::schedule
