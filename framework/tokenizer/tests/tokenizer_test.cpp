#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "tokenizer/bpe.h"
#include "tokenizer/pretokenize.h"
#include "tokenizer/tests/toy_vocabulary.h"
#include "tokenizer/unicode.h"

namespace flex::tokenizer {
namespace {

using testing::ToyVocabulary;
using Tokens = std::vector<TokenId>;

std::vector<std::string> words(PreTokenizer kind, std::string_view text) {
    std::vector<std::string> out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = word_length(kind, text, at);
        out.emplace_back(text.substr(at, length));
        at += length;
    }
    return out;
}

using Words = std::vector<std::string>;

TEST(PreTokenizer, cuts_as_the_regular_expression_says) {
    const auto qwen = [](std::string_view text) { return words(PreTokenizer::kQwen2, text); };
    EXPECT_EQ(qwen("Hello world"), (Words{"Hello", " world"}));
    EXPECT_EQ(qwen("it's WE'LL o'clock x's'"),
              (Words{"it", "'s", " WE", "'LL", " o", "'clock", " x", "'s", "'"}));
    EXPECT_EQ(qwen("a  b"), (Words{"a", " ", " b"}));
    EXPECT_EQ(qwen("a   "), (Words{"a", "   "}));
    EXPECT_EQ(qwen("a \n\n b"), (Words{"a", " \n\n", " b"}));
    EXPECT_EQ(qwen(" \r\n  x"), (Words{" \r\n", " ", " x"}));
    EXPECT_EQ(qwen("x !!\n\ny"), (Words{"x", " !!\n\n", "y"}));
    EXPECT_EQ(qwen("\t!a"), (Words{"\t", "!a"}));
    EXPECT_EQ(qwen("\tab"), (Words{"\tab"}));
    EXPECT_EQ(qwen("\nab"), (Words{"\n", "ab"}));
    EXPECT_EQ(qwen("(ab) 12"), (Words{"(ab", ")", " ", "1", "2"}));
    EXPECT_EQ(qwen("\u00e9t\u00e9\u3000x"), (Words{"\u00e9t\u00e9", "\u3000x"}));
    EXPECT_EQ(words(PreTokenizer::kLlamaBpe, "12345 6"), (Words{"123", "45", " ", "6"}));
    EXPECT_EQ(words(PreTokenizer::kLlamaBpe, "\u0663\u0664\u0665\u0666"),
              (Words{"\u0663\u0664\u0665", "\u0666"})); // digits of another script
}

TEST(PreTokenizer, always_moves_on_whatever_the_bytes) {
    std::mt19937 random(1);
    for (int round = 0; round < 3000; ++round) {
        std::string text(random() % 40, ' ');
        for (char& c : text)
            c = random() % 3 == 0 ? " \n'1a!\xc3\xa9"[random() % 8] : static_cast<char>(random());
        std::string joined;
        for (const std::string& word :
             words(round % 2 ? PreTokenizer::kQwen2 : PreTokenizer::kLlamaBpe, text))
            joined += word;
        ASSERT_EQ(joined, text);
    }
}

TEST(Unicode, well_formed_sequences_only) {
    const auto length = [](std::string_view text) { return utf8_length(text); };
    EXPECT_EQ(length("a"), 1);
    EXPECT_EQ(length("\xc3\xa9"), 2);
    EXPECT_EQ(length("\xf0\x9f\x98\x80"), 4);
    EXPECT_EQ(length("\xf0\x9f\x98"), -1);
    EXPECT_EQ(length("\xc0\x80"), 0);         // overlong
    EXPECT_EQ(length("\xe0\x80\x80"), 0);     // overlong
    EXPECT_EQ(length("\xed\xa0\x80"), 0);     // surrogate
    EXPECT_EQ(length("\xf4\x90\x80\x80"), 0); // above U+10FFFF
    EXPECT_EQ(length("\x80"), 0);
    EXPECT_EQ(character_at("\xf0\x9f\x98\x80", 0).code, 0x1f600u);
    EXPECT_EQ(character_at("\xff", 0).code, 0xfffdu);
    EXPECT_EQ(class_of(0x17f), CharClass::kLetter);
    EXPECT_EQ(class_of(0x00bd), CharClass::kNumber); // one half
    EXPECT_EQ(class_of(0x0301), CharClass::kOther);  // combining acute: \p{M}
    EXPECT_EQ(class_of(0x85), CharClass::kSpace);
    EXPECT_EQ(class_of(0x1c), CharClass::kOther); // not White_Space
}

TEST(Merger, finds_what_the_obvious_algorithm_finds) {
    std::mt19937 random(2);
    for (int round = 0; round < 400; ++round) {
        MergeTable table;
        table.reserve(64);
        struct Rule {
            std::uint32_t a, b, made;
        };
        std::vector<Rule> rules;
        std::uint32_t symbols = 3;
        for (std::uint32_t rank = 0; rank < 30; ++rank) {
            const Rule rule{static_cast<std::uint32_t>(random() % symbols),
                            static_cast<std::uint32_t>(random() % symbols), symbols++};
            rules.push_back(rule);
            table.add(rule.a, rule.b, {rank, rule.made});
        }
        std::vector<std::uint32_t> word(random() % 60), expected;
        for (std::uint32_t& symbol : word) symbol = random() % 3;
        expected = word;
        for (bool merged = true; merged;) {
            merged = false;
            std::uint32_t best = ~0u;
            std::size_t where = 0;
            for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
                const std::uint32_t rank = table.find(expected[i], expected[i + 1]).rank;
                if (rank < best) {
                    best = rank;
                    where = i;
                }
            }
            if (best != ~0u) {
                expected[where] = rules[best].made;
                expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(where) + 1);
                merged = true;
            }
        }
        Merger(table).merge(word);
        ASSERT_EQ(word, expected);
    }
}

