#include "package/chat_compiler.h"

#include <algorithm>
#include <bit>
#include <map>
#include <set>
#include <tuple>

#include "package/chat_probes.h"
#include "port/files.h"
#include "tokenizer/tokenizer.h"

namespace flex::package {
namespace {

using tokenizer::ChatForm;
using tokenizer::Conversation;
using tokenizer::GapText;
using tokenizer::JsonStyle;
using tokenizer::kJsonStyles;
using tokenizer::kSlotKinds;
using tokenizer::kTransforms;
using tokenizer::Slot;
using tokenizer::SlotKind;
using tokenizer::Transform;

constexpr std::size_t kCheckingProbes = 600;
constexpr std::size_t kMaxTemplateBytes = 1u << 20;
constexpr unsigned kFlagCount = std::bit_width(unsigned{tokenizer::kSlotFlags});

using TransformSet = std::uint32_t; // bit i: Transform i would give what was seen
constexpr TransformSet bit(Transform t) { return 1u << static_cast<unsigned>(t); }

/// What the template does that a form cannot. Becomes a sentence in compile_template().
Error cannot(const std::string& what) { return fail(ErrorCode::kUnsupported, what); }

/// Where a slot's text was found in a rendering, and what may have made it look so.
struct Found {
    std::size_t begin = 0, end = 0;
    TransformSet transforms = bit(Transform::kHidden);
};

/// Transforms that make sense for a kind of slot.
TransformSet allowed(SlotKind kind) {
    TransformSet json = 0;
    for (unsigned i = 0; i < kJsonStyles; ++i) json |= bit(Transform::kJson) << i;
    if (kind == SlotKind::kCallArguments) return json | bit(Transform::kHidden);
    if (kind == SlotKind::kCallName) return bit(Transform::kAsIs) | bit(Transform::kHidden);
    return (bit(Transform::kJson) - 1) & ~TransformSet{0};
}

/// Of all transforms whose result stands around the mark, those with the longest: the others are parts of it.
Result<Found> find(const Slot& slot, std::string_view rendering) {
    const std::string_view mark = mark_in(slot.text);
    const std::size_t at = rendering.find(mark);
    if (at == std::string_view::npos) return Found{};
    if (rendering.find(mark, at + 1) != std::string_view::npos)
        return cannot(std::string("writes ") + name_of(slot.kind) + " twice");
    Found best;
    for (unsigned t = 1; t < kTransforms; ++t) {
        const auto transform = static_cast<Transform>(t);
        if ((allowed(slot.kind) & bit(transform)) == 0) continue;
        const std::string text = transformed(slot.text, transform);
        const std::size_t inside = text.find(mark);
        if (inside > at || rendering.substr(at - inside, text.size()) != text) continue;
        if (best.end > best.begin && text.size() < best.end - best.begin) continue;
        if (text.size() > best.end - best.begin) best = {at - inside, at - inside + text.size(), 0};
        best.transforms |= bit(transform);
    }
    if (best.end == best.begin)
        return cannot(std::string("changes ") + name_of(slot.kind) +
                      " in a way that is not trimming or JSON");
    return best;
}

/// Tells the request's tools apart from the text around them.
Result<GapText> gap_of(std::string_view text, const std::vector<std::string>& tools) {
    GapText gap;
    gap.before = text;
    if (tools.empty() || text.find(mark_in(tools[0])) == std::string_view::npos) return gap;
    for (const bool whole : {true, false}) {
        for (unsigned s = 0; s < kJsonStyles; ++s) {
            const auto style = static_cast<JsonStyle>(s);
            const auto shown = [&](const std::string& tool) {
                return tokenizer::json_in_style(
                    whole ? std::string_view(tool) : tokenizer::json_member(tool, "function"), style);
            };
            const std::string first = shown(tools[0]), second = shown(tools[1]);
            const std::size_t a = text.find(first);
            if (a == std::string_view::npos) continue;
            const std::size_t b = text.find(second, a + first.size());
            if (b == std::string_view::npos) continue;
            gap.before = text.substr(0, a);
            gap.has_tools = true;
            gap.whole_tool = whole;
            gap.style = style;
            gap.between = text.substr(a + first.size(), b - a - first.size());
            gap.after = text.substr(b + second.size());
            return gap;
        }
    }
    return cannot("writes tools otherwise than as JSON");
}

/// What was seen of one slot, or between two, under which conditions.
struct SlotSeen {
    SlotKind kind{};
    std::uint16_t flags = 0;
    TransformSet transforms = 0;
    auto operator<=>(const SlotSeen&) const = default;
};
struct GapSeen {
    SlotKind left{};
    std::uint16_t left_flags = 0;
    SlotKind right{};
    std::uint16_t right_flags = 0;
    std::uint32_t text = 0;
    auto operator<=>(const GapSeen&) const = default;
};
using Masks = std::array<std::uint16_t, kSlotKinds>;

class Learner {
public:
    Status take(const Conversation& conversation, std::string_view rendering);
    /// A conversation (which stays where it is) that the template does not render.
    void take_refusal(const Conversation& conversation) {
        if (refused_.size() < kMostRefusals) refused_.push_back(&conversation);
    }
    Result<ChatForm> learn();

private:
    std::uint32_t intern(GapText text);
    struct Score {
        std::size_t wrong = 0, size = 0;
        auto operator<=>(const Score&) const = default;
    };
    [[nodiscard]] Score contradictions(const Masks& masks) const;
    [[nodiscard]] Score wrongly_taken(const Masks& masks) const;
    template <class Count> [[nodiscard]] Masks better(const Masks& masks, const Count& count) const;
    [[nodiscard]] std::string first_contradiction(const Masks& masks) const;
    [[nodiscard]] ChatForm form_with(const Masks& masks) const;

