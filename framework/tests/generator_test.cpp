// Requests computed together, on the demo model.
#include "api/generator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "fakes.h"
#include "temporary_folder.h"

namespace flex::api {
namespace {

using namespace std::chrono_literals;

/// Linux where memory can be a long time in coming, or is refused.
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
        if (refuses_) {
            ++refused_;
            return fail(ErrorCode::kOutOfMemory, "no memory left");
        }
        return ForwardingPort::allocate(bytes);
    }
    void refuse(bool refuses) { refuses_ = refuses; }
    [[nodiscard]] unsigned refused() const { return refused_; }
    [[nodiscard]] const char* name() const override { return "held"; }

private:
    std::atomic<bool> refuses_ = false;
    std::atomic<unsigned> refused_ = 0;
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
        options.scope = key_;
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

TEST_F(GeneratorTest, who_wants_the_whole_answer_is_not_woken_for_its_parts) {
    test::slow_ms = 1;
    Generator generator({.max_running = 1, .max_waiting = 2});
    const auto parts = request(3, 40), whole = request(3, 40);
    ASSERT_TRUE(generator.submit(parts).ok());
    std::string text;
    int times = 0;
    for (bool done = false; !done; ++times) {
        auto progress = parts->wait(60s);
        text += progress.text;
        done = progress.done;
    }
    EXPECT_GT(times, 2) << "it came in one piece: nothing can be told";
    ASSERT_TRUE(generator.submit(whole).ok());
    const auto progress = whole->wait(60s, Generation::Until::kEnd);
    EXPECT_TRUE(progress.done);
    EXPECT_EQ(progress.text, text);
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

/// Waits until there is new text, or the end.
std::string next_text(const std::shared_ptr<Generation>& generation) {
    for (;;) {
        const auto progress = generation->wait(1s);
        if (progress.done || !progress.text.empty()) return progress.text;
    }
}

TEST_F(GeneratorTest, an_answer_that_has_begun_waits_for_memory_and_is_the_same) {
    Generator generator({});
    const auto expected = [&] {
        const auto generation = request(20, 60);
        EXPECT_TRUE(generator.submit(generation).ok());
        return finish(generation).value();
    }();
    static_cast<void>(registry_->give_back(UINT64_MAX)); // no block is left over
    test::slow_ms = 1;
    const auto generation = request(20, 60);
    ASSERT_TRUE(generator.submit(generation).ok());
    static_cast<void>(next_text(generation));
    port_->refuse(true);
    test::slow_ms = 0;
    // It needs another block after 32 tokens, and asks again and again.
    for (int i = 0; i < 500 && port_->refused() < 3; ++i) std::this_thread::sleep_for(10ms);
    EXPECT_GE(port_->refused(), 3u);
    EXPECT_FALSE(generation->wait(0ms).done && !generation->result().ok());
    port_->refuse(false);
    const auto result = finish(generation);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(result->tokens, expected.tokens);
}

TEST_F(GeneratorTest, a_request_waits_for_memory_before_it_begins_and_not_for_ever) {
    Generator generator({.memory_patience = 400ms});
    static_cast<void>(registry_->give_back(UINT64_MAX));
    const auto refused = request(20, 4);
    const auto model = registry_->get("demo").value();
    ASSERT_TRUE(model->weights->acquire(model->weights->model().stages() - 1).ok());
    port_->refuse(true);
    ASSERT_TRUE(generator.submit(refused).ok());
    const auto result = finish(refused);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kOutOfMemory);

    const auto patient = request(20, 4);
    const unsigned before = port_->refused();
    ASSERT_TRUE(generator.submit(patient).ok());
    for (int i = 0; i < 500 && port_->refused() < before + 3; ++i) std::this_thread::sleep_for(1ms);
    port_->refuse(false);
    EXPECT_TRUE(finish(patient).ok());
}

TEST_F(GeneratorTest, an_answer_does_not_wait_for_memory_for_ever) {
    Generator generator({.begun_memory_patience = 200ms});
    test::slow_ms = 1;
    const auto generation = request(20, 60);
    ASSERT_TRUE(generator.submit(generation).ok());
    static_cast<void>(next_text(generation));
    port_->refuse(true);
    test::slow_ms = 0;
    const auto result = finish(generation);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kOutOfMemory);
}

