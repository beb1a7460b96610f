// What `flexserve synth` writes is a model that the engine and the tokenizer take.
#include "cli/synth.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>

#include "engine/model.h"
#include "engine/session.h"
#include "engine/thread_pool.h"
#include "port/files.h"
#include "tokenizer/tokenizer.h"

namespace flex::cli {
namespace {

class Synth : public ::testing::TestWithParam<const char*> {
protected:
    void TearDown() override { std::remove(path.c_str()); }
    std::vector<std::byte> write(const std::string& seed) {
        CLI::App app;
        register_synth(app);
        app.parse("synth --shape " + std::string(GetParam()) + " -o " + path + " --seed " + seed);
        auto content = port::read_file(path, std::size_t{64} << 20);
        EXPECT_TRUE(content);
        return std::move(*content);
    }
    const std::string path = ::testing::TempDir() + "synth-" + std::to_string(::getpid()) + ".gguf";
};

INSTANTIATE_TEST_SUITE_P(Shapes, Synth, ::testing::Values("tiny-qwen3", "tiny-llama"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

TEST_P(Synth, writes_a_model_whose_logits_are_sane) {
    const auto file = write("1");
    const auto gguf = engine::Gguf::parse(file);
    ASSERT_TRUE(gguf) << gguf.error().message;
    const auto model = engine::Model::from_gguf(*gguf, file);
    ASSERT_TRUE(model) << model.error().message;
    engine::ThreadPool pool(1);
    auto session = engine::Session::create(*model, pool);
    ASSERT_TRUE(session) << session.error().message;
    const TokenId prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
    const auto logits = (*session)->prefill(prompt);
    ASSERT_TRUE(logits) << logits.error().message;
    double squares = 0;
    for (const float v : *logits) squares += static_cast<double>(v) * static_cast<double>(v);
    const double deviation = std::sqrt(squares / static_cast<double>(logits->size()));
    EXPECT_GT(deviation, 0.1);
    EXPECT_LT(deviation, 20);
}

TEST_P(Synth, writes_a_vocabulary_that_merges_and_gives_every_text_back) {
    const auto file = write("1");
    const auto gguf = engine::Gguf::parse(file);
    ASSERT_TRUE(gguf);
    const auto tokenizer = tokenizer::Tokenizer::create(*gguf);
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    EXPECT_EQ(tokenizer->size(), 2048u);
    const std::string text = "The quick brown fox, 12345 times; größer \xf0\x9f\xa6\x8a\n";
    const auto ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    EXPECT_LT(ids.size(), text.size()) << "no merge was used";
    ASSERT_TRUE(tokenizer->eos());
    EXPECT_TRUE(tokenizer->ends_generation(*tokenizer->eos()));
}

TEST_P(Synth, depends_on_the_seed_alone) {
    const auto one = write("1"), again = write("1"), two = write("2");
    EXPECT_EQ(one, again);
    EXPECT_EQ(one.size(), two.size());
    EXPECT_NE(one, two);
}

} // namespace
} // namespace flex::cli
