#include "schedule/workflow.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_depth.h"

namespace flex::schedule {
namespace {

using Json = nlohmann::ordered_json;
using Numbers = std::map<std::string, std::size_t>;

constexpr std::size_t kMaxDepth = 16;
constexpr std::string_view kOpen = "{{", kClose = "}}", kOutput = ".output";

// What a node may say about how its model answers; api/openai.h says what each means.
constexpr std::string_view kParameters[] = {"max_tokens",
                                            "temperature",
                                            "top_p",
                                            "top_k",
                                            "min_p",
                                            "seed",
                                            "stop",
                                            "repeat_penalty",
                                            "frequency_penalty",
                                            "presence_penalty",
                                            "chat_template_kwargs"};

Error invalid(const std::string& what) { return fail(ErrorCode::kInvalidArgument, what); }

bool is_name(std::string_view name) {
    return !name.empty() && name.size() <= kMaxNameBytes && std::ranges::all_of(name, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
               c == '-';
    });
}

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kSpace = " \t\r\n";
    const std::size_t begin = text.find_first_not_of(kSpace);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return out;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// Fields that nobody knows are refused: a misspelt "after" would change what runs when.
Status only(const Json& object, const std::string& where, std::span<const std::string_view> known) {
    for (const auto& [name, value] : object.items()) {
        if (std::ranges::find(known, name) == known.end())
            return invalid(where + " has a field \"" + name + "\" that nobody knows");
    }
    return {};
}

Result<std::string> text_field(const Json& object, const std::string& where, const char* name) {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_string())
        return invalid(where + " needs a string \"" + std::string(name) + "\"");
    return found->get<std::string>();
}

Result<std::uint32_t> deadline(const Json& object, const std::string& where, std::uint32_t otherwise) {
    const auto found = object.find("deadline_ms");
    if (found == object.end()) return otherwise;
    if (!found->is_number_unsigned() || found->get<std::uint64_t>() == 0 ||
        found->get<std::uint64_t>() > kMaxDeadlineMs)
        return invalid(where + ": deadline_ms must be a whole number from 1 to " +
                       std::to_string(kMaxDeadlineMs));
    return found->get<std::uint32_t>();
}

struct Names {
    Numbers inputs, nodes;
};

/// ["mail", …] or {"mail": {"default": "…", "description": "…"}, …}
Status read_inputs(const Json& object, Workflow& out, Numbers& numbers) {
    const auto found = object.find("inputs");
    if (found == object.end()) return {};
    if (!found->is_array() && !found->is_object()) return invalid("inputs must be an array or an object");
    if (found->size() > kMaxInputs) return invalid("more than " + std::to_string(kMaxInputs) + " inputs");
    for (auto it = found->begin(); it != found->end(); ++it) {
        Input input;
        if (found->is_object()) {
            constexpr std::string_view kKnown[] = {"default", "description"};
            input.name = it.key();
            if (!it->is_object()) return invalid("input " + input.name + " must be an object");
            FLEX_TRY(only(*it, "input " + input.name, kKnown));
            if (it->contains("default")) {
                FLEX_ASSIGN(input.standard, text_field(*it, "input " + input.name, "default"));
            }
        } else if (it->is_string()) {
            input.name = it->get<std::string>();
        }
        if (!is_name(input.name)) return invalid("\"" + input.name + "\" is no name for an input");
        if (!numbers.emplace(input.name, out.inputs.size()).second)
            return invalid("two inputs are called \"" + input.name + "\"");
        out.inputs.push_back(std::move(input));
    }
    return {};
}

/// {"text": "…", "contains" | "not_contains" | "equals": "…"}
Result<Condition> read_condition(const Json& object, const std::string& where, const Names& names) {
    constexpr std::string_view kKnown[] = {"text", "contains", "not_contains", "equals"};
    if (!object.is_object()) return invalid(where + " must be an object");
    FLEX_TRY(only(object, where, kKnown));
    Condition condition;
    FLEX_ASSIGN(const std::string text, text_field(object, where, "text"));
    FLEX_ASSIGN(condition.text, Text::parse(text, names.inputs, names.nodes));
    if (object.size() != 2) return invalid(where + " needs one of contains, not_contains, equals");
    const char* test = object.contains("contains") ? "contains"
                       : object.contains("equals") ? "equals"
                                                   : "not_contains";
    condition.test = *test == 'c'   ? Condition::Test::kContains
                     : *test == 'e' ? Condition::Test::kEquals
                                    : Condition::Test::kNotContains;
    FLEX_ASSIGN(condition.value, text_field(object, where, test));
    return condition;
}

