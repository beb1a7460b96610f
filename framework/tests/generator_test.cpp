// Requests computed together, on the demo model.
#include "api/generator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "fakes.h"
#include "temporary_folder.h"

namespace flex::api {
namespace {

using namespace std::chrono_literals;

/// Linux where memory can be a long time in coming.
class HeldPort final : public test::ForwardingPort {
public:
    using ForwardingPort::ForwardingPort;

    /// While held, whoever wants as much as a layer of the demo model waits. (Its metadata and blocks of KV
    /// cache are smaller.)
    void hold(bool held) {
        const std::lock_guard lock(mutex_);
        held_ = held;
        changed_.notify_all();
    }
    Result<port::Block> allocate(std::size_t bytes) override {
        constexpr std::size_t kLayer = 512u << 10;
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !held_ || bytes < kLayer; });
        return ForwardingPort::allocate(bytes);
    }
    [[nodiscard]] const char* name() const override { return "held"; }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool held_ = false;
};

class GeneratorTest : public testing::Test {
protected:
    GeneratorTest() {
        crypto::initialise();
        test::slow_ms = 0;
        port_ = std::make_unique<HeldPort>(port::make_native_port(folder_.path()).value());
        open({.threads = 2, .context = 512, .kernels = &test::slow_kernels()});
    }
    void open(const pipeline::RegistryOptions& options) {
        registry_ = std::make_unique<pipeline::Registry>(*port_, options);
        for (const char* name : {"demo", "other"})
            EXPECT_TRUE(registry_->add_gguf(name, FLEX_SOURCE_DIR "/models/demo/demo.gguf").ok());
    }
    [[nodiscard]] std::shared_ptr<Generation> request(std::size_t length, std::uint32_t tokens,
                                                      TokenId salt = 0, float temperature = 0,
                                                      const char* model = "demo") const {
        std::vector<TokenId> prompt;
        for (std::size_t i = 0; i < length; ++i)
            prompt.push_back(static_cast<TokenId>(100 + (i * i + 3 * i + salt) % 300));
        GenerationOptions options;
        options.max_tokens = tokens;
        options.keep_logits = true;
        options.sampler.temperature = temperature;
        options.sampler.seed = salt;
        options.cache_key = key_;
        return std::make_shared<Generation>(registry_->get(model).value(), std::move(prompt), options,
                                            std::chrono::steady_clock::now());
    }
    static Result<GenerationResult> finish(const std::shared_ptr<Generation>& generation) {
        while (!generation->wait(1s).done) {
        }
        return generation->result();
    }

    test::TemporaryFolder folder_;
    std::unique_ptr<HeldPort> port_;
    std::unique_ptr<pipeline::Registry> registry_;
    std::string key_;
};

