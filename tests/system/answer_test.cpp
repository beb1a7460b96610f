// Answers: equal to the native ones and to the references, whole and in pieces.
#include <algorithm>
#include <cmath>
#include <future>

#include <nlohmann/json.hpp>

#include "shared.h"
#include "support/native_server.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;
using attack::Completion;
using attack::Query;
using Json = nlohmann::json;

class AnswerTest : public SystemTest {};

TEST_F(AnswerTest, in_the_device_equals_the_native_one_token_for_token) {
    const NativeServer native(fs::path(FLEX_TEST_HOME) / "native", "demo", target().model_file());
    for (const char* prompt : {"What is FlexServe?", "Who may read Flex-Mem?", "Tell me about the weather."}) {
        Query query = target().reference_query();
        query.prompt = prompt;
        query.max_tokens = 48;
        const Completion ours = native.api().complete(query);
        const Completion theirs = target().api().complete(query);
        ASSERT_TRUE(ours.ok) << ours.error;
        ASSERT_TRUE(theirs.ok) << theirs.error;
        EXPECT_EQ(theirs.tokens, ours.tokens) << prompt << "\nnative: " << ours.text << "\ndevice: " << theirs.text;
        EXPECT_EQ(theirs.text, ours.text);
    }
}

TEST_F(AnswerTest, streamed_comes_in_pieces_that_make_up_the_whole) {
    Query query = target().reference_query();
    query.max_tokens = 120;
    const Completion whole = target().api().complete(query);
    ASSERT_TRUE(whole.ok) << whole.error;
    int pieces = 0;
    const Completion streamed = target().api().stream(query, [&](std::string_view) { return ++pieces > 0; });
    ASSERT_TRUE(streamed.ok) << streamed.error;
    EXPECT_TRUE(streamed.same_as(whole)) << streamed.text << "\n" << whole.text;
    EXPECT_GT(pieces, 1); // a piece is what one read brought; with an NPU that is several tokens
}

TEST_F(AnswerTest, a_client_that_hangs_up_costs_nothing) {
    Query query = target().reference_query();
    query.max_tokens = 200;
    const Completion broken = target().api().stream(query, [](std::string_view) { return false; });
    EXPECT_FALSE(broken.ok);
    expect_unharmed();
}

TEST_F(AnswerTest, requests_at_the_same_time_get_the_same_answer_each) {
    std::vector<std::future<Completion>> answers;
    for (int i = 0; i < 3; ++i)
        answers.push_back(std::async(std::launch::async, [api = target().api(), query = target().reference_query()] { return api.complete(query); }));
    for (auto& answer : answers) {
        const Completion one = answer.get();
        EXPECT_TRUE(one.same_as(target().reference())) << one.error << one.text;
    }
}

TEST_F(AnswerTest, run_prints_the_answer) {
    const RunResult result = flexserve({"run", "demo", "What is FlexServe?", "--temp", "0", "-n", "12", "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const Json json = Json::parse(result.out);
    EXPECT_EQ(json.value("text", ""), target().reference().text) << result.out;
}

// ---- against llama.cpp: /shared's golden models ----

class GoldenTest : public SystemTest, public testing::WithParamInterface<const char*> {
protected:
    void SetUp() override {
        if (golden_folder().empty()) GTEST_SKIP() << "no ../shared/data/golden on this machine";
        SystemTest::SetUp();
        reference = Json::parse(read_all(golden_folder() / (std::string(GetParam()) + ".json")));
        name = "golden-" + std::string(GetParam());
        attack::seal_for(shared_device().device(), {.gguf = golden_folder() / (std::string(GetParam()) + ".gguf"), .name = name, .version = 0, .file = {}});
        query = {.model = name, .prompt = {}, .prompt_tokens = reference["prompt"].get<std::vector<std::uint32_t>>(), .chat = false, .max_tokens = 1, .extra = {}};
    }
    void TearDown() override {
        if (!name.empty()) target().remove_package(name);
    }

    Json reference;
    std::string name;
    Query query;
};

TEST_P(GoldenTest, greedy_continuation_in_the_device_is_llama_cpps) {
    const auto expected = reference["greedy"].get<std::vector<std::uint32_t>>();
    query.max_tokens = static_cast<std::uint32_t>(expected.size());
    const Completion answer = target().api().complete(query);
    ASSERT_TRUE(answer.ok) << answer.error;
    if (answer.finish_reason != "stop") {
        EXPECT_EQ(answer.tokens, expected);
        return;
    }
    // The server ends an answer where the model does; llama.cpp was told to go on.
    ASSERT_LT(answer.tokens.size(), expected.size());
    EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), expected.begin()));
}

TEST_P(GoldenTest, logits_in_the_device_are_within_2e_2_of_llama_cpps) {
    for (const Json& position : reference["logits"]) {
        const auto expected = position["values"].get<std::vector<double>>();
        Query prefix = query;
        prefix.prompt_tokens.resize(position["pos"].get<std::size_t>() + 1);
        prefix.extra = "\"return_logits\":true";
        const Completion answer = target().operator_api().complete(prefix);
        ASSERT_TRUE(answer.ok) << answer.error;
        const auto logits = Json::parse(answer.body)["choices"][0]["logits"].get<std::vector<double>>();
        ASSERT_EQ(logits.size(), expected.size());
        double worst = 0;
        for (std::size_t i = 0; i < logits.size(); ++i) worst = std::max(worst, std::abs(logits[i] - expected[i]));
        EXPECT_LE(worst, 2e-2) << "position " << position["pos"];
    }
}

INSTANTIATE_TEST_SUITE_P(models, GoldenTest, testing::Values("llama-a", "qwen3-a", "qwen3-f16"), [](const auto& info) {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

} // namespace
} // namespace flex::test
