// What is taken for a workflow, and what is refused before anything runs.
#include "schedule/workflow.h"

#include <gtest/gtest.h>

namespace flex::schedule {
namespace {

std::string node(const std::string& id, const std::string& prompt, const std::string& more = "") {
    return R"({"id":")" + id + R"(","model":"m","max_tokens":4,"prompt":")" + prompt + "\"" + more + "}";
}

std::string flow(const std::string& nodes, const std::string& output = "{{a.output}}",
                 const std::string& more = "") {
    return R"({"name":"w","inputs":["x","y"],"nodes":[)" + nodes + R"(],"output":")" + output + "\"" + more +
           "}";
}

TEST(Workflow, a_node_waits_for_those_it_names_and_for_those_it_shall_come_after) {
    const auto workflow =
        parse_workflow(flow(node("a", "{{x}}") + "," + node("b", "{{ a.output }} and {{a.output}}") + "," +
                            node("c", "{{y}}", R"(,"after":["b","a"])") + "," +
                            node("d", "q", R"(,"when":{"text":"{{c.output}}","contains":"yes"})")));
    ASSERT_TRUE(workflow) << workflow.error().message;
    EXPECT_EQ(workflow->nodes[0].needs, std::vector<std::size_t>{});
    EXPECT_EQ(workflow->nodes[1].needs, std::vector<std::size_t>{0});
    EXPECT_EQ(workflow->nodes[2].needs, (std::vector<std::size_t>{1, 0}));
    EXPECT_EQ(workflow->nodes[3].needs, std::vector<std::size_t>{2});
}

TEST(Workflow, what_is_filled_in_is_not_looked_at_again) {
    const auto text = Text::parse("<{{x}}|{{a.output}}>", {{"x", 0}, {"y", 1}}, {{"a", 0}});
    ASSERT_TRUE(text);
    const std::string inputs[] = {"{{y}}", "secret"}, outputs[] = {"{{x}}{{a.output}}"};
    EXPECT_EQ(text->fill(inputs, outputs).value(), "<{{y}}|{{x}}{{a.output}}>");
}

TEST(Workflow, a_text_that_grows_without_end_is_refused) {
    const auto text = Text::parse("{{x}}{{x}}{{x}}", {{"x", 0}}, {});
    const std::string inputs[] = {std::string(kMaxPromptBytes / 2, 'x')};
    EXPECT_EQ(text->fill(inputs, {}).error().code, ErrorCode::kInvalidArgument);
    std::string many;
    for (std::size_t i = 0; i <= kMaxReferences; ++i) many += "{{x}}";
    EXPECT_FALSE(Text::parse(many, {{"x", 0}}, {}));
}

TEST(Workflow, a_condition_compares_without_case) {
    const auto holds = [](const char* test, const char* value, const char* answer) {
        const auto workflow = parse_workflow(
            flow(node("a", "x") + "," +
                 node("b", "x",
                      std::string(R"(,"when":{"text":"{{a.output}}",")") + test + "\":\"" + value + "\"}")));
        const std::string outputs[] = {answer, ""}, inputs[] = {"", ""};
        return workflow->nodes[1].when->holds(inputs, outputs).value();
    };
    EXPECT_TRUE(holds("contains", "Urgent", "this is URGENT."));
    EXPECT_FALSE(holds("not_contains", "urgent", "this is URGENT."));
    EXPECT_TRUE(holds("equals", "yes", " Yes\n"));
    EXPECT_FALSE(holds("equals", "yes", "yes, but"));
}

TEST(Workflow, a_circle_is_refused_and_named) {
    const auto workflow = parse_workflow(flow(node("a", "{{c.output}}") + "," + node("b", "{{a.output}}") +
                                              "," + node("c", "{{b.output}}") + "," + node("d", "free")));
    ASSERT_FALSE(workflow);
    EXPECT_NE(workflow.error().message.find("a, b, c"), std::string::npos) << workflow.error().message;
    EXPECT_FALSE(parse_workflow(flow(node("a", "{{a.output}}"))));
    EXPECT_FALSE(parse_workflow(flow(node("a", "q", R"(,"after":["a"])"))));
}

TEST(Workflow, what_is_malformed_is_refused_with_a_reason) {
    std::string too_many = node("n0", "q");
    for (std::size_t i = 1; i <= kMaxNodes; ++i) too_many += "," + node("n" + std::to_string(i), "q");
    const std::string bad[] = {
        "",
        "[]",
        "null",
        "{",
        "{}",
        flow(""),
        flow(too_many, "q"),
        flow(node("a", "{{z}}")),                    // an unknown input
        flow(node("a", "{{z.output}}")),             // an unknown node
        flow(node("a", "{{x")),                      // not closed
        flow(node("a", "q"), "{{b.output}}"),        // an unknown node in the output
        flow(node("a", "q") + "," + node("a", "q")), // twice
        flow(node("../a", "q"), "q"),
        flow(node("", "q"), "q"),
        flow(node("a", "q", R"(,"after":["zz"])")),
        flow(node("a", "q", R"(,"after":"a")")),
        flow(node("a", "q", R"(,"aftr":["a"])")), // misspelt
        flow(node("a", "q", R"(,"deadline_ms":0)")),
        flow(node("a", "q", R"(,"deadline_ms":1e3)")),
        flow(node("a", "q", R"(,"deadline_ms":99999999)")),
        flow(node("a", "q", R"(,"messages":[])")), // beside a prompt
        flow(node("a", "q", R"(,"when":{"text":"{{x}}"})")),
        flow(node("a", "q", R"(,"when":{"text":"{{x}}","contains":"a","equals":"b"})")),
        flow(R"({"id":"a","model":"m","prompt":"q"})"), // no max_tokens
        flow(R"({"id":"a","max_tokens":3,"prompt":"q"})"),
        flow(R"({"id":"a","model":"m","max_tokens":3,"messages":[{"role":"user"}]})"),
        flow(R"({"id":"a","model":"m","max_tokens":3,"messages":[{"role":"user","content":"q","x":1}]})"),
        flow(node("a", "q"), "q", R"(,"steps":[])"),
        flow(node("a", "q"), "q", R"(,"deadline_ms":-1)"),
        std::string(100, '['),
        flow(node("a", std::string(kMaxPromptBytes + 1, 'q'))),
    };
    for (const std::string& text : bad) {
        const auto workflow = parse_workflow(text);
        ASSERT_FALSE(workflow) << text.substr(0, 200);
        EXPECT_EQ(workflow.error().code, ErrorCode::kInvalidArgument);
        EXPECT_FALSE(workflow.error().message.empty());
        EXPECT_LT(workflow.error().message.size(), 400u);
    }
}

TEST(Workflow, inputs_are_all_given_and_all_known) {
    const auto workflow =
        parse_workflow(R"({"name":"w","inputs":{"x":{},"y":{"default":"why"}},"output":"q",)"
                       R"("nodes":[)" +
                       node("a", "q") + "]}");
    ASSERT_TRUE(workflow) << workflow.error().message;
    EXPECT_EQ(bind_inputs(*workflow, {{"x", "1"}}).value(), (std::vector<std::string>{"1", "why"}));
    EXPECT_EQ(bind_inputs(*workflow, {{"x", "1"}, {"y", ""}}).value(), (std::vector<std::string>{"1", ""}));
    EXPECT_FALSE(bind_inputs(*workflow, {}));
    EXPECT_FALSE(bind_inputs(*workflow, {{"x", "1"}, {"z", "2"}}));
}

} // namespace
} // namespace flex::schedule
