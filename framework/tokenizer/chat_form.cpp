#include "tokenizer/chat_form.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace flex::tokenizer {
namespace {

std::uint32_t key_of(SlotKind kind, std::uint16_t flags) {
    return static_cast<std::uint32_t>(kind) << 16 | flags;
}
std::uint32_t key_of(const SlotRule& rule) { return key_of(rule.kind, rule.flags); }
std::uint64_t key_of(const GapRule& rule) {
    return std::uint64_t{key_of(rule.left, rule.left_flags)} << 32 | key_of(rule.right, rule.right_flags);
}

/// Python's str.isspace: what str.strip() and Jinja's trim take away.
bool is_python_space(std::uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool is_removed(std::uint32_t c, bool only_lines) { return only_lines ? c == '\n' : is_python_space(c); }

std::string_view strip_left(std::string_view text, bool only_lines) {
    std::size_t at = 0;
    while (at < text.size()) {
        const Character c = character_at(text, at);
        if (!is_removed(c.code, only_lines)) break;
        at += c.bytes;
    }
    return text.substr(at);
}

std::string_view strip_right(std::string_view text, bool only_lines) {
    while (!text.empty()) {
        // A blank has at most 3 bytes; its first is the one where a character ends exactly at the end.
        std::size_t length = 0;
        for (std::size_t n = 1; n <= 3 && n <= text.size() && length == 0; ++n) {
            const Character c = character_at(text, text.size() - n);
            if (c.bytes == n && is_removed(c.code, only_lines)) length = n;
        }
        if (length == 0) break;
        text.remove_suffix(length);
    }
    return text;
}

/// str.split(mark)[0] and [-1]
std::string_view before_first(std::string_view text, std::string_view mark) {
    return text.substr(0, text.find(mark));
}
std::string_view after_last(std::string_view text, std::string_view mark) {
    const std::size_t at = text.rfind(mark);
    return at == std::string_view::npos ? text : text.substr(at + mark.size());
}

bool is_wrapped_response(std::string_view content) {
    return content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
}

/// Index behind the last user message; 0 when there is none at all and `none` says so.
template <class Counts>
std::size_t last_index(const std::vector<ChatMessage>& messages, const Counts& counts) {
    for (std::size_t i = messages.size(); i-- > 0;) {
        if (messages[i].role == Role::kUser && counts(messages[i])) return i;
    }
    return messages.size(); // nothing comes after it
}

void push_message(const ChatMessage& message, std::uint16_t flags, std::vector<Slot>& out) {
    switch (message.role) {
    case Role::kSystem:
        out.push_back({SlotKind::kSystem, flags, message.content});
        return;
    case Role::kUser:
        out.push_back({SlotKind::kUser, flags, message.content});
        return;
    case Role::kTool:
        out.push_back({SlotKind::kTool, flags, message.content});
        return;
    case Role::kAssistant:
        break;
    }
    if (!message.reasoning.empty()) out.push_back({SlotKind::kReasoning, flags, message.reasoning});
    if (!message.content.empty() || message.calls.empty()) {
        out.push_back({SlotKind::kAssistant, flags, message.content});
        flags |= kAfterContent;
    }
    for (const ToolCall& call : message.calls) {
        out.push_back({SlotKind::kCallName, flags, call.name});
        out.push_back({SlotKind::kCallArguments, flags, call.arguments});
        flags |= kAfterCall;
    }
}

class TextSink final : public ChatSink {
public:
    void fixed(std::string_view text) override { out += text; }
    void foreign(std::string_view text) override { out += text; }
    std::string out;
};

void write_gap(const GapText& gap, const Conversation& conversation, ChatSink& sink) {
    sink.fixed(gap.before);
    if (!gap.has_tools) return;
    for (std::size_t i = 0; i < conversation.tools.size(); ++i) {
        if (i > 0) sink.fixed(gap.between);
        const std::string_view tool = conversation.tools[i];
        sink.foreign(json_in_style(gap.whole_tool ? tool : json_member(tool, "function"), gap.style));
    }
    sink.fixed(gap.after);
}

} // namespace

const char* name_of(SlotKind kind) {
    constexpr const char* kNames[] = {"the beginning",
                                      "a system message",
                                      "a user message",
                                      "an assistant's reasoning",
                                      "an assistant's message",
                                      "a tool call's name",
                                      "a tool call's arguments",
                                      "a tool's answer",
                                      "the end"};
    return kNames[static_cast<std::size_t>(kind)];
}

std::vector<Slot> slots_of(const Conversation& conversation) {
    const auto& messages = conversation.messages;
    std::uint16_t common = 0;
    if (!conversation.tools.empty()) common |= kTools;
    if (conversation.thinking) common |= *conversation.thinking ? kThinkOn : kThinkOff;
    if (conversation.open_answer) common |= kOpen;
    const std::size_t last_user = last_index(messages, [](const ChatMessage&) { return true; });
    const std::size_t last_query =
        last_index(messages, [](const ChatMessage& m) { return !is_wrapped_response(m.content); });
    const std::size_t opening = !messages.empty() && messages[0].role == Role::kSystem ? 1 : 0;
    std::vector<Slot> out{{SlotKind::kBegin, common, {}}};
    for (std::size_t i = 0; i < messages.size(); ++i) {
        std::uint16_t flags = common;
        if (i == 0) flags |= kFirst;
        if (i == opening) flags |= kOpening;
        if (i > last_query) flags |= kAfterQuery;
        if (i > last_user) flags |= kAfterUser;
        if (i + 1 == messages.size()) flags |= kLast;
        if (!messages[i].reasoning.empty()) flags |= kHasReasoning;
        if (!messages[i].calls.empty()) flags |= kHasCalls;
        push_message(messages[i], flags, out);
    }
    out.push_back({SlotKind::kEnd, common, {}});
    return out;
}

std::string transformed(std::string_view text, Transform transform) {
    switch (transform) {
    case Transform::kHidden:
        return {};
    case Transform::kAsIs:
        return std::string(text);
    case Transform::kStrip:
        return std::string(strip_left(strip_right(text, false), false));
    case Transform::kStripLeft:
        return std::string(strip_left(text, false));
    case Transform::kStripRight:
        return std::string(strip_right(text, false));
    case Transform::kStripLines:
        return std::string(strip_left(strip_right(text, true), true));
    case Transform::kStripLinesLeft:
        return std::string(strip_left(text, true));
    case Transform::kStripLinesRight:
        return std::string(strip_right(text, true));
    case Transform::kQuoted:
        return json_quoted(text);
    default:
        return json_in_style(text, static_cast<JsonStyle>(static_cast<std::uint8_t>(transform) -
                                                          static_cast<std::uint8_t>(Transform::kJson)));
    }
}

Conversation split_thinking(Conversation conversation, ThinkSplit how) {
    if (how == ThinkSplit::kNone) return conversation;
    for (ChatMessage& m : conversation.messages) {
        if (m.role != Role::kAssistant || !m.reasoning.empty() ||
            m.content.find("</think>") == std::string::npos)
            continue;
        const std::string whole = std::move(m.content);
        if (how == ThinkSplit::kDrop) {
            m.content = after_last(whole, "</think>");
            continue;
        }
        m.reasoning =
            strip_left(after_last(strip_right(before_first(whole, "</think>"), true), "<think>"), true);
        m.content = strip_left(after_last(whole, "</think>"), true);
    }
    return conversation;
}

void ChatForm::finish() {
    std::ranges::stable_sort(slots, {}, [](const SlotRule& r) { return key_of(r); });
    slots.erase(std::unique(slots.begin(), slots.end(),
                            [](const auto& a, const auto& b) { return key_of(a) == key_of(b); }),
                slots.end());
    std::ranges::stable_sort(gaps, {}, [](const GapRule& r) { return key_of(r); });
    gaps.erase(std::unique(gaps.begin(), gaps.end(),
                           [](const auto& a, const auto& b) { return key_of(a) == key_of(b); }),
               gaps.end());
}

const SlotRule* ChatForm::slot_rule(const Slot& slot) const {
    const auto flags = static_cast<std::uint16_t>(slot.flags & masks[static_cast<std::size_t>(slot.kind)]);
    const std::uint32_t wanted = key_of(slot.kind, flags);
    const auto found =
        std::ranges::lower_bound(slots, wanted, {}, [](const SlotRule& r) { return key_of(r); });
    return found != slots.end() && key_of(*found) == wanted ? &*found : nullptr;
}

const GapRule* ChatForm::gap_rule(const Slot& left, const Slot& right) const {
    GapRule wanted;
    wanted.left = left.kind;
    wanted.left_flags = static_cast<std::uint16_t>(left.flags & masks[static_cast<std::size_t>(left.kind)]);
    wanted.right = right.kind;
    wanted.right_flags =
        static_cast<std::uint16_t>(right.flags & masks[static_cast<std::size_t>(right.kind)]);
    const std::uint64_t key = key_of(wanted);
    const auto found = std::ranges::lower_bound(gaps, key, {}, [](const GapRule& r) { return key_of(r); });
    return found != gaps.end() && key_of(*found) == key ? &*found : nullptr;
}

bool ChatForm::takes_tools() const {
    return std::ranges::any_of(texts, [](const GapText& text) { return text.has_tools; });
}

Status ChatForm::render(const Conversation& given, ChatSink& sink) const {
    if (given.messages.empty())
        return fail(ErrorCode::kInvalidArgument, "a conversation needs at least one message");
    if (!given.tools.empty() && !takes_tools())
        return fail(ErrorCode::kInvalidArgument, "this model's chat template has no place for tools");
    std::optional<Conversation> split;
    if (think_split != ThinkSplit::kNone) split = split_thinking(given, think_split);
    const Conversation& conversation = split ? *split : given;
    const std::vector<Slot> row = slots_of(conversation);
    const Slot* left = &row.front();
    for (std::size_t i = 1; i < row.size(); ++i) {
        const Slot& slot = row[i];
        const bool is_end = slot.kind == SlotKind::kEnd;
        const SlotRule* rule = is_end ? nullptr : slot_rule(slot);
        if (rule != nullptr && rule->transform == Transform::kHidden) continue;
        const GapRule* gap = is_end || rule != nullptr ? gap_rule(*left, slot) : nullptr;
        if (gap == nullptr) {
            return fail(ErrorCode::kInvalidArgument,
                        std::string("this model's chat template does not take ") + name_of(slot.kind) +
                            " after " + name_of(left->kind) + " in such a conversation");
        }
        write_gap(texts[gap->text], conversation, sink);
        if (!is_end) sink.foreign(transformed(slot.text, rule->transform));
        left = &slot;
    }
    return {};
}

Result<std::string> ChatForm::render_text(const Conversation& conversation) const {
    TextSink sink;
    FLEX_TRY(render(conversation, sink));
    return std::move(sink.out);
}

} // namespace flex::tokenizer
