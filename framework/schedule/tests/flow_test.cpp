// How a workflow runs, with models that answer when the test says so.
#include "schedule/flow.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace flex::schedule {
namespace {

/// Every call is answered with "<model>(<prompt>)", at once or when the test lets it.
class FakeBackend final : public Backend {
public:
    Result<std::unique_ptr<Call>> start(const Node& node, const std::vector<Prompt>& messages,
                                        std::shared_ptr<Bell> bell) override {
        if (busy > 0) {
            --busy;
            return fail(ErrorCode::kBusy, "busy");
        }
        order.push_back(node.id);
        most = std::max(most, ++running);
        bell->ring();
        return std::unique_ptr<Call>(
            std::make_unique<FakeCall>(*this, node.id, node.model + "(" + messages.back().content + ")"));
    }
    void expect(const std::string& model, bool expected) override {
        hints.push_back((expected ? "+" : "-") + model);
    }

    class FakeCall final : public Call {
    public:
        FakeCall(FakeBackend& owner, std::string id, std::string answer)
            : owner_(owner), id_(std::move(id)), answer_(std::move(answer)) {}
        ~FakeCall() override {
            --owner_.running;
            if (!done_) owner_.cancelled.insert(id_);
        }
        News news() override {
            if (owner_.held.contains(id_)) return {};
            done_ = true;
            return {answer_, true};
        }
        Result<CallResult> result() override {
            if (owner_.failing.contains(id_)) return fail(ErrorCode::kCorrupt, "torn");
            return CallResult{1, 0, 2, 0, 0, 0};
        }

    private:
        FakeBackend& owner_;
        std::string id_, answer_;
        bool done_ = false;
    };

    std::vector<std::string> order, hints;
    std::set<std::string> held, failing, cancelled;
    int running = 0, most = 0, busy = 0;
};

Workflow make(const std::string& nodes, const std::string& output, const std::string& more = "") {
    auto workflow = parse_workflow(R"({"name":"w","inputs":["x"],"output":")" + output + R"(","nodes":[)" +
                                   nodes + "]" + more + "}");
    EXPECT_TRUE(workflow) << workflow.error().message;
    return std::move(*workflow);
}

std::string node(const std::string& id, const std::string& prompt, const std::string& more = "") {
    return R"({"id":")" + id + R"(","model":"m)" + id + R"(","max_tokens":4,"prompt":")" + prompt + "\"" +
           more + "}";
}

bool go_on(const Event&) { return true; }

TEST(Flow, answers_become_parts_of_later_prompts_and_of_the_output) {
    const Workflow workflow =
        make(node("c", "{{a.output}}+{{b.output}}") + "," + node("a", "{{x}}") + "," + node("b", "fixed"),
             "[{{c.output}}]");
    FakeBackend backend;
    Flow flow(workflow, {"in"}, backend);
    EXPECT_EQ(flow.run(go_on), "[mc(ma(in)+mb(fixed))]");
    EXPECT_EQ(backend.order.back(), "c");
    EXPECT_EQ(backend.most, 2);
    for (const NodeReport& report : flow.reports()) {
        EXPECT_EQ(report.state, NodeState::kDone);
        EXPECT_LE(report.ready_ms, report.started_ms);
        EXPECT_LE(report.started_ms, report.ended_ms);
    }
}

TEST(Flow, branches_run_at_the_same_time_and_not_more_than_may) {
    std::string nodes;
    for (int i = 0; i < 9; ++i) nodes += (i == 0 ? "" : ",") + node("n" + std::to_string(i), "q");
    const Workflow workflow = make(nodes, "{{n8.output}}");
    FakeBackend backend;
    Flow flow(workflow, {""}, backend);
    EXPECT_EQ(flow.run(go_on), "mn8(q)");
    EXPECT_EQ(backend.most, static_cast<int>(kMaxParallel));
    EXPECT_EQ(backend.order.size(), 9u);
}

