// A small byte-level vocabulary with special tokens, made in memory.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/gguf.h"
#include "engine/tests/gguf_builder.h"
#include "tokenizer/tokenizer.h"

namespace flex::tokenizer::testing {

/// GPT-2's printable form of bytes.
inline std::string printable(std::string_view bytes) {
    std::string out;
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        const auto itself = [](unsigned b) {
            return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        };
        unsigned code = byte;
        if (!itself(byte)) {
            code = 0x100;
            for (unsigned b = 0; b < byte; ++b) code += itself(b) ? 0 : 1;
        }
        if (code < 0x80) {
            out += static_cast<char>(code);
        } else {
            out += static_cast<char>(0xc0 | (code >> 6));
            out += static_cast<char>(0x80 | (code & 0x3f));
        }
    }
    return out;
}

struct ToyVocabulary {
    std::string pre = "qwen2";
    std::string chat_template;
    bool add_bos = false;
    /// Each merge makes a token of its two parts, in rank order, unless listed in `without`.
    std::vector<std::pair<std::string, std::string>> merges = {{"t", "h"},   {"h", "e"},   {"th", "e"},
                                                               {" ", "the"}, {"l", "o"},   {"lo", "w"},
                                                               {"a", "a"},   {"aa", "aa"}, {"e", "r"}};
    std::vector<std::string> control = {"<|endoftext|>", "<|im_start|>",        "<|im_end|>",
                                        "<|eot_id|>",    "<|start_header_id|>", "<|end_header_id|>",
                                        "<|im_start|>x"};
    std::vector<std::string> user_defined = {"<think>", "</think>"};
    std::vector<std::string> normal;  // further tokens that no merge makes
    std::vector<std::string> without; // merged strings that are no tokens

    [[nodiscard]] engine::testing::GgufBuilder builder() const {
        std::vector<std::string> tokens;
        std::vector<std::int32_t> types;
        const auto add = [&](const std::string& text, int type) {
            tokens.push_back(text);
            types.push_back(type);
        };
        for (unsigned byte = 0; byte < 256; ++byte)
            add(printable(std::string(1, static_cast<char>(byte))), 1);
        std::vector<std::string> rules;
        for (const auto& [a, b] : merges) {
            rules.push_back(printable(a) + " " + printable(b));
            bool skip = false;
            for (const std::string& w : without) skip |= w == a + b;
            if (!skip) add(printable(a + b), 1);
        }
        for (const std::string& text : normal) add(printable(text), 1);
        const std::size_t first_special = tokens.size();
        for (const std::string& text : control) add(text, 3);
        for (const std::string& text : user_defined) add(text, 4);
        engine::testing::GgufBuilder out;
        out.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
        out.strings("tokenizer.ggml.tokens", tokens).strings("tokenizer.ggml.merges", rules);
        out.array("tokenizer.ggml.token_type", engine::GgufValueType::kInt32, types);
        out.u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(first_special));
        out.u32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(first_special));
        out.boolean("tokenizer.ggml.add_bos_token", add_bos);
        if (!chat_template.empty()) out.string("tokenizer.chat_template", chat_template);
        return out;
    }

    [[nodiscard]] Tokenizer make() const {
        const auto bytes = builder().build();
        const auto gguf = engine::Gguf::parse(bytes);
        EXPECT_TRUE(gguf.ok()) << gguf.error().message;
        auto tokenizer = Tokenizer::create(*gguf);
        EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        return std::move(tokenizer).value();
    }
};

} // namespace flex::tokenizer::testing
