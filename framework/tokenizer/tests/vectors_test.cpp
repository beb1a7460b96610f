// llama.cpp's tokenizer vectors, from the data folder beside the repository.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "engine/gguf.h"
#include "tokenizer/tokenizer.h"

namespace flex::tokenizer {
namespace {

std::string folder() {
    const char* shared = std::getenv("FLEX_SHARED_DIR");
    return (shared != nullptr ? std::string(shared) : std::string(FLEX_SOURCE_DIR "/../shared")) +
           "/data/tokenizer/";
}

std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> split(const std::string& text, std::string_view separator) {
    std::vector<std::string> out;
    for (std::size_t at = 0;;) {
        const std::size_t end = text.find(separator, at);
        out.push_back(text.substr(at, end == std::string::npos ? end : end - at));
        if (end == std::string::npos) return out;
        at = end + separator.size();
    }
}

class Vectors : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Tokenizer, Vectors, ::testing::Values("llama-bpe", "qwen2"), [](const auto& info) {
    std::string name = info.param;
    std::erase(name, '-');
    return name;
});

TEST_P(Vectors, all_agree_with_llama_cpp) {
    const std::string name = GetParam();
    const std::string file = read(folder() + "vocab-" + name + ".gguf");
    const std::string inputs = read(folder() + name + ".inp"), outputs = read(folder() + name + ".out");
    if (file.empty() || inputs.empty()) GTEST_SKIP() << "no tokenizer vectors in " << folder();
    const auto gguf = engine::Gguf::parse(std::as_bytes(std::span(file)));
    ASSERT_TRUE(gguf.ok()) << gguf.error().message;
    const auto tokenizer = Tokenizer::create(*gguf);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;

    constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
    const std::vector<std::string> texts = split(inputs, kSeparator), lines = split(outputs, "\n");
    ASSERT_EQ(texts.size(), 47u);
    ASSERT_EQ(lines.size(), texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::string& text = texts[i];
        std::istringstream numbers(lines[i]);
        const std::vector<TokenId> expected{std::istream_iterator<TokenId>(numbers), {}};
        EXPECT_EQ(tokenizer->encode(text), expected) << text;
        EXPECT_EQ(tokenizer->decode(expected), text);
    }
}

} // namespace
} // namespace flex::tokenizer
