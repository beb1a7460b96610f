// JSON as text: the same value in another layout.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace flex::tokenizer {

/// How a template writes JSON. Numbers are those of the chat form (docs/package-format.md).
enum class JsonStyle : std::uint8_t {
    kPython = 0,  ///< {"a": 1, "b": [2]}: what Jinja's tojson gives without an indent
    kCompact = 1, ///< {"a":1,"b":[2]}
    kIndent2 = 2, ///< one member a line
    kIndent4 = 3,
};
inline constexpr std::uint8_t kJsonStyles = 4;

/// `text` must be JSON; strings and numbers are taken over as they are written. What is not JSON gives some
/// text of no more than 64 levels of indentation, never a crash.
[[nodiscard]] std::string json_in_style(std::string_view text, JsonStyle style);

/// The value of member `name` of the object `text`, as text; empty when there is none. `text` must be JSON.
[[nodiscard]] std::string_view json_member(std::string_view text, std::string_view name);

/// `text` as a JSON string with its quotes, as Python's json.dumps(ensure_ascii=False) writes it.
[[nodiscard]] std::string json_quoted(std::string_view text);

} // namespace flex::tokenizer
