// llama.cpp's tokenizer vectors, from the data folder beside the repository.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <unordered_map>

#include "engine/gguf.h"
#include "tokenizer/pretokenize.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

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

/// Rank files: "base64-of-the-token rank" a line.
std::unordered_map<std::string, TokenId> read_ranks(const std::string& file) {
    const auto value = [](char c) -> unsigned {
        if (c >= 'A' && c <= 'Z') return static_cast<unsigned>(c - 'A');
        if (c >= 'a' && c <= 'z') return static_cast<unsigned>(c - 'a') + 26;
        if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0') + 52;
        return c == '+' ? 62 : 63;
    };
    std::unordered_map<std::string, TokenId> ranks;
    std::istringstream lines(file);
    std::string code;
    for (TokenId rank = 0; lines >> code >> rank;) {
        std::string token;
        unsigned bits = 0, count = 0;
        for (const char c : code) {
            if (c == '=') break;
            bits = bits << 6 | value(c);
            count += 6;
            if (count >= 8) token += static_cast<char>(bits >> (count -= 8));
        }
        ranks.emplace(token, rank);
    }
    return ranks;
}

/// The definition: as long as two neighbours together are a token, join those of the lowest rank.
void encode_by_rank(const std::unordered_map<std::string, TokenId>& ranks, std::string_view word,
                    std::vector<TokenId>& out) {
    std::vector<std::string> parts;
    for (const char c : word) parts.emplace_back(1, c);
    for (;;) {
        TokenId best = ~TokenId{0};
        std::size_t at = 0;
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
            const auto found = ranks.find(parts[i] + parts[i + 1]);
            if (found != ranks.end() && found->second < best) {
                best = found->second;
                at = i;
            }
        }
        if (best == ~TokenId{0}) break;
        parts[at] += parts[at + 1];
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    for (const std::string& part : parts) out.push_back(ranks.at(part));
}

std::string random_text(std::mt19937& random) {
    // Alphabets with what makes words difficult: marks, digits of several scripts, blanks, symbols, emoji
    // with joiners.
    constexpr std::pair<std::uint32_t, std::uint32_t> kRanges[] = {
        {0x20, 0x7e},     {'a', 'z'},       {'a', 'z'},        {'0', '9'},       {0x09, 0x0d},
        {0xa0, 0x24f},    {0x300, 0x36f},   {0x370, 0x5ff},    {0x600, 0x6ff},   {0x900, 0x97f},
        {0xe00, 0xe7f},   {0x2000, 0x206f}, {0x20a0, 0x2bff},  {0x3000, 0x30ff}, {0x4e00, 0x9fff},
        {0xac00, 0xd7a3}, {0xfe00, 0xfe0f}, {0x1f300, 0x1faff}};
    std::string out;
    for (unsigned run = random() % 12; run > 0; --run) {
        const auto [from, to] = kRanges[random() % std::size(kRanges)];
        for (unsigned n = 1 + random() % 6; n > 0; --n) {
            const std::uint32_t c = from + static_cast<std::uint32_t>(random()) % (to - from + 1);
            if (c < 0x80) {
                out += static_cast<char>(c);
            } else if (c < 0x800) {
                out += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
            } else if (c < 0x10000) {
                out += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
                        static_cast<char>(0x80 | (c & 63))};
            } else {
                out += {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
                        static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
            }
        }
        if (random() % 3 == 0) out += ' ';
    }
    return out;
}

TEST_P(Vectors, agree_with_merging_by_rank_on_ten_thousand_random_texts) {
    const std::string name = GetParam();
    const bool llama = name == "llama-bpe";
    const std::string file = read(folder() + "vocab-" + name + ".gguf");
    const auto ranks = read_ranks(read(folder() + (llama ? "llama3" : "qwen") + ".tiktoken"));
    if (file.empty() || ranks.empty()) GTEST_SKIP() << "no rank files in " << folder();
    const auto gguf = engine::Gguf::parse(std::as_bytes(std::span(file)));
    ASSERT_TRUE(gguf.ok()) << gguf.error().message;
    const auto tokenizer = Tokenizer::create(*gguf);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    std::mt19937 random(10);
    for (int round = 0; round < 10000; ++round) {
        const std::string text = random_text(random);
        std::vector<TokenId> expected;
        for (std::size_t at = 0; at < text.size();) {
            const std::size_t length =
                word_length(llama ? PreTokenizer::kLlamaBpe : PreTokenizer::kQwen2, text, at);
            encode_by_rank(ranks, std::string_view(text).substr(at, length), expected);
            at += length;
        }
        ASSERT_EQ(tokenizer->encode(text), expected) << text;
        ASSERT_EQ(tokenizer->decode(expected), text);
        // Shown piece by piece, it is valid UTF-8 at every step.
        Detokenizer shown(*tokenizer);
        std::string all;
        for (const TokenId id : expected) {
            const std::string piece = shown.push(id);
            for (std::size_t at = 0; at < piece.size();) {
                const int length = utf8_length(std::string_view(piece).substr(at));
                ASSERT_GT(length, 0);
                at += static_cast<std::size_t>(length);
            }
            all += piece;
        }
        ASSERT_EQ(all + shown.finish(), text);
    }
}

} // namespace
} // namespace flex::tokenizer