TEST_F(GeneratorTest, requests_computed_together_get_what_they_get_alone) {
    const auto all = [&] {
        return std::vector{request(5, 40), request(200, 10, 7), request(33, 60, 2, 1.0F),
                           request(64, 20, 3, 1.5F)};
    };
    Generator generator({.max_running = 4, .max_waiting = 4, .shared_prompt_tokens = 32});
    std::vector<GenerationResult> alone;
    for (const auto& generation : all()) {
        ASSERT_TRUE(generator.submit(generation).ok());
        alone.push_back(finish(generation).value());
    }
    test::slow_ms = 1;
    const auto together = all();
    for (const auto& generation : together) ASSERT_TRUE(generator.submit(generation).ok());
    std::size_t most = 0;
    while (generator.status().done < 2 * alone.size()) {
        most = std::max(most, generator.status().running);
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_GT(most, 1u);
    for (std::size_t i = 0; i < together.size(); ++i) {
        const auto result = finish(together[i]).value();
        EXPECT_EQ(result.tokens, alone[i].tokens) << i;
        EXPECT_EQ(result.stopped, alone[i].stopped) << i;
        ASSERT_EQ(result.logits.size(), alone[i].logits.size());
        EXPECT_EQ(std::memcmp(result.logits.data(), alone[i].logits.data(), 4 * result.logits.size()), 0)
            << i;
    }
}

// 400 tokens in pieces of at most 16 are 25 passes, in each of which the other gets a token.
TEST_F(GeneratorTest, a_long_prompt_does_not_hold_up_an_answer) {
    test::slow_ms = 1;
    Generator generator({.max_running = 2, .max_waiting = 2, .shared_prompt_tokens = 16});
    const auto answer = request(3, 12), prompt = request(400, 1, 5);
    ASSERT_TRUE(generator.submit(prompt).ok());
    while (generator.status().running == 0) std::this_thread::sleep_for(1ms);
    // Whoever comes first gets one pass for himself at most: of 256 tokens. The rest is 9 passes.
    ASSERT_TRUE(generator.submit(answer).ok());
    std::string text;
    while (text.empty()) {
        const auto progress = answer->wait(10ms);
        text += progress.text;
        if (progress.done) break;
    }
    EXPECT_FALSE(prompt->wait(0ms).done);
    EXPECT_TRUE(finish(answer).ok());
    EXPECT_TRUE(finish(prompt).ok());
}

TEST_F(GeneratorTest, one_that_is_cancelled_leaves_and_the_others_go_on) {
    Generator generator({.max_running = 3, .max_waiting = 3});
    const auto alone = request(20, 30);
    ASSERT_TRUE(generator.submit(alone).ok());
    const auto expected = finish(alone).value().tokens;
    test::slow_ms = 1;
    const auto stays = request(20, 30), goes = request(30, 400, 4), waits = request(10, 5, 9);
    for (const auto& generation : {stays, goes, waits}) ASSERT_TRUE(generator.submit(generation).ok());
    goes->cancel();
    EXPECT_EQ(finish(goes).error().code, ErrorCode::kCancelled);
    test::slow_ms = 0;
    EXPECT_EQ(finish(stays).value().tokens, expected);
    EXPECT_TRUE(finish(waits).ok());
    EXPECT_EQ(generator.status().cancelled, 1u);
}

TEST_F(GeneratorTest, who_finds_no_place_waits_and_who_finds_none_to_wait_is_told) {
    test::slow_ms = 1;
    Generator generator({.max_running = 1, .max_waiting = 1});
    const auto first = request(20, 30), second = request(20, 2), third = request(20, 2);
    ASSERT_TRUE(generator.submit(first).ok());
    ASSERT_TRUE(generator.submit(second).ok());
    EXPECT_EQ(generator.submit(third).error().code, ErrorCode::kBusy);
    test::slow_ms = 0;
    EXPECT_TRUE(finish(first).ok());
    EXPECT_TRUE(finish(second).ok());
}

TEST_F(GeneratorTest, destroying_it_ends_what_runs_and_what_waits) {
    test::slow_ms = 1;
    const auto runs = request(20, 400), waits = request(20, 400);
    {
        Generator generator({.max_running = 1, .max_waiting = 1});
        ASSERT_TRUE(generator.submit(runs).ok());
        ASSERT_TRUE(generator.submit(waits).ok());
    }
    for (const auto& generation : {runs, waits})
        EXPECT_EQ(finish(generation).error().code, ErrorCode::kCancelled);
}

TEST_F(GeneratorTest, each_conversation_continues_where_it_stood) {
    Generator generator({});
    const auto ask = [&](const char* key, std::size_t length, TokenId salt) {
        key_ = key;
        const auto generation = request(length, 4, salt);
        EXPECT_TRUE(generator.submit(generation).ok());
        return finish(generation).value();
    };
    const auto one = ask("one", 100, 1), two = ask("two", 100, 2);
    EXPECT_EQ(one.cached_tokens, 0u);
    EXPECT_EQ(two.cached_tokens, 0u);
    const auto again = ask("one", 100, 1);
    EXPECT_EQ(again.cached_tokens, 99u);
    EXPECT_EQ(again.tokens, one.tokens);
    EXPECT_EQ(again.logits, one.logits);
    EXPECT_EQ(ask("two", 120, 2).cached_tokens, 100u);
    EXPECT_EQ(ask("three", 100, 1).cached_tokens, 0u);
    EXPECT_EQ(ask("", 100, 1).cached_tokens, 0u);
}

TEST_F(GeneratorTest,
       a_model_that_is_slow_to_load_delays_neither_another_s_answers_nor_its_own_cancellation) {
    Generator generator({});
    const auto first = request(40, 4, 1);
    ASSERT_TRUE(generator.submit(first).ok());
    const auto expected = finish(first).value().tokens;
    port_->hold(true);
    const auto stuck = request(40, 4, 1, 0, "other"), leaves = request(40, 4, 2, 0, "other");
    ASSERT_TRUE(generator.submit(stuck).ok());
    ASSERT_TRUE(generator.submit(leaves).ok());
    while (generator.status().running < 2) std::this_thread::sleep_for(1ms);
    for (int i = 0; i < 3; ++i) {
        const auto ready = request(40, 4, 1);
        ASSERT_TRUE(generator.submit(ready).ok());
        EXPECT_EQ(finish(ready).value().tokens, expected);
    }
    leaves->cancel();
    EXPECT_EQ(finish(leaves).error().code, ErrorCode::kCancelled);
    EXPECT_FALSE(stuck->wait(0ms).done);
    port_->hold(false);
    EXPECT_EQ(finish(stuck).value().tokens, expected);
}

TEST_F(GeneratorTest, the_smaller_kv_cache_answers_too) {
    open({.threads = 2, .context = 512, .kv = engine::KvType::kQ8_0});
    Generator generator({});
    const auto generation = request(50, 8);
    ASSERT_TRUE(generator.submit(generation).ok());
    EXPECT_EQ(finish(generation).value().prompt_tokens, 50u);
}

TEST_F(GeneratorTest, idle_conversations_give_their_memory_back) {
    key_ = "kept";
    {
        Generator generator({});
        const auto generation = request(100, 4);
        ASSERT_TRUE(generator.submit(generation).ok());
        ASSERT_TRUE(finish(generation).ok());
    }
    const auto model = registry_->get("demo").value(); // in use: its weights stay
    EXPECT_EQ(model->conversations->idle(), 1u);
    EXPECT_GE(registry_->give_back(1), 4 * model->kv->layout().block_bytes());
    EXPECT_EQ(model->conversations->idle(), 0u);
    EXPECT_EQ(model->kv->status().in_use + model->kv->status().free, 0u);
}

} // namespace
} // namespace flex::api