/// "messages", or "prompt" for a single one of the user.
Status read_messages(const Json& object, const std::string& where, const Names& names, Node& node) {
    if (object.contains("prompt") == object.contains("messages"))
        return invalid(where + " needs either a prompt or messages");
    const auto add = [&](const std::string& role, const std::string& content) -> Status {
        auto text = Text::parse(content, names.inputs, names.nodes);
        if (!text) return invalid(where + ": " + text.error().message);
        node.messages.push_back({role, std::move(*text)});
        return {};
    };
    if (object.contains("prompt")) {
        FLEX_ASSIGN(const std::string prompt, text_field(object, where, "prompt"));
        return add("user", prompt);
    }
    const Json& messages = object["messages"];
    if (!messages.is_array() || messages.empty() || messages.size() > kMaxMessages)
        return invalid(where + ": messages must be an array of 1 to " + std::to_string(kMaxMessages));
    for (const Json& message : messages) {
        constexpr std::string_view kKnown[] = {"role", "content"};
        if (!message.is_object()) return invalid(where + ": each message must be an object");
        FLEX_TRY(only(message, where + ", a message", kKnown));
        FLEX_ASSIGN(const std::string role, text_field(message, where + ", a message", "role"));
        FLEX_ASSIGN(const std::string content, text_field(message, where + ", a message", "content"));
        FLEX_TRY(add(role, content));
    }
    return {};
}

void need(Node& node, std::size_t other) {
    if (std::ranges::find(node.needs, other) == node.needs.end()) node.needs.push_back(other);
}

void need(Node& node, const Text& text) {
    for (const Text::Piece& piece : text.pieces()) {
        if (piece.kind == Text::Piece::Kind::kOutput) need(node, piece.index);
    }
}

Status read_after(const Json& object, const std::string& where, const Names& names, Node& node) {
    const auto after = object.find("after");
    if (after == object.end()) return {};
    if (!after->is_array()) return invalid(where + ": after must be an array of node ids");
    for (const Json& id : *after) {
        const auto found = id.is_string() ? names.nodes.find(id.get<std::string>()) : names.nodes.end();
        if (found == names.nodes.end())
            return invalid(where + ": after names " + dump(id) + ", which is no node");
        need(node, found->second);
    }
    return {};
}

Result<Node> read_node(const Json& object, const std::string& id, const Names& names) {
    std::vector<std::string_view> known = {"id",    "model", "messages",   "prompt",
                                           "after", "when",  "deadline_ms"};
    known.insert(known.end(), std::begin(kParameters), std::end(kParameters));
    Node node;
    node.id = id;
    const std::string where = "node " + id;
    FLEX_TRY(only(object, where, known));
    FLEX_ASSIGN(node.model, text_field(object, where, "model"));
    FLEX_TRY(read_messages(object, where, names, node));
    FLEX_ASSIGN(node.deadline_ms, deadline(object, where, 0));
    if (!object.contains("max_tokens")) return invalid(where + " needs max_tokens");
    Json parameters = Json::object();
    for (const std::string_view name : kParameters) {
        if (const auto found = object.find(name); found != object.end())
            parameters[std::string(name)] = *found;
    }
    node.parameters = dump(parameters);
    FLEX_TRY(read_after(object, where, names, node));
    if (object.contains("when")) {
        FLEX_ASSIGN(node.when, read_condition(object["when"], where + ", when", names));
        need(node, node.when->text);
    }
    for (const Message& message : node.messages) need(node, message.content);
    return node;
}

/// Takes away what needs nothing that is left, until nothing is left; who remains waits for itself.
Status check_no_circle(const std::vector<Node>& nodes) {
    std::vector<bool> gone(nodes.size(), false);
    for (bool moved = true; moved;) {
        moved = false;
        for (std::size_t i = 0; i < nodes.size(); ++i) {
            if (gone[i] || !std::ranges::all_of(nodes[i].needs, [&](std::size_t n) { return gone[n]; }))
                continue;
            gone[i] = moved = true;
        }
    }
    std::string stuck;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
        if (!gone[i]) stuck += (stuck.empty() ? "" : ", ") + nodes[i].id;
    }
    if (stuck.empty()) return {};
    return invalid("these nodes wait for each other in a circle, or for one that does: " + stuck);
}

Status read_nodes(const Json& object, Names& names, Workflow& out) {
    const auto nodes = object.find("nodes");
    if (nodes == object.end() || !nodes->is_array() || nodes->empty() || nodes->size() > kMaxNodes)
        return invalid("nodes must be an array of 1 to " + std::to_string(kMaxNodes));
    std::vector<std::string> ids;
    for (const Json& node : *nodes) {
        if (!node.is_object()) return invalid("each node must be an object");
        FLEX_ASSIGN(std::string id, text_field(node, "each node", "id"));
        if (!is_name(id)) return invalid("\"" + id + "\" is no name for a node");
        if (!names.nodes.emplace(id, ids.size()).second)
            return invalid("two nodes are called \"" + id + "\"");
        ids.push_back(std::move(id));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
        FLEX_ASSIGN(Node node, read_node((*nodes)[i], ids[i], names));
        out.nodes.push_back(std::move(node));
    }
    return check_no_circle(out.nodes);
}

} // namespace

