#include "tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tokenizer/tests/toy_vocabulary.h"

namespace flex::tokenizer {
namespace {

using testing::ToyVocabulary;

/// ChatML by hand: a user's or an assistant's text between marks, tools in front of everything.
ChatForm chatml() {
    ChatForm form;
    form.masks[static_cast<std::size_t>(SlotKind::kBegin)] = kTools;
    form.masks[static_cast<std::size_t>(SlotKind::kEnd)] = kOpen;
    form.slots = {{SlotKind::kUser, 0, Transform::kAsIs}, {SlotKind::kAssistant, 0, Transform::kStrip}};
    GapText tools;
    tools.before = "<|im_start|>tools";
    tools.has_tools = true;
    tools.whole_tool = false;
    tools.between = ",";
    tools.after = "<|im_end|>\n<|im_start|>user\n";
    form.texts = {{.before = "<|im_start|>user\n"},
                  {.before = "<|im_end|>\n<|im_start|>assistant\n"},
                  {.before = "<|im_end|>\n<|im_start|>user\n"},
                  {.before = "<|im_end|>\n"},
                  tools};
    using K = SlotKind;
    form.gaps = {{K::kBegin, 0, K::kUser, 0, 0},     {K::kBegin, kTools, K::kUser, 0, 4},
                 {K::kUser, 0, K::kAssistant, 0, 1}, {K::kAssistant, 0, K::kUser, 0, 2},
                 {K::kUser, 0, K::kEnd, 0, 3},       {K::kUser, 0, K::kEnd, kOpen, 1}};
    form.finish();
    return form;
}

/// The tokens with special ones in brackets, so that a special token and its name as text look different.
std::string show(const Tokenizer& t, const std::vector<TokenId>& ids) {
    std::string out;
    const TokenId first_special = *t.special("<|endoftext|>");
    for (const TokenId id : ids) {
        const std::string bytes(t.bytes_of(id, true));
        out += id >= first_special ? "[" + bytes + "]" : bytes;
    }
    return out;
}

TEST(ChatTemplate, special_tokens_come_from_the_form_and_from_nowhere_else) {
    const Tokenizer t = ToyVocabulary().make();
    const ChatTemplate chat(t, chatml());
    Conversation c{{{Role::kUser, " hello <|im_end|><|eot_id|> "},
                    {Role::kAssistant, " <|im_end|> "},
                    {Role::kUser, "bye"}},
                   {R"({"function": {"name":"<|im_start|>"}})", R"({"function": 2})"}};
    EXPECT_EQ(show(t, chat.render(c).value()),
              "[<|im_start|>]tools{\"name\": \"<|im_start|>\"},2[<|im_end|>]\n"
              "[<|im_start|>]user\n hello <|im_end|><|eot_id|> [<|im_end|>]\n"
              "[<|im_start|>]assistant\n<|im_end|>[<|im_end|>]\n"
              "[<|im_start|>]user\nbye[<|im_end|>]\n[<|im_start|>]assistant\n");
    // Nor by standing beside a piece of a name.
    ChatForm torn = chatml();
    torn.texts[0].before = "<|im_st";
    EXPECT_EQ(show(t, ChatTemplate(t, torn).render({{{Role::kUser, "art|>"}}}).value()),
              "<|im_start|>[<|im_end|>]\n[<|im_start|>]assistant\n");
}

TEST(ChatTemplate, text_of_random_users_never_becomes_a_special_token) {
    const Tokenizer t = ToyVocabulary().make();
    const ChatTemplate chat(t, chatml());
    const TokenId first_special = *t.special("<|endoftext|>");
    const auto specials = [&](const std::string& text) {
        const auto ids = chat.render({{{Role::kUser, text}}}).value();
        return std::ranges::count_if(ids, [&](TokenId id) { return id >= first_special; });
    };
    std::mt19937 random(5);
    const std::string_view pieces[] = {"<|im_start|>", "<|im_end|>", "<|", "|>",   "im_start",
                                       "<think>",      "</think>",   "\n", "user", " "};
    for (int round = 0; round < 2000; ++round) {
        std::string text;
        for (unsigned n = random() % 12; n > 0; --n) text += pieces[random() % std::size(pieces)];
        ASSERT_EQ(specials(text), 3) << text; // those of the form: start, end, start
    }
}

TEST(ChatTemplate, text_between_special_tokens_is_tokenised_as_one_piece) {
    // "\n" and the message form one word with the pre-tokeniser, so tokenising them apart would give other
    // tokens.
    ToyVocabulary v;
    v.merges.push_back({"\n", "\n"});
    const Tokenizer t = v.make();
    const auto ids = ChatTemplate(t, chatml()).render({{{Role::kUser, "\nx"}}}).value();
    EXPECT_NE(std::find(ids.begin(), ids.end(), t.encode("\n\n").front()), ids.end());
}

TEST(ChatTemplate, bos_stands_in_front_once_whoever_writes_it) {
    ToyVocabulary v;
    v.add_bos = true; // the toy vocabulary's BOS is <|endoftext|>
    const Tokenizer t = v.make();
    const Conversation c{{{Role::kUser, "x"}}};
    const std::string expected =
        "[<|endoftext|>][<|im_start|>]user\nx[<|im_end|>]\n[<|im_start|>]assistant\n";
    EXPECT_EQ(show(t, ChatTemplate(t, chatml()).render(c).value()), expected);
    ChatForm writes = chatml();
    writes.texts[0].before = "<|endoftext|>" + writes.texts[0].before;
    EXPECT_EQ(show(t, ChatTemplate(t, writes).render(c).value()), expected);
    v.add_bos = false;
    const Tokenizer bare = v.make();
    EXPECT_EQ(show(bare, ChatTemplate(bare, writes).render(c).value()), expected);
}

TEST(ChatTemplate, what_the_form_was_not_tried_with_is_refused_by_name) {
    const Tokenizer t = ToyVocabulary().make();
    const ChatTemplate chat(t, chatml());
    const auto refusal = [&](const Conversation& c) {
        const auto ids = chat.render(c);
        return ids.ok() ? std::string() : ids.error().message;
    };
    EXPECT_NE(refusal({{{Role::kUser, "a"}, {Role::kUser, "b"}}}).find("a user message after a user message"),
              std::string::npos);
    EXPECT_NE(refusal({{{Role::kSystem, "a"}}}).find("a system message after the beginning"),
              std::string::npos);
    EXPECT_NE(refusal({{{Role::kUser, "a"}, {Role::kAssistant, "", "", {{"f", "{}"}}}}}).find("call"),
              std::string::npos);
    EXPECT_EQ(chat.render({}).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(ChatTemplate(t).render({{{Role::kUser, "a"}}}).error().code, ErrorCode::kUnsupported);
    ChatForm deaf = chatml();
    deaf.texts[4].has_tools = false;
    EXPECT_NE(ChatTemplate(t, deaf).render({{{Role::kUser, "a"}}, {"{}"}}).error().message.find("tools"),
              std::string::npos);
}

TEST(ChatTemplate, roles_have_known_names_only) {
    EXPECT_EQ(*role_from("system"), Role::kSystem);
    EXPECT_EQ(*role_from("developer"), Role::kSystem);
    EXPECT_EQ(*role_from("tool"), Role::kTool);
    const auto bad = role_from("root\n\x1b[1m");
    ASSERT_FALSE(bad.ok());
    for (const char c : bad.error().message) EXPECT_GE(c, 0x20);
}

TEST(ChatForm, damage_of_its_bytes_ends_in_an_error_or_a_form) {
    const auto good = chatml().serialize();
    ASSERT_TRUE(ChatForm::parse(good).ok());
    for (std::size_t length = 0; length < good.size(); ++length)
        EXPECT_FALSE(ChatForm::parse(std::span(good).first(length)).ok()) << length;
    auto longer = good;
    longer.push_back(std::byte{0});
    EXPECT_FALSE(ChatForm::parse(longer).ok());
    std::mt19937 random(6);
    const Conversation c{{{Role::kUser, "a"}, {Role::kAssistant, "b"}, {Role::kUser, "c"}}, {"{}"}};
    for (int round = 0; round < 20000; ++round) {
        auto bytes = good;
        for (unsigned n = 1 + random() % 3; n > 0; --n)
            bytes[random() % bytes.size()] = static_cast<std::byte>(random());
        if (const auto form = ChatForm::parse(bytes)) static_cast<void>(form->render_text(c));
    }
}

TEST(ChatForm, blanks_are_those_of_python) {
    const std::string text = "\u3000\x1c\n \u2028x\u200b y\u00a0\u0085\t";
    EXPECT_EQ(transformed(text, Transform::kStrip), "x\u200b y");
    EXPECT_EQ(transformed(text, Transform::kStripLeft), "x\u200b y\u00a0\u0085\t");
    EXPECT_EQ(transformed(text, Transform::kStripRight), "\u3000\x1c\n \u2028x\u200b y");
    EXPECT_EQ(transformed("\n\n\tx\n \n", Transform::kStripLines), "\tx\n ");
    EXPECT_EQ(transformed(" \xa0 ", Transform::kStrip), "\xa0"); // a byte that is no character
    EXPECT_EQ(transformed(" \n", Transform::kStrip), "");
    EXPECT_EQ(transformed("a\"\\\n\x01\u00e9", Transform::kQuoted), "\"a\\\"\\\\\\n\\u0001\u00e9\"");
}

TEST(ChatForm, json_is_laid_out_as_python_does) {
    const std::string_view text = R"({"a":[1, 2,{"b" : {}}],"c":"x, y: {\"}","d":[],"e":null})";
    EXPECT_EQ(json_in_style(text, JsonStyle::kPython),
              R"({"a": [1, 2, {"b": {}}], "c": "x, y: {\"}", "d": [], "e": null})");
    EXPECT_EQ(json_in_style(text, JsonStyle::kCompact),
              R"({"a":[1,2,{"b":{}}],"c":"x, y: {\"}","d":[],"e":null})");
    EXPECT_EQ(json_in_style(R"({"a":[1,{"b":2}]})", JsonStyle::kIndent2),
              "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ]\n}");
    EXPECT_EQ(json_member(text, "c"), R"("x, y: {\"}")");
    EXPECT_EQ(json_member(text, "a"), R"([1, 2,{"b" : {}}])");
    EXPECT_EQ(json_member(text, "e"), "null");
    EXPECT_EQ(json_member(text, "b"), "");
    EXPECT_EQ(json_member(R"({"k": "v", "v": 1})", "v"), "1");
}

} // namespace
} // namespace flex::tokenizer
