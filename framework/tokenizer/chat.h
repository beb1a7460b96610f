// A conversation as the API takes it, before any template.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace flex::tokenizer {

enum class Role : std::uint8_t { kSystem, kUser, kAssistant, kTool };

/// "system", "developer" (as system), "user", "assistant", "tool". Error: kInvalidArgument, names the role.
Result<Role> role_from(std::string_view name);
[[nodiscard]] const char* name_of(Role role);

/// A function the model asked for. `arguments` is the text of a JSON object.
struct ToolCall {
    std::string name;
    std::string arguments;
};

struct ChatMessage {
    Role role = Role::kUser;
    std::string content;              ///< any bytes
    std::string reasoning = {};       ///< of an assistant, where the client gives it apart from the content
    std::vector<ToolCall> calls = {}; ///< of an assistant
};

/// What one rendering depends on, and nothing else: no clock, no random number.
struct Conversation {
    std::vector<ChatMessage> messages;
    std::vector<std::string> tools =
        {};                  ///< each the text of a JSON object {"type": "function", "function": {…}}
    bool open_answer = true; ///< end with the header of the assistant's answer, for the model to go on from
    std::optional<bool> thinking = {}; ///< `enable_thinking`; nothing: as the template does by itself
};

} // namespace flex::tokenizer
