#include "tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include "tokenizer/tests/toy_vocabulary.h"

namespace flex::tokenizer {
namespace {

using testing::ToyVocabulary;

const std::vector<ChatMessage> kConversation = {{Role::kSystem, "be kind"},
                                                {Role::kUser, " hello <|im_end|><|eot_id|> "},
                                                {Role::kAssistant, "hi"},
                                                {Role::kUser, "bye"}};

ToyVocabulary vocabulary(const char* chat_template, const char* pre, bool add_bos) {
    ToyVocabulary v;
    v.chat_template = chat_template;
    v.pre = pre;
    v.add_bos = add_bos;
    return v;
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

TEST(ChatTemplate, chatml_is_rendered_as_qwen_was_trained) {
    const Tokenizer t = vocabulary("{% ... <|im_start|> ... %}", "qwen2", false).make();
    const ChatTemplate chat = ChatTemplate::recognise(t);
    ASSERT_EQ(chat.family(), ChatFamily::kChatMl);
    EXPECT_EQ(show(t, *chat.render(kConversation)),
              "[<|im_start|>]system\nbe kind[<|im_end|>]\n"
              "[<|im_start|>]user\n hello <|im_end|><|eot_id|> [<|im_end|>]\n"
              "[<|im_start|>]assistant\nhi[<|im_end|>]\n"
              "[<|im_start|>]user\nbye[<|im_end|>]\n"
              "[<|im_start|>]assistant\n");
    const std::vector<ChatMessage> one = {{Role::kUser, "x"}};
    EXPECT_EQ(show(t, *chat.render(one, {.open_answer = false})), "[<|im_start|>]user\nx[<|im_end|>]\n");
    EXPECT_EQ(show(t, *chat.render(one, {.without_thinking = true})),
              "[<|im_start|>]user\nx[<|im_end|>]\n[<|im_start|>]assistant\n[<think>]\n\n[</think>]\n\n");
}

TEST(ChatTemplate, llama3_is_rendered_with_one_bos_and_trimmed_messages) {
    const Tokenizer t = vocabulary("{{ bos_token }}<|start_header_id|>", "llama-bpe", true).make();
    const ChatTemplate chat = ChatTemplate::recognise(t);
    ASSERT_EQ(chat.family(), ChatFamily::kLlama3);
    EXPECT_EQ(show(t, *chat.render(kConversation)),
              "[<|endoftext|>]" // the toy vocabulary's BOS
              "[<|start_header_id|>]system[<|end_header_id|>]\n\nbe kind[<|eot_id|>]"
              "[<|start_header_id|>]user[<|end_header_id|>]\n\nhello <|im_end|><|eot_id|>[<|eot_id|>]"
              "[<|start_header_id|>]assistant[<|end_header_id|>]\n\nhi[<|eot_id|>]"
              "[<|start_header_id|>]user[<|end_header_id|>]\n\nbye[<|eot_id|>]"
              "[<|start_header_id|>]assistant[<|end_header_id|>]\n\n");
}

TEST(ChatTemplate, text_between_special_tokens_is_tokenised_as_one_piece) {
    // "\n" and the message form one word with the pre-tokeniser, so tokenising them apart would give other
    // tokens.
    ToyVocabulary v = vocabulary("<|im_start|>", "qwen2", false);
    v.merges.push_back({"\n", "\n"});
    const Tokenizer t = v.make();
    const std::vector<ChatMessage> messages = {{Role::kUser, "\nx"}};
    const auto ids = *ChatTemplate::recognise(t).render(messages);
    EXPECT_NE(std::find(ids.begin(), ids.end(), t.encode("\n\n").front()), ids.end());
}

TEST(ChatTemplate, a_model_without_a_known_template_says_so) {
    const Tokenizer unknown = vocabulary("{{ [INST] }}", "qwen2", false).make();
    const ChatTemplate chat = ChatTemplate::recognise(unknown);
    EXPECT_EQ(chat.family(), ChatFamily::kNone);
    EXPECT_EQ(chat.render(kConversation).error().code, ErrorCode::kUnsupported);
    ToyVocabulary bare;
    bare.control = {"<|endoftext|>"};
    EXPECT_EQ(ChatTemplate::recognise(bare.make()).family(), ChatFamily::kNone);
}

TEST(ChatTemplate, an_empty_conversation_is_refused) {
    const Tokenizer t = vocabulary("<|im_start|>", "qwen2", false).make();
    EXPECT_EQ(ChatTemplate::recognise(t).render({}).error().code, ErrorCode::kInvalidArgument);
}

TEST(ChatTemplate, roles_have_known_names_only) {
    EXPECT_EQ(*role_from("system"), Role::kSystem);
    EXPECT_EQ(*role_from("developer"), Role::kSystem);
    EXPECT_EQ(*role_from("tool"), Role::kTool);
    const auto bad = role_from("root\n\x1b[1m");
    ASSERT_FALSE(bad.ok());
    for (const char c : bad.error().message) EXPECT_GE(c, 0x20);
}

} // namespace
} // namespace flex::tokenizer