// Both are slow enough that one alone would be far from its end when the other gets its second text.
TEST_F(GeneratorTest, two_models_answer_at_the_same_time_and_get_what_they_get_alone) {
    Generator generator({});
    const auto alone = request(20, 24, 1);
    ASSERT_TRUE(generator.submit(alone).ok());
    const auto expected = finish(alone).value().tokens;
    test::slow_ms = 1;
    const auto one = request(20, 24, 1), two = request(20, 24, 1, 0, "other");
    ASSERT_TRUE(generator.submit(one).ok());
    ASSERT_TRUE(generator.submit(two).ok());
    for (int i = 0; i < 2; ++i) {
        EXPECT_FALSE(next_text(one).empty());
        EXPECT_FALSE(next_text(two).empty());
    }
    EXPECT_EQ(generator.status().running, 2u);
    test::slow_ms = 0;
    EXPECT_EQ(finish(one).value().tokens, expected);
    EXPECT_EQ(finish(two).value().tokens, expected);
    EXPECT_EQ(generator.counters().at("demo").done, 2u);
    EXPECT_EQ(generator.counters().at("other").done, 1u);
}

TEST_F(GeneratorTest, a_model_that_fails_to_load_fails_alone) {
    const std::string path = folder_.path() + "/torn.gguf";
    std::filesystem::copy_file(FLEX_SOURCE_DIR "/models/demo/demo.gguf", path);
    ASSERT_TRUE(registry_->add_gguf("torn", path).ok());
    Generator generator({});
    test::slow_ms = 1;
    const auto good = request(20, 20, 1), bad = request(20, 20, 1, 0, "torn");
    std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2); // open, not yet loaded
    ASSERT_TRUE(generator.submit(good).ok());
    ASSERT_TRUE(generator.submit(bad).ok());
    const auto failed = finish(bad);
    ASSERT_FALSE(failed.ok());
    EXPECT_NE(failed.error().code, ErrorCode::kCancelled);
    test::slow_ms = 0;
    EXPECT_TRUE(finish(good).ok());
    EXPECT_EQ(generator.counters().at("torn").failed, 1u);
    EXPECT_EQ(generator.counters().at("demo").failed, 0u);
}

TEST_F(GeneratorTest, destroying_it_ends_what_runs_of_several_models) {
    test::slow_ms = 1;
    std::vector<std::shared_ptr<Generation>> all;
    {
        Generator generator({});
        for (const char* model : {"demo", "other", "demo", "other"}) {
            all.push_back(request(20, 400, static_cast<TokenId>(all.size()), 0, model));
            ASSERT_TRUE(generator.submit(all.back()).ok());
        }
        while (generator.status().running < all.size()) std::this_thread::sleep_for(1ms);
    }
    for (const auto& generation : all) EXPECT_EQ(finish(generation).error().code, ErrorCode::kCancelled);
}

TEST_F(GeneratorTest, more_models_than_threads_are_all_served) {
    for (const char* name : {"third", "fourth"})
        ASSERT_TRUE(registry_->add_gguf(name, FLEX_SOURCE_DIR "/models/demo/demo.gguf").ok());
    Generator generator({.max_lanes = 2});
    std::vector<std::shared_ptr<Generation>> all;
    for (int round = 0; round < 2; ++round) {
        for (const char* model : {"demo", "other", "third", "fourth"}) {
            all.push_back(request(20, 6, static_cast<TokenId>(round), 0, model));
            ASSERT_TRUE(generator.submit(all.back()).ok());
        }
    }
    for (const auto& generation : all) EXPECT_TRUE(finish(generation).ok());
    EXPECT_EQ(generator.status().done, all.size());
}

TEST_F(GeneratorTest, all_models_together_take_so_many_requests_and_no_more) {
    test::slow_ms = 1;
    Generator generator({.max_requests = 2});
    const auto one = request(20, 400), two = request(20, 400, 0, 0, "other"), three = request(20, 400);
    ASSERT_TRUE(generator.submit(one).ok());
    ASSERT_TRUE(generator.submit(two).ok());
    EXPECT_EQ(generator.submit(three).error().code, ErrorCode::kBusy);
}

/// What begins like another's prompt of the same caller, and goes on differently after `common` tokens.
std::vector<TokenId> variant(std::size_t common, std::size_t length, TokenId salt) {
    std::vector<TokenId> prompt;
    for (std::size_t i = 0; i < length; ++i)
        prompt.push_back(static_cast<TokenId>(100 + (i * 7 + (i < common ? 0 : salt)) % 300));
    return prompt;
}

class SharingTest : public GeneratorTest {
protected:
    std::shared_ptr<Generation> ask(const char* scope, std::vector<TokenId> prompt,
                                    std::uint32_t tokens = 4) {
        GenerationOptions options;
        options.max_tokens = tokens;
        options.keep_logits = true;
        options.sampler.temperature = 0;
        options.scope = scope;
        auto generation = std::make_shared<Generation>(model_, std::move(prompt), options,
                                                       std::chrono::steady_clock::now());
        EXPECT_TRUE(generator_.submit(generation).ok());
        return generation;
    }
    GenerationResult answer(const char* scope, std::vector<TokenId> prompt) {
        return finish(ask(scope, std::move(prompt))).value();
    }
    std::shared_ptr<pipeline::ServedModel> model_ = registry_->get("demo").value();
    Generator generator_{{}};
};