    static std::uint16_t under(const Masks& masks, SlotKind kind, std::uint16_t flags) {
        return static_cast<std::uint16_t>(flags & masks[static_cast<std::size_t>(kind)]);
    }
    static auto key(const Masks& masks, const SlotSeen& s) {
        return std::tuple(s.kind, under(masks, s.kind, s.flags));
    }
    static auto key(const Masks& masks, const GapSeen& g) {
        return std::tuple(g.left, under(masks, g.left, g.left_flags), g.right,
                          under(masks, g.right, g.right_flags));
    }

    static constexpr std::size_t kMostRefusals = 400; // the first ones are the shortest
    std::vector<const Conversation*> refused_;
    std::set<SlotSeen> slots_;
    std::set<GapSeen> gaps_;
    std::vector<GapText> texts_;
    std::map<std::string, std::uint32_t> text_index_;
};

std::uint32_t Learner::intern(GapText text) {
    const std::string key =
        text.before + '\0' + text.between + '\0' + text.after + '\0' +
        std::to_string(text.has_tools * 16 + text.whole_tool * 8 + static_cast<int>(text.style));
    const auto [at, fresh] = text_index_.emplace(key, static_cast<std::uint32_t>(texts_.size()));
    if (fresh) texts_.push_back(std::move(text));
    return at->second;
}

Status Learner::take(const Conversation& conversation, std::string_view rendering) {
    const std::vector<Slot> row = slots_of(conversation);
    const Slot* left = &row.front();
    std::size_t at = 0;
    for (std::size_t i = 1; i < row.size(); ++i) {
        const Slot& slot = row[i];
        Found found{rendering.size(), rendering.size(), 0};
        if (slot.kind != SlotKind::kEnd) {
            FLEX_ASSIGN(found, find(slot, rendering));
            slots_.insert({slot.kind, slot.flags, found.transforms});
            if (found.transforms == bit(Transform::kHidden)) continue;
        }
        if (found.begin < at) return cannot("changes the order of messages");
        FLEX_ASSIGN(GapText gap, gap_of(rendering.substr(at, found.begin - at), conversation.tools));
        gaps_.insert({left->kind, left->flags, slot.kind, slot.flags, intern(std::move(gap))});
        left = &slot;
        at = found.end;
    }
    return {};
}

/// How many observations disagree with the most common one under the same conditions; then, the smaller part
/// of the number, how large the tables would be.
Learner::Score Learner::contradictions(const Masks& masks) const {
    std::map<std::tuple<SlotKind, std::uint16_t>, std::array<std::size_t, kTransforms + 1>> slots;
    for (const SlotSeen& s : slots_) {
        auto& counts = slots[key(masks, s)];
        ++counts[kTransforms];
        for (unsigned t = 0; t < kTransforms; ++t) counts[t] += (s.transforms >> t) & 1;
    }
    std::size_t wrong = 0;
    for (const auto& [_, counts] : slots)
        wrong += counts[kTransforms] - *std::max_element(counts.begin(), counts.end() - 1);
    std::map<std::tuple<SlotKind, std::uint16_t, SlotKind, std::uint16_t>,
             std::map<std::uint32_t, std::size_t>>
        gaps;
    for (const GapSeen& g : gaps_) ++gaps[key(masks, g)][g.text];
    for (const auto& [_, counts] : gaps) {
        std::size_t all = 0, most = 0;
        for (const auto& [text, count] : counts) {
            all += count;
            most = std::max(most, count);
        }
        wrong += all - most;
    }
    return {wrong, slots.size() + gaps.size()};
}

std::string Learner::first_contradiction(const Masks& masks) const {
    std::map<std::tuple<SlotKind, std::uint16_t, SlotKind, std::uint16_t>, std::uint32_t> gaps;
    for (const GapSeen& g : gaps_) {
        const auto [at, fresh] = gaps.emplace(key(masks, g), g.text);
        if (!fresh && at->second != g.text)
            return std::string("writes different texts between ") + name_of(g.left) + " and " +
                   name_of(g.right) + " for a reason that the sealed form does not know";
    }
    return "treats the texts of messages differently for a reason that the sealed form does not know";
}

ChatForm Learner::form_with(const Masks& masks) const {
    ChatForm form;
    form.masks = masks;
    form.texts = texts_;
    std::map<std::tuple<SlotKind, std::uint16_t>, TransformSet> slots;
    for (const SlotSeen& s : slots_) {
        const auto [at, fresh] = slots.emplace(key(masks, s), s.transforms);
        if (!fresh) at->second &= s.transforms;
    }
    for (const auto& [where, transforms] : slots) {
        const auto transform = static_cast<Transform>(std::countr_zero(transforms)); // the simplest
        form.slots.push_back({std::get<0>(where), std::get<1>(where), transform});
    }
    for (const GapSeen& g : gaps_) {
        const auto [left, left_flags, right, right_flags] = key(masks, g);
        form.gaps.push_back({left, left_flags, right, right_flags, g.text});
    }
    form.finish();
    return form;
}

/// How many conversations that the template refused a form with these masks would take.
Learner::Score Learner::wrongly_taken(const Masks& masks) const {
    if (refused_.empty()) return {};
    const ChatForm form = form_with(masks);
    const auto taken =
        std::ranges::count_if(refused_, [&](const Conversation* c) { return form.render_text(*c).ok(); });
    return {static_cast<std::size_t>(taken), form.slots.size() + form.gaps.size()};
}

/// The one further condition (or, where none helps alone, the two of one kind) that leaves least to explain.
template <class Count> Masks Learner::better(const Masks& masks, const Count& count) const {
    Masks best = masks;
    const std::size_t wrong = (this->*count)(masks).wrong;
    if (wrong == 0) return masks;
    Score least{wrong, 0};
    const auto consider = [&](std::size_t kind, unsigned flags) {
        Masks more = masks;
        more[kind] = static_cast<std::uint16_t>(more[kind] | flags);
        if (more == masks) return;
        const Score now = (this->*count)(more);
        if (now.wrong < wrong && now < least) {
            least = now;
            best = more;
        }
    };
    for (std::size_t kind = 0; kind < kSlotKinds; ++kind) {
        for (unsigned flag = 0; flag < kFlagCount; ++flag) consider(kind, 1u << flag);
    }
    if (best != masks) return best;
    for (std::size_t kind = 0; kind < kSlotKinds; ++kind) {
        for (unsigned a = 0; a < kFlagCount; ++a) {
            for (unsigned b = 0; b < a; ++b) consider(kind, 1u << a | 1u << b);
        }
    }
    return best;
}

/// Adds conditions until nothing is left to explain: no two observations that differ, no conversation taken
/// that the template refuses. Then leaves out those that later ones made superfluous: the fewer conditions,
/// the more conversations are like one that was tried.
Result<ChatForm> Learner::learn() {
    Masks masks{};
    for (;;) {
        const Masks more = better(masks, &Learner::contradictions);
        if (more == masks) break;
        masks = more;
    }
    if (contradictions(masks).wrong > 0) return cannot(first_contradiction(masks));
    for (;;) {
        const Masks more = better(masks, &Learner::wrongly_taken);
        if (more == masks) break;
        masks = more;
    }
    const std::size_t taken = wrongly_taken(masks).wrong;
    for (std::uint16_t& mask : masks) {
        for (unsigned flag = 0; flag < kFlagCount; ++flag) {
            const std::uint16_t before = mask;
            mask = static_cast<std::uint16_t>(mask & ~(1u << flag));
            if (mask != before && (contradictions(masks).wrong > 0 || wrongly_taken(masks).wrong > taken))
                mask = before;
        }
    }
    return form_with(masks);
}

/// Whether the form says, byte for byte, what the template said.
Status check(const ChatForm& form, std::span<const Conversation> probes,
             std::span<const Rendering> renderings) {
    for (std::size_t i = 0; i < probes.size(); ++i) {
        const auto text = form.render_text(probes[i]);
        if (renderings[i].refused) continue; // most are refused by the form, too: Learner::wrongly_taken
        if (!text && !probes[i].tools.empty() && !form.takes_tools()) continue; // refused rather than ignored
        if (text && *text == renderings[i].text) continue;
        if (!text)
            return cannot("makes a rule of something that was not tried (" + text.error().message + ")");
        return cannot("looks into the texts of messages in a way that the sealed form does not know");
    }
    return {};
}

Result<CompiledTemplate> compile_within(const JinjaTemplate& jinja, ProbeScope scope) {
    const auto probes = learning_probes(scope);
    const auto checks = checking_probes(scope, kCheckingProbes);
    std::vector<Conversation> all = probes;
    all.insert(all.end(), checks.begin(), checks.end());
    FLEX_ASSIGN(const auto renderings, render_jinja(jinja, all));
    Learner learner;
    std::string refusal;
    std::size_t taken = 0;
    for (std::size_t i = 0; i < probes.size(); ++i) {
        if (renderings[i].refused) {
            refusal = renderings[i].text;
            learner.take_refusal(probes[i]);
            continue;
        }
        FLEX_TRY(learner.take(probes[i], renderings[i].text));
        ++taken;
    }
    if (taken == 0) return cannot("refuses every conversation (" + refusal + ")");
    CompiledTemplate out;
    FLEX_ASSIGN(out.form, learner.learn());
    Status good;
    for (const auto split :
         {tokenizer::ThinkSplit::kNone, tokenizer::ThinkSplit::kSplit, tokenizer::ThinkSplit::kDrop}) {
        out.form.think_split = split;
        good = check(out.form, all, renderings);
        if (good) break;
    }
    FLEX_TRY(good);
    out.probes = all.size();
    return out;
}

constexpr std::string_view kChatMl =
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";
constexpr std::string_view kLlama3 =
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + "
    "'<|end_header_id|>\\n\\n' }}"
    "{{- message.content | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}";

} // namespace

Result<CompiledTemplate> compile_template(const JinjaTemplate& jinja) {
    std::string why_no_calls; // nothing to say of a template that knows of no calls
    if (jinja.text.find("tool_calls") != std::string::npos) {
        auto whole = compile_within(jinja, {});
        if (whole || whole.error().code != ErrorCode::kUnsupported) return whole;
        why_no_calls = "conversations with tool calls will be refused: the template " + whole.error().message;
    }
    auto without_calls = compile_within(jinja, {.tools = true, .calls = false});
    if (without_calls) {
        without_calls->note = why_no_calls;
        return without_calls;
    }
    if (without_calls.error().code != ErrorCode::kUnsupported) return without_calls;
    auto without_tools = compile_within(jinja, {.tools = false, .calls = false});
    if (without_tools) {
        without_tools->note =
            "conversations with tools will be refused: the template " + without_calls.error().message;
        return without_tools;
    }
    if (without_tools.error().code != ErrorCode::kUnsupported) return without_tools;
    return fail(ErrorCode::kUnsupported, "the chat template " + without_tools.error().message +
                                             "; choose another with --template chatml, llama3 or a file");
}

Result<std::string> named_template(std::string_view name) {
    if (name == "chatml") return std::string(kChatMl);
    if (name == "llama3") return std::string(kLlama3);
    return fail(ErrorCode::kNotFound, "there is no template of that name; there are chatml and llama3");
}

Result<SealedChat> chat_form_of(const engine::Gguf& gguf, const std::string& other) {
    FLEX_ASSIGN(const auto tokenizer, tokenizer::Tokenizer::create(gguf));
    JinjaTemplate jinja{tokenizer.chat_template(), {}, {}};
    if (!other.empty()) {
        if (auto named = named_template(other)) {
            jinja.text = std::move(*named);
        } else {
            FLEX_ASSIGN(const auto text, port::read_file(other, kMaxTemplateBytes));
            jinja.text.assign(reinterpret_cast<const char*>(text.data()), text.size());
        }
    }
    if (jinja.text.empty()) {
        return SealedChat{{},
                          "the model has no chat template, so it completes texts but does not chat; "
                          "--template chatml, llama3 or a file gives it one"};
    }
    if (const auto id = tokenizer.bos()) jinja.bos_token = tokenizer.bytes_of(*id, true);
    if (const auto id = tokenizer.eos()) jinja.eos_token = tokenizer.bytes_of(*id, true);
    FLEX_ASSIGN(const CompiledTemplate compiled, compile_template(jinja));
    return SealedChat{compiled.form.serialize(), compiled.note};
}

Result<SealedChat> chat_form_of_file(const std::string& path, const std::string& other) {
    FLEX_ASSIGN(const port::MappedFile file, port::MappedFile::open(path));
    const auto bytes = file.bytes();
    FLEX_ASSIGN(const auto gguf, engine::Gguf::parse(bytes, bytes.size(), engine::StoredTypes::kAll));
    return chat_form_of(gguf, other);
}

} // namespace flex::package