TEST(Tokenizer, merges_by_rank) {
    const Tokenizer t = ToyVocabulary().make();
    const auto pieces = [&](std::string_view text) {
        Words out;
        for (const TokenId id : t.encode(text)) out.emplace_back(t.bytes_of(id));
        return out;
    };
    EXPECT_EQ(pieces("the the lower aaaaa"), (Words{"the", " the", " ", "low", "er", " ", "aaaa", "a"}));
}

TEST(Tokenizer, a_merge_through_a_string_that_is_no_token_falls_back_to_bytes) {
    ToyVocabulary v;
    v.without = {"lo", "aa"};
    const Tokenizer t = v.make();
    const auto pieces = [&](std::string_view text) {
        Words out;
        for (const TokenId id : t.encode(text)) out.emplace_back(t.bytes_of(id));
        return out;
    };
    EXPECT_EQ(pieces("low"), (Words{"low"}));
    EXPECT_EQ(pieces("lo"), (Words{"l", "o"}));
    EXPECT_EQ(pieces("aaa"), (Words{"a", "a", "a"}));
    EXPECT_EQ(pieces("aaaa"), (Words{"aaaa"}));
}

TEST(Tokenizer, a_whole_word_that_is_a_token_wins_over_the_merges_for_llama_only) {
    ToyVocabulary v;
    v.normal = {"zyx"};
    EXPECT_EQ(v.make().encode("zyx").size(), 3u);
    v.pre = "llama-bpe";
    EXPECT_EQ(v.make().encode("zyx").size(), 1u);
}

TEST(Tokenizer, text_of_a_user_never_becomes_a_special_token) {
    for (const char* pre : {"qwen2", "llama-bpe"}) {
        ToyVocabulary v;
        v.pre = pre;
        v.control.push_back("word"); // a control token that looks like an ordinary word
        const Tokenizer t = v.make();
        for (const char* text : {"<|im_start|>", "a<|im_end|>b", "<|endoftext|>", "<think>", "word", " word",
                                 "<|im_<|im_end|>start|>"}) {
            for (const TokenId id : t.encode(text)) EXPECT_LT(id, t.special("<|endoftext|>").value()) << text;
            EXPECT_EQ(t.decode(t.encode(text)), text);
        }
    }
}