// 100 tokens in common: 3 whole blocks and 4 tokens of the next.
TEST_F(SharingTest, what_two_prompts_of_a_caller_begin_with_is_computed_once) {
    const auto reference = answer("", variant(100, 140, 9));
    EXPECT_EQ(answer("mine", variant(100, 140, 5)).cached_tokens, 0u);
    const auto second = answer("mine", variant(100, 140, 9));
    EXPECT_EQ(second.cached_tokens, 100u);
    EXPECT_EQ(second.tokens, reference.tokens);
    EXPECT_EQ(second.logits, reference.logits); // the same bits
    EXPECT_EQ(model_->conversations->status().blocks_shared, 3u);
    // The first is as it was: the second wrote into a copy.
    const auto first_again = answer("mine", variant(100, 140, 5));
    EXPECT_EQ(first_again.cached_tokens, 139u);
    EXPECT_EQ(first_again.logits, answer("", variant(100, 140, 5)).logits);
}

TEST_F(SharingTest, another_caller_s_equal_prompt_is_computed_anew_and_shares_no_block) {
    static_cast<void>(answer("mine", variant(100, 140, 5)));
    const std::uint64_t before = model_->conversations->status().shared_tokens;
    const auto theirs = answer("theirs", variant(100, 140, 5));
    EXPECT_EQ(theirs.cached_tokens, 0u);
    EXPECT_EQ(answer("", variant(100, 140, 5)).cached_tokens, 0u);
    EXPECT_EQ(model_->conversations->status().shared_tokens, before);
    EXPECT_EQ(model_->conversations->status().blocks_shared, 0u);
    EXPECT_EQ(model_->conversations->status().hits, 0u);
}

TEST_F(SharingTest, requests_that_come_together_compute_their_common_beginning_once) {
    const auto reference = answer("", variant(200, 230, 9));
    test::slow_ms = 1;
    const auto first = ask("mine", variant(200, 230, 5)), second = ask("mine", variant(200, 230, 9)),
               stranger = ask("theirs", variant(200, 230, 9));
    EXPECT_EQ(finish(first).value().cached_tokens, 0u);
    const auto shared = finish(second).value();
    EXPECT_EQ(shared.cached_tokens, 192u); // whole blocks
    EXPECT_EQ(shared.logits, reference.logits);
    EXPECT_EQ(finish(stranger).value().cached_tokens, 0u);
}

TEST_F(SharingTest, a_beginning_that_two_had_in_common_outlives_both) {
    static_cast<void>(answer("mine", variant(100, 140, 5)));
    static_cast<void>(answer("mine", variant(100, 140, 9)));
    EXPECT_EQ(model_->conversations->status().prefixes, 1u);
    for (TokenId salt = 0; salt < pipeline::Conversations::kMaxIdle; ++salt)
        static_cast<void>(answer("mine", variant(0, 40, static_cast<TokenId>(10 + salt))));
    EXPECT_EQ(answer("mine", variant(100, 140, 77)).cached_tokens, 96u);
}

TEST_F(SharingTest, memory_that_is_asked_back_takes_the_shared_beginnings_too) {
    const auto expected = answer("", variant(100, 140, 9));
    static_cast<void>(answer("mine", variant(100, 140, 5)));
    static_cast<void>(answer("mine", variant(100, 140, 9)));
    EXPECT_GE(model_->conversations->give_back(), 6 * model_->kv->layout().block_bytes());
    const auto status = model_->conversations->status();
    EXPECT_EQ(status.blocks_in_use + status.blocks_free, 0u);
    EXPECT_EQ(status.prefixes + status.idle, 0u);
    EXPECT_GT(status.evicted, 0u);
    const auto again = answer("mine", variant(100, 140, 9));
    EXPECT_EQ(again.cached_tokens, 0u);
    EXPECT_EQ(again.logits, expected.logits);
}

TEST_F(SharingTest, a_running_answer_does_not_change_when_memory_is_asked_back) {
    const auto expected = finish(ask("", variant(100, 140, 9), 20)).value();
    static_cast<void>(answer("mine", variant(100, 140, 5)));
    test::slow_ms = 1;
    const auto running = ask("mine", variant(100, 140, 9), 20);
    EXPECT_FALSE(next_text(running).empty());
    static_cast<void>(model_->conversations->give_back());
    test::slow_ms = 0;
    const auto result = finish(running).value();
    EXPECT_EQ(result.cached_tokens, 100u);
    EXPECT_EQ(result.tokens, expected.tokens);
}

} // namespace
} // namespace flex::api