TEST(Flow, a_node_whose_condition_fails_is_skipped_and_answers_nothing) {
    const Workflow workflow = make(
        node("a", "calm") + "," + node("b", "x", R"(,"when":{"text":"{{a.output}}","contains":"urgent"})") +
            "," + node("c", "<{{b.output}}>", R"(,"when":{"text":"{{a.output}}","not_contains":"urgent"})"),
        "{{c.output}}");
    FakeBackend backend;
    Flow flow(workflow, {""}, backend);
    EXPECT_EQ(flow.run(go_on), "mc(<>)");
    EXPECT_EQ(flow.reports()[1].state, NodeState::kSkipped);
    EXPECT_EQ(backend.order, (std::vector<std::string>{"a", "c"}));
}

TEST(Flow, one_that_fails_ends_the_others_and_is_named) {
    const Workflow workflow =
        make(node("a", "q") + "," + node("b", "q") + "," + node("c", "{{a.output}}"), "{{c.output}}");
    FakeBackend backend;
    backend.failing = {"a"};
    backend.held = {"b"};
    Flow flow(workflow, {""}, backend);
    EXPECT_EQ(flow.run(go_on), std::nullopt);
    EXPECT_EQ(flow.error().error.code, ErrorCode::kCorrupt);
    EXPECT_EQ(flow.error().node, 0u);
    EXPECT_NE(flow.error().error.message.find("node a"), std::string::npos);
    EXPECT_EQ(backend.cancelled, std::set<std::string>{"b"});
    EXPECT_EQ(backend.running, 0);
}

TEST(Flow, deadlines_end_a_node_and_the_whole) {
    FakeBackend backend;
    backend.held = {"a"};
    const Workflow node_late = make(node("a", "q", R"(,"deadline_ms":1)"), "q");
    Flow one(node_late, {""}, backend);
    EXPECT_EQ(one.run(go_on), std::nullopt);
    EXPECT_TRUE(one.error().deadline);
    EXPECT_EQ(one.error().node, 0u);
    const Workflow all_late = make(node("a", "q"), "q", R"(,"deadline_ms":1)");
    Flow two(all_late, {""}, backend);
    EXPECT_EQ(two.run(go_on), std::nullopt);
    EXPECT_TRUE(two.error().deadline);
    EXPECT_EQ(two.error().node, std::nullopt);
    EXPECT_EQ(backend.running, 0);
}

TEST(Flow, it_is_cancelled_when_nobody_listens_any_more) {
    const Workflow workflow = make(node("a", "q") + "," + node("b", "q"), "q");
    FakeBackend backend;
    backend.held = {"a", "b"};
    Flow flow(workflow, {""}, backend);
    EXPECT_EQ(flow.run([](const Event& event) { return event.kind != Event::Kind::kTick; }), std::nullopt);
    EXPECT_EQ(flow.error().error.code, ErrorCode::kCancelled);
    EXPECT_FALSE(flow.error().deadline);
    EXPECT_EQ(backend.cancelled, (std::set<std::string>{"a", "b"}));
}

TEST(Flow, one_that_finds_no_place_comes_later) {
    const Workflow workflow = make(node("a", "q"), "{{a.output}}");
    FakeBackend backend;
    backend.busy = 2;
    Flow flow(workflow, {""}, backend);
    EXPECT_EQ(flow.run(go_on), "ma(q)");
}

TEST(Flow, the_model_of_the_next_node_is_announced_while_the_one_before_runs) {
    const Workflow workflow =
        make(node("a", "q") + "," + node("b", "{{a.output}}") + "," + node("c", "{{b.output}}"), "q");
    FakeBackend backend;
    backend.held = {"a"};
    std::vector<std::string> while_a_ran;
    {
        Flow flow(workflow, {""}, backend);
        flow.run([&](const Event& event) {
            if (event.kind == Event::Kind::kTick && !backend.held.empty()) {
                while_a_ran = backend.hints;
                backend.held.clear();
            }
            return true;
        });
    }
    EXPECT_EQ(while_a_ran, std::vector<std::string>{"+mb"});
    EXPECT_EQ(backend.hints,
              (std::vector<std::string>{"+mb", "+mc"})); // both were called: nothing to take back
    backend.hints.clear();
    backend.failing = {"a"};
    {
        Flow flow(workflow, {""}, backend);
        flow.run(go_on);
    }
    EXPECT_EQ(backend.hints, (std::vector<std::string>{"+mb", "-mb"}));
}

} // namespace
} // namespace flex::schedule
