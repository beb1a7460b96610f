// The form as bytes (layout: docs/package-format.md, "Chat form").
#include <algorithm>
#include <tuple>

#include "tokenizer/chat_form.h"

namespace flex::tokenizer {
namespace {

constexpr std::uint8_t kVersion = 1;
constexpr std::size_t kMaxBytes = 1u << 20;

class Writer {
public:
    void number(std::uint64_t value, int bytes) {
        for (int i = 0; i < bytes; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
    }
    void text(std::string_view text) {
        number(text.size(), 4);
        for (const char c : text) out.push_back(static_cast<std::byte>(c));
    }
    std::vector<std::byte> out;
};

/// Reads what is there; after the first thing that is not, `ok` is false and everything is zero.
class Reader {
public:
    explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

    std::uint32_t number(std::size_t bytes) {
        if (left_.size() < bytes) ok = false;
        if (!ok) return 0;
        std::uint32_t value = 0;
        for (std::size_t i = bytes; i-- > 0;) value = value << 8 | std::to_integer<std::uint32_t>(left_[i]);
        left_ = left_.subspan(bytes);
        return value;
    }
    /// A number below `end`.
    std::uint32_t below(std::size_t bytes, std::uint32_t end) {
        const std::uint32_t value = number(bytes);
        if (value >= end) ok = false;
        return ok ? value : 0;
    }
    std::string text() {
        const std::uint32_t size = number(4);
        if (size > left_.size()) ok = false;
        if (!ok) return {};
        std::string out(reinterpret_cast<const char*>(left_.data()), size);
        left_ = left_.subspan(size);
        return out;
    }
    /// How many records of at least `bytes` follow.
    std::uint32_t count(std::size_t bytes) {
        const std::uint32_t value = number(4);
        if (value > left_.size() / bytes) ok = false;
        return ok ? value : 0;
    }
    [[nodiscard]] bool at_end() const { return left_.empty(); }
    bool ok = true;

private:
    std::span<const std::byte> left_;
};

SlotKind read_kind(Reader& in) { return static_cast<SlotKind>(in.below(1, kSlotKinds)); }

GapText read_text(Reader& in) {
    GapText text;
    text.before = in.text();
    const std::uint32_t tools = in.below(1, 1 + 2 * kJsonStyles);
    if (tools == 0) return text;
    text.has_tools = true;
    text.whole_tool = tools <= kJsonStyles;
    text.style = static_cast<JsonStyle>((tools - 1) % kJsonStyles);
    text.between = in.text();
    text.after = in.text();
    return text;
}

template <class Rule, class Key> bool rising(const std::vector<Rule>& rules, const Key& key) {
    for (std::size_t i = 1; i < rules.size(); ++i) {
        if (!(key(rules[i - 1]) < key(rules[i]))) return false;
    }
    return true;
}

} // namespace

std::vector<std::byte> ChatForm::serialize() const {
    Writer w;
    w.number(kVersion, 1);
    w.number(static_cast<std::uint8_t>(think_split), 1);
    for (const std::uint16_t mask : masks) w.number(mask, 2);
    w.number(slots.size(), 4);
    for (const SlotRule& rule : slots) {
        w.number(static_cast<std::uint8_t>(rule.kind), 1);
        w.number(rule.flags, 2);
        w.number(static_cast<std::uint8_t>(rule.transform), 1);
    }
    w.number(texts.size(), 4);
    for (const GapText& text : texts) {
        w.text(text.before);
        if (!text.has_tools) {
            w.number(0, 1);
            continue;
        }
        w.number(1u + static_cast<std::uint8_t>(text.style) + (text.whole_tool ? 0u : kJsonStyles), 1);
        w.text(text.between);
        w.text(text.after);
    }
    w.number(gaps.size(), 4);
    for (const GapRule& rule : gaps) {
        w.number(static_cast<std::uint8_t>(rule.left), 1);
        w.number(rule.left_flags, 2);
        w.number(static_cast<std::uint8_t>(rule.right), 1);
        w.number(rule.right_flags, 2);
        w.number(rule.text, 4);
    }
    return std::move(w.out);
}

Result<ChatForm> ChatForm::parse(std::span<const std::byte> bytes) {
    const Error damaged = fail(ErrorCode::kCorrupt, "the package's chat form is inconsistent; seal it again");
    if (bytes.size() > kMaxBytes) return damaged;
    Reader in(bytes);
    ChatForm form;
    if (in.number(1) != kVersion)
        return fail(ErrorCode::kUnsupported, "the package's chat form has another version; seal it again");
    form.think_split = static_cast<ThinkSplit>(in.below(1, 3));
    for (std::uint16_t& mask : form.masks) mask = static_cast<std::uint16_t>(in.below(2, kSlotFlags + 1u));
    for (std::uint32_t left = in.count(4); left > 0 && in.ok; --left) {
        SlotRule rule;
        rule.kind = read_kind(in);
        rule.flags = static_cast<std::uint16_t>(in.below(2, kSlotFlags + 1u));
        rule.transform = static_cast<Transform>(in.below(1, kTransforms));
        form.slots.push_back(rule);
    }
    for (std::uint32_t left = in.count(5); left > 0 && in.ok; --left) form.texts.push_back(read_text(in));
    for (std::uint32_t left = in.count(10); left > 0 && in.ok; --left) {
        GapRule rule;
        rule.left = read_kind(in);
        rule.left_flags = static_cast<std::uint16_t>(in.below(2, kSlotFlags + 1u));
        rule.right = read_kind(in);
        rule.right_flags = static_cast<std::uint16_t>(in.below(2, kSlotFlags + 1u));
        rule.text = in.below(4, static_cast<std::uint32_t>(form.texts.size()));
        form.gaps.push_back(rule);
    }
    const auto slot_key = [](const SlotRule& r) { return std::tuple(r.kind, r.flags); };
    const auto gap_key = [](const GapRule& r) {
        return std::tuple(r.left, r.left_flags, r.right, r.right_flags);
    };
    if (!in.ok || !in.at_end() || !rising(form.slots, slot_key) || !rising(form.gaps, gap_key))
        return damaged;
    return form;
}

} // namespace flex::tokenizer