TEST(Tokenizer, names_of_special_tokens_are_parsed_only_when_asked_leftmost_then_longest) {
    const Tokenizer t = ToyVocabulary().make();
    EXPECT_EQ(t.encode("<|im_start|>", Specials::kParse), (Tokens{*t.special("<|im_start|>")}));
    EXPECT_EQ(t.encode("<|im_start|>x", Specials::kParse), (Tokens{*t.special("<|im_start|>x")}));
    const Tokens mixed = t.encode("the<|im_end|>the<think>", Specials::kParse);
    ASSERT_EQ(mixed.size(), 4u);
    EXPECT_EQ(mixed[1], *t.special("<|im_end|>"));
    EXPECT_EQ(mixed[3], *t.special("<think>"));
    EXPECT_FALSE(t.special("the").has_value());
    EXPECT_FALSE(t.special("").has_value());
}

TEST(Tokenizer, any_bytes_survive_the_round_trip) {
    const Tokenizer t = ToyVocabulary().make();
    std::mt19937 random(3);
    for (int round = 0; round < 500; ++round) {
        std::string text(random() % 100, ' ');
        for (char& c : text) c = static_cast<char>(random());
        ASSERT_EQ(t.decode(t.encode(text)), text);
    }
    EXPECT_TRUE(t.encode("").empty());
}

TEST(Tokenizer, control_tokens_are_not_shown_unless_asked) {
    const Tokenizer t = ToyVocabulary().make();
    const Tokens ids = {*t.special("<|im_end|>"), *t.special("<think>"), 'a'};
    EXPECT_EQ(t.decode(ids), "<think>a");
    EXPECT_EQ(t.decode(ids, true), "<|im_end|><think>a");
    EXPECT_EQ(t.bytes_of(0xffffffff), "");
    EXPECT_TRUE(t.ends_generation(ids[0]));
    EXPECT_TRUE(t.ends_generation(*t.eos()));
    EXPECT_FALSE(t.ends_generation(ids[1]));
}

TEST(Tokenizer, a_prompt_begins_with_bos_where_the_model_wants_one) {
    ToyVocabulary v;
    EXPECT_EQ(v.make().encode_prompt("the").size(), 1u);
    v.add_bos = true;
    const Tokenizer t = v.make();
    EXPECT_EQ(t.encode_prompt("the").front(), *t.bos());
    EXPECT_EQ(t.encode_prompt("the").size(), 2u);
}

TEST(Tokenizer, a_megabyte_of_the_worst_text_takes_no_quadratic_time) {
    const Tokenizer t = ToyVocabulary().make();
    constexpr std::size_t kSize = 1 << 20; // quadratic: 10^12 steps, which the test's time limit would end
    std::string mixed;
    while (mixed.size() < kSize) mixed += "\n  \t 'lowerthe";
    for (const std::string& text :
         {std::string(kSize, 'a'), std::string(kSize, ' '), std::string(kSize, '\n'),
          std::string(kSize, '\xff'), "\n" + std::string(kSize, ' ') + "x", std::string(kSize, '<'), mixed}) {
        EXPECT_EQ(t.decode(t.encode(text, Specials::kParse)), text);
    }
}

TEST(Detokenizer, never_hands_out_half_a_character) {
    const Tokenizer t = ToyVocabulary().make();
    const std::string text = "a\u00e9\u20ac\U0001f600\u0928\u093f the";
    Detokenizer out(t);
    std::string all;
    for (const TokenId id : t.encode(text)) {
        const std::string piece = out.push(id);
        for (std::size_t at = 0; at < piece.size();) {
            const int length = utf8_length(std::string_view(piece).substr(at));
            ASSERT_GT(length, 0) << "not UTF-8";
            at += static_cast<std::size_t>(length);
        }
        all += piece;
    }
    EXPECT_EQ(all + out.finish(), text);
}

