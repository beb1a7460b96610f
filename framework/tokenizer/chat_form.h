// What is left of a chat template in a package: a table, not a program.
//
// A conversation is a row of slots (the texts that come from outside: contents, reasoning, calls) between
// kBegin and kEnd. Rendering writes each slot's text, changed in one of a few fixed ways, and between two
// neighbouring slots a fixed text that depends on these two alone: on their kinds and on those of their
// conditions that the form says matter (its masks). The tables are learned from the model's Jinja template
// when a package is sealed (package/chat_compiler.h) and were then seen to reproduce it.
//
// So a rendering takes time linear in the conversation, the only loops are those over what the client sent,
// and a conversation of a shape the template was not tried with is refused, not guessed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

namespace flex::tokenizer {

/// Numbers are those of the format.
enum class SlotKind : std::uint8_t {
    kBegin = 0,
    kSystem = 1,
    kUser = 2,
    kReasoning = 3, ///< of an assistant
    kAssistant = 4, ///< its content; there is none when it is empty and calls follow
    kCallName = 5,
    kCallArguments = 6,
    kTool = 7,
    kEnd = 8,
};
inline constexpr std::size_t kSlotKinds = 9;
[[nodiscard]] const char* name_of(SlotKind kind);

/// Conditions of a slot: bits of SlotRule::flags. All but the last two hold for all slots of a message.
enum SlotFlag : std::uint16_t {
    kFirst = 1u << 0,      ///< of the first message
    kOpening = 1u << 1,    ///< of the first message that is not a leading system message
    kAfterQuery = 1u << 2, ///< after the last user message, not counting wrapped tool responses (Qwen3)
    kAfterUser = 1u << 3,  ///< after the last user message
    kLast = 1u << 4,       ///< of the last message
    kHasReasoning = 1u << 5,
    kHasCalls = 1u << 6,
    kTools = 1u << 7,         ///< the request has tools
    kThinkOn = 1u << 8,       ///< enable_thinking = true
    kThinkOff = 1u << 9,      ///< enable_thinking = false
    kOpen = 1u << 10,         ///< the answer's header is wanted
    kAfterContent = 1u << 11, ///< of a call: the same message has content
    kAfterCall = 1u << 12,    ///< of a call: not the first of its message
};
inline constexpr std::uint16_t kSlotFlags = (1u << 13) - 1;

/// What becomes of a slot's text. Numbers are those of the format.
enum class Transform : std::uint8_t {
    kHidden = 0, ///< the template does not show it
    kAsIs = 1,
    kStrip = 2, ///< without blanks (Python's str.isspace) at both ends
    kStripLeft = 3,
    kStripRight = 4,
    kStripLines = 5, ///< without line feeds at both ends
    kStripLinesLeft = 6,
    kStripLinesRight = 7,
    kQuoted = 8, ///< as a JSON string
    kJson = 9,   ///< kJson + JsonStyle: a JSON value in that layout
};
inline constexpr std::uint8_t kTransforms = 9 + kJsonStyles;

/// How an assistant's content with thinking in it is read, when its reasoning does not come apart.
enum class ThinkSplit : std::uint8_t {
    kNone = 0,
    kSplit = 1, ///< into reasoning and content at <think>…</think>, as Qwen3's template does
    kDrop = 2,  ///< what is before the last </think> goes
};

struct SlotRule {
    SlotKind kind{};
    std::uint16_t flags = 0; ///< under the kind's mask
    Transform transform = Transform::kHidden;
};

/// What stands between two slots.
struct GapText {
    std::string before;
    bool has_tools = false; ///< then the request's tools come here …
    bool whole_tool = true; ///< … as they are, or only their member "function"
    JsonStyle style = JsonStyle::kPython;
    std::string between = {}; ///< … with this between two of them …
    std::string after = {};   ///< … and then this
    bool operator==(const GapText&) const = default;
};

struct GapRule {
    SlotKind left{};
    std::uint16_t left_flags = 0;
    SlotKind right{};
    std::uint16_t right_flags = 0;
    std::uint32_t text = 0; ///< into ChatForm::texts
};

/// One slot of a conversation. `text` views into the conversation.
struct Slot {
    SlotKind kind{};
    std::uint16_t flags = 0; ///< all that hold
    std::string_view text{};
};

/// Takes a rendering piece by piece.
class ChatSink {
public:
    virtual ~ChatSink() = default;
    virtual void fixed(std::string_view text) = 0;   ///< of the template: may name special tokens
    virtual void foreign(std::string_view text) = 0; ///< of the conversation: never
};

/// Immutable after parse() or finish(); safe to share.
struct ChatForm {
    ThinkSplit think_split = ThinkSplit::kNone;
    std::array<std::uint16_t, kSlotKinds> masks{}; ///< the flags that matter, by kind
    std::vector<SlotRule> slots;                   ///< sorted
    std::vector<GapText> texts;
    std::vector<GapRule> gaps; ///< sorted

    /// Sorts the tables. Of two rules for the same the first is kept.
    void finish();
    [[nodiscard]] bool takes_tools() const;
    /// Errors: kInvalidArgument (no messages; tools for a template without a place for them; a shape of
    /// conversation that the template refuses, naming the two neighbours).
    Status render(const Conversation& conversation, ChatSink& sink) const;
    /// As one text. For checking: what comes from the template and what does not is lost.
    [[nodiscard]] Result<std::string> render_text(const Conversation& conversation) const;

    [[nodiscard]] std::vector<std::byte> serialize() const;
    /// Error: kCorrupt.
    static Result<ChatForm> parse(std::span<const std::byte> bytes);

private:
    [[nodiscard]] const SlotRule* slot_rule(const Slot& slot) const;
    [[nodiscard]] const GapRule* gap_rule(const Slot& left, const Slot& right) const;
};

/// The slots of a conversation, kBegin and kEnd included.
[[nodiscard]] std::vector<Slot> slots_of(const Conversation& conversation);
/// What a transform makes of a text.
[[nodiscard]] std::string transformed(std::string_view text, Transform transform);
/// The conversation with reasoning and content told apart.
[[nodiscard]] Conversation split_thinking(Conversation conversation, ThinkSplit how);

} // namespace flex::tokenizer
