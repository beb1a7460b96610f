// Conversations as token ids. The text of a message can never produce a special token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token.h"
#include "tokenizer/tokenizer.h"

namespace flex::tokenizer {

enum class Role : std::uint8_t { kSystem, kUser, kAssistant, kTool };

/// "system", "developer" (as system), "user", "assistant", "tool". Error: kInvalidArgument, names the role.
Result<Role> role_from(std::string_view name);
[[nodiscard]] const char* name_of(Role role);

struct ChatMessage {
    Role role = Role::kUser;
    std::string content; // any bytes
};

enum class ChatFamily : std::uint8_t {
    kNone,   ///< a base model: completion only
    kChatMl, ///< <|im_start|>role\n … <|im_end|>\n   (Qwen)
    kLlama3, ///< <|start_header_id|>role<|end_header_id|>\n\n … <|eot_id|>
};

struct RenderOptions {
    bool open_answer = true; ///< end with the header of the assistant's answer, for the model to go on from
    bool without_thinking =
        false; ///< Qwen3: pre-fill an empty <think></think>, where the vocabulary has these tokens
};

/// Recognised from the template's text and the vocabulary. Small, copyable; `tokenizer` must outlive it.
class ChatTemplate {
public:
    /// Never fails: what is not recognised is kNone.
    static ChatTemplate recognise(const Tokenizer& tokenizer);

    [[nodiscard]] ChatFamily family() const { return family_; }
    /// The whole conversation, with BOS exactly once where the model wants it.
    /// Errors: kUnsupported (kNone: says to use completion), kInvalidArgument (no messages).
    [[nodiscard]] Result<std::vector<TokenId>> render(std::span<const ChatMessage> messages,
                                                      const RenderOptions& options = {}) const;

private:
    ChatTemplate(const Tokenizer& tokenizer, ChatFamily family) : tokenizer_(&tokenizer), family_(family) {}
    const Tokenizer* tokenizer_;
    ChatFamily family_;
};

} // namespace flex::tokenizer
