#include "schedule/flow.h"

#include <algorithm>

namespace flex::schedule {
namespace {

constexpr std::chrono::milliseconds kTick(100);

} // namespace

const char* name_of(NodeState state) {
    switch (state) {
    case NodeState::kWaiting:
        return "waiting";
    case NodeState::kRunning:
        return "running";
    case NodeState::kDone:
        return "done";
    case NodeState::kSkipped:
        return "skipped";
    case NodeState::kFailed:
        return "failed";
    }
    return "?";
}

Flow::Flow(const Workflow& workflow, std::vector<std::string> inputs, Backend& backend)
    : workflow_(workflow), inputs_(std::move(inputs)), backend_(backend), reports_(workflow.nodes.size()),
      outputs_(workflow.nodes.size()), calls_(workflow.nodes.size()) {}

Flow::~Flow() {
    calls_.clear();
    for (const std::string& model : expected_) backend_.expect(model, false);
}

double Flow::elapsed_ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin_).count();
}

/// False, so that a step can end with it.
bool Flow::failed(Error error, std::optional<std::size_t> node, bool deadline) {
    if (node) {
        reports_[*node].state = NodeState::kFailed;
        reports_[*node].ended_ms = elapsed_ms();
        error.message = "node " + workflow_.nodes[*node].id + ": " + error.message;
    }
    if (!error_) error_ = FlowError{std::move(error), node, deadline};
    return false;
}

bool Flow::tell(Event::Kind kind, std::size_t node, std::string text) {
    if (on_event_({kind, node, std::move(text)})) return true;
    return failed(fail(ErrorCode::kCancelled, "cancelled"));
}

bool Flow::ended(std::size_t node) const {
    return reports_[node].state == NodeState::kDone || reports_[node].state == NodeState::kSkipped;
}

bool Flow::all_ended() const {
    for (std::size_t i = 0; i < reports_.size(); ++i) {
        if (!ended(i)) return false;
    }
    return true;
}

std::optional<std::string> Flow::run(const std::function<bool(const Event&)>& on_event) {
    on_event_ = on_event;
    while (begin_ready() && !all_ended()) {
        bell_->wait(kTick);
        if (!check_deadlines() || !collect() || !tell(Event::Kind::kTick, 0)) break;
    }
    calls_.clear(); // cancels what still runs
    calls_.resize(workflow_.nodes.size());
    if (error_) return {};
    auto output = workflow_.output.fill(inputs_, outputs_);
    if (output) return std::move(*output);
    failed(output.error());
    return {};
}

/// False when all is over. Nodes that are skipped may make others ready.
bool Flow::begin_ready() {
    for (bool moved = true; moved;) {
        moved = false;
        for (std::size_t i = 0; i < reports_.size(); ++i) {
            NodeReport& report = reports_[i];
            const auto done = [&](std::size_t other) { return ended(other); };
            if (report.state != NodeState::kWaiting || !std::ranges::all_of(workflow_.nodes[i].needs, done))
                continue;
            if (report.ready_ms == 0) report.ready_ms = elapsed_ms();
            if (!begin(i)) return false;
            moved |= report.state == NodeState::kSkipped;
        }
    }
    expect_next();
    return true;
}

/// Starts a node that may run, or skips it; does neither while there is no place.
bool Flow::begin(std::size_t i) {
    const Node& node = workflow_.nodes[i];
    NodeReport& report = reports_[i];
    if (node.when) {
        const auto holds = node.when->holds(inputs_, outputs_);
        if (!holds) return failed(holds.error(), i);
        if (!*holds) {
            report.state = NodeState::kSkipped;
            report.ended_ms = elapsed_ms();
            return tell(Event::Kind::kEnded, i);
        }
    }
    const auto running = std::ranges::count(reports_, NodeState::kRunning, &NodeReport::state);
    if (running >= static_cast<std::ptrdiff_t>(kMaxParallel)) return true;
    std::vector<Backend::Prompt> messages;
    for (const Message& message : node.messages) {
        auto text = message.content.fill(inputs_, outputs_);
        if (!text) return failed(text.error(), i);
        messages.push_back({message.role, std::move(*text)});
    }
    auto call = backend_.start(node, messages, bell_);
    if (!call && call.error().code == ErrorCode::kBusy) return true; // again at the next tick
    if (!call) return failed(call.error(), i);
    calls_[i] = std::move(*call);
    std::erase(expected_, node.model);
    report.state = NodeState::kRunning;
    report.started_ms = elapsed_ms();
    return tell(Event::Kind::kStarted, i);
}

/// Models of nodes that come right after those that run, and that nobody else here uses now.
void Flow::expect_next() {
    const auto begun = [&](std::size_t i) { return reports_[i].state != NodeState::kWaiting; };
    for (std::size_t i = 0; i < reports_.size(); ++i) {
        const Node& node = workflow_.nodes[i];
        if (begun(i) || !std::ranges::all_of(node.needs, begun)) continue;
        bool used = std::ranges::find(expected_, node.model) != expected_.end();
        for (std::size_t other = 0; other < reports_.size(); ++other)
            used |=
                reports_[other].state == NodeState::kRunning && workflow_.nodes[other].model == node.model;
        if (used) continue;
        expected_.push_back(node.model);
        backend_.expect(node.model, true);
    }
}

/// Takes in what the calls have to say.
bool Flow::collect() {
    for (std::size_t i = 0; i < calls_.size(); ++i) {
        if (!calls_[i]) continue;
        NodeReport& report = reports_[i];
        Call::News news = calls_[i]->news();
        outputs_[i] += news.text;
        if (outputs_[i].size() > kMaxPromptBytes)
            return failed(fail(ErrorCode::kInvalidArgument,
                               "the answer is longer than " + std::to_string(kMaxPromptBytes) + " bytes"),
                          i);
        if (!news.text.empty() && report.first_text_ms == 0) report.first_text_ms = elapsed_ms();
        if (!news.text.empty() && !tell(Event::Kind::kText, i, std::move(news.text))) return false;
        if (!news.done) continue;
        auto result = calls_[i]->result();
        calls_[i].reset();
        if (!result) return failed(result.error(), i);
        report.result = *result;
        report.state = NodeState::kDone;
        report.ended_ms = elapsed_ms();
        if (!tell(Event::Kind::kEnded, i)) return false;
    }
    return true;
}

bool Flow::check_deadlines() {
    const auto late = [](std::uint32_t ms) {
        return fail(ErrorCode::kCancelled, "not done after its deadline of " + std::to_string(ms) + " ms");
    };
    const double now = elapsed_ms();
    for (std::size_t i = 0; i < reports_.size(); ++i) {
        const std::uint32_t most = workflow_.nodes[i].deadline_ms;
        if (most != 0 && reports_[i].state == NodeState::kRunning && now - reports_[i].started_ms > most)
            return failed(late(most), i, true);
    }
    if (now > workflow_.deadline_ms) return failed(late(workflow_.deadline_ms), {}, true);
    return true;
}

} // namespace flex::schedule