Result<Text> Text::parse(std::string_view text, const Numbers& inputs, const Numbers& nodes) {
    Text out;
    const auto literal = [&](std::string_view part) {
        if (!part.empty()) out.pieces_.push_back({Piece::Kind::kLiteral, std::string(part), 0});
    };
    if (text.size() > kMaxPromptBytes)
        return invalid("a text is longer than " + std::to_string(kMaxPromptBytes) + " bytes");
    std::size_t references = 0;
    for (std::size_t open; (open = text.find(kOpen)) != std::string_view::npos;) {
        const std::size_t close = text.find(kClose, open);
        if (close == std::string_view::npos) return invalid("a \"{{\" has no \"}}\"");
        literal(text.substr(0, open));
        std::string name(trimmed(text.substr(open + kOpen.size(), close - open - kOpen.size())));
        const bool output = name.ends_with(kOutput);
        if (output) name.resize(name.size() - kOutput.size());
        const Numbers& known = output ? nodes : inputs;
        const auto found = known.find(name);
        if (found == known.end())
            return invalid("\"{{" + name.substr(0, kMaxNameBytes) + (output ? ".output" : "") +
                           "}}\" names no " + (output ? "node" : "input"));
        if (++references > kMaxReferences)
            return invalid("a text has more than " + std::to_string(kMaxReferences) + " places to fill in");
        out.pieces_.push_back({output ? Piece::Kind::kOutput : Piece::Kind::kInput, {}, found->second});
        text.remove_prefix(close + kClose.size());
    }
    literal(text);
    return out;
}

Result<std::string> Text::fill(std::span<const std::string> inputs,
                               std::span<const std::string> outputs) const {
    std::string out;
    for (const Piece& piece : pieces_) {
        const std::string& part = piece.kind == Piece::Kind::kLiteral ? piece.literal
                                  : piece.kind == Piece::Kind::kInput ? inputs[piece.index]
                                                                      : outputs[piece.index];
        if (part.size() > kMaxPromptBytes - out.size())
            return invalid("a text is longer than " + std::to_string(kMaxPromptBytes) +
                           " bytes when filled in");
        out += part;
    }
    return out;
}

Result<bool> Condition::holds(std::span<const std::string> inputs,
                              std::span<const std::string> outputs) const {
    FLEX_ASSIGN(const std::string filled, text.fill(inputs, outputs));
    const std::string have = lower(filled), want = lower(value);
    if (test == Test::kEquals) return trimmed(have) == trimmed(want);
    return (have.find(want) != std::string::npos) == (test == Test::kContains);
}

Result<Workflow> parse_workflow(std::string_view json) {
    constexpr std::string_view kKnown[] = {"name", "description", "inputs", "nodes", "output", "deadline_ms"};
    if (json_deeper_than(json, kMaxDepth))
        return invalid("the workflow is nested more than " + std::to_string(kMaxDepth) + " deep");
    const Json object = Json::parse(json, nullptr, false);
    if (!object.is_object()) return invalid("the workflow must be a JSON object");
    FLEX_TRY(only(object, "the workflow", kKnown));
    Workflow out;
    Names names;
    FLEX_ASSIGN(out.name, text_field(object, "the workflow", "name"));
    FLEX_ASSIGN(out.deadline_ms, deadline(object, "the workflow", kDefaultDeadlineMs));
    FLEX_TRY(read_inputs(object, out, names.inputs));
    FLEX_TRY(read_nodes(object, names, out));
    FLEX_ASSIGN(const std::string output, text_field(object, "the workflow", "output"));
    auto text = Text::parse(output, names.inputs, names.nodes);
    if (!text) return invalid("output: " + text.error().message);
    out.output = std::move(*text);
    return out;
}

Result<std::vector<std::string>> bind_inputs(const Workflow& workflow,
                                             const std::map<std::string, std::string>& given) {
    std::vector<std::string> values;
    std::size_t used = 0;
    for (const Input& input : workflow.inputs) {
        const auto found = given.find(input.name);
        if (found == given.end() && !input.standard)
            return invalid("the input \"" + input.name + "\" is missing");
        used += found != given.end();
        values.push_back(found != given.end() ? found->second : *input.standard);
        if (values.back().size() > kMaxPromptBytes)
            return invalid("the input \"" + input.name + "\" is longer than " +
                           std::to_string(kMaxPromptBytes) + " bytes");
    }
    if (used == given.size()) return values;
    for (const auto& [name, value] : given) {
        if (std::ranges::find(workflow.inputs, name, &Input::name) == workflow.inputs.end())
            return invalid("the workflow has no input \"" + name.substr(0, kMaxNameBytes) + "\"");
    }
    return values;
}

} // namespace flex::schedule
