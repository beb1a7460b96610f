// A workflow: calls of models that use each other's answers, as a client sent it and as it was checked.
// Nothing of it runs before all of it was checked. docs/workflows.md has the format.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace flex::schedule {

/// Bounds on what a workflow may hold.
inline constexpr std::size_t kMaxNodes = 32;
inline constexpr std::size_t kMaxInputs = 32;
inline constexpr std::size_t kMaxMessages = 32;            ///< of a node
inline constexpr std::size_t kMaxNameBytes = 32;           ///< of nodes and inputs: a-z, A-Z, 0-9, _ and -
inline constexpr std::size_t kMaxPromptBytes = 256u << 10; ///< of one text after everything was put in
inline constexpr std::size_t kMaxReferences = 256;         ///< in one text
inline constexpr std::uint32_t kMaxDeadlineMs = 3'600'000;
inline constexpr std::uint32_t kDefaultDeadlineMs = 600'000;

/// A text with places for others: "{{mail}}" is an input, "{{plan.output}}" a node's answer. What is put in
/// is never looked at again: an answer that says "{{key}}" brings in nothing.
class Text {
public:
    struct Piece {
        enum class Kind : std::uint8_t { kLiteral, kInput, kOutput };
        Kind kind = Kind::kLiteral;
        std::string literal;
        std::size_t index = 0; ///< of the input or the node
    };

    /// `inputs` and `nodes` by their number. Error: kInvalidArgument, names what it does not know.
    static Result<Text> parse(std::string_view text, const std::map<std::string, std::size_t>& inputs,
                              const std::map<std::string, std::size_t>& nodes);
    /// Error: kInvalidArgument (longer than kMaxPromptBytes).
    [[nodiscard]] Result<std::string> fill(std::span<const std::string> inputs,
                                           std::span<const std::string> outputs) const;
    [[nodiscard]] std::span<const Piece> pieces() const { return pieces_; }

private:
    std::vector<Piece> pieces_;
};

struct Message {
    std::string role;
    Text content;
};

/// A node runs only when this holds.
struct Condition {
    enum class Test : std::uint8_t { kContains, kNotContains, kEquals };
    Text text;
    Test test = Test::kContains;
    std::string value;
    /// Letters of ASCII in either case; kEquals without spaces around.
    [[nodiscard]] Result<bool> holds(std::span<const std::string> inputs,
                                     std::span<const std::string> outputs) const;
};

/// One call of a model.
struct Node {
    std::string id, model;
    std::vector<Message> messages;
    std::string parameters;         ///< a JSON object: max_tokens and how to sample, as in a chat request
    std::vector<std::size_t> needs; ///< nodes that must have ended: those it names, and "after"
    std::uint32_t deadline_ms = 0;  ///< from its start; 0: the workflow's only
    std::optional<Condition> when;
};

struct Input {
    std::string name;
    std::optional<std::string> standard; ///< what it is when nobody says; nothing: somebody must
};

struct Workflow {
    std::string name;
    std::vector<Input> inputs;
    std::vector<Node> nodes; ///< as given; they may name later ones, but never in a circle
    Text output;
    std::uint32_t deadline_ms = kDefaultDeadlineMs;
};

/// From the text of a JSON object. Errors: kInvalidArgument: names the node and the field.
Result<Workflow> parse_workflow(std::string_view json);

/// The values in the order of workflow.inputs. Errors: kInvalidArgument: one is missing, unknown or too long.
Result<std::vector<std::string>> bind_inputs(const Workflow& workflow,
                                             const std::map<std::string, std::string>& given);

} // namespace flex::schedule