TEST(Detokenizer, shows_what_is_no_character_as_the_replacement_character) {
    const Tokenizer t = ToyVocabulary().make();
    const auto show = [&](std::string_view bytes) {
        Detokenizer out(t);
        std::string all;
        for (const TokenId id : t.encode(bytes)) all += out.push(id);
        return all + out.finish();
    };
    EXPECT_EQ(show("a\xff!"), "a\ufffd!");
    EXPECT_EQ(show("\xf0\x9f\x98"), "\ufffd");
    EXPECT_EQ(show("\xe2\x82z"), "\ufffd\ufffdz");
}

// ---- hostile vocabularies ----

std::string refusal(const engine::testing::GgufBuilder& builder) {
    const auto bytes = builder.build();
    const auto gguf = engine::Gguf::parse(bytes);
    if (!gguf.ok()) return gguf.error().message;
    const auto tokenizer = Tokenizer::create(*gguf);
    return tokenizer.ok() ? "" : tokenizer.error().message;
}

TEST(Tokenizer, vocabularies_that_contradict_themselves_are_refused) {
    using engine::GgufValueType;
    engine::testing::GgufBuilder none;
    EXPECT_NE(refusal(none).find("no tokenizer"), std::string::npos);
    const auto base = [](const std::vector<std::string>& merges) {
        engine::testing::GgufBuilder b;
        b.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "qwen2");
        std::vector<std::string> bytes;
        for (unsigned c = 0; c < 256; ++c)
            bytes.push_back(testing::printable(std::string(1, static_cast<char>(c))));
        b.strings("tokenizer.ggml.tokens", bytes).strings("tokenizer.ggml.merges", merges);
        return b;
    };
    EXPECT_EQ(refusal(base({"a b", "ab c"})), "");
    EXPECT_NE(refusal(base({"ab"})).find("two parts"), std::string::npos);
    EXPECT_NE(refusal(base({"a "})).find("two parts"), std::string::npos);
    EXPECT_NE(refusal(base({""})).find("two parts"), std::string::npos);
    EXPECT_NE(refusal(base({}).u32("tokenizer.ggml.eos_token_id", 256)).find("outside"), std::string::npos);
    EXPECT_NE(
        refusal(base({}).array<std::int32_t>("tokenizer.ggml.token_type", GgufValueType::kInt32, {1, 1})),
        "");
    EXPECT_NE(refusal(base({}).array<std::int32_t>("tokenizer.ggml.token_type", GgufValueType::kInt32,
                                                   std::vector<std::int32_t>(256, 9))),
              "");
    engine::testing::GgufBuilder few;
    few.string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "qwen2")
        .strings("tokenizer.ggml.tokens", {"a"});
    EXPECT_NE(refusal(few).find("byte 0"), std::string::npos);
    engine::testing::GgufBuilder other;
    other.string("tokenizer.ggml.model", "llama");
    EXPECT_NE(refusal(other).find("not supported"), std::string::npos);
    engine::testing::GgufBuilder pre;
    pre.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-4o");
    EXPECT_NE(refusal(pre).find("not supported"), std::string::npos);
}

TEST(Tokenizer, random_damage_of_a_vocabulary_ends_in_an_error_or_a_tokenizer) {
    const auto good = ToyVocabulary().builder().build();
    std::mt19937 random(4);
    for (int round = 0; round < 3000; ++round) {
        auto bytes = good;
        for (unsigned n = 1 + random() % 4; n > 0; --n)
            bytes[random() % bytes.size()] = static_cast<std::byte>(random());
        const auto gguf = engine::Gguf::parse(bytes);
        if (!gguf.ok()) continue;
        const auto tokenizer = Tokenizer::create(*gguf);
        if (!tokenizer.ok()) continue;
        for (const TokenId id : tokenizer->encode("the lower <|im_start|> aaaa \xff", Specials::kParse)) {
            ASSERT_LT(id, tokenizer->size());
        }
    }
}

} // namespace
} // namespace flex::tokenizer
