// JSON parsers recurse; the depth of what comes from outside must be bounded before they start.
#pragma once

#include <cstddef>
#include <string_view>

namespace flex {

/// Whether `json` opens more than `most` objects and arrays within each other.
[[nodiscard]] inline bool json_deeper_than(std::string_view json, std::size_t most) {
    std::size_t depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < json.size(); ++i) {
        const char c = json[i];
        if (in_string) {
            if (c == '\\')
                ++i;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > most) return true;
        } else if ((c == '}' || c == ']') && depth > 0) {
            --depth;
        }
    }
    return false;
}

} // namespace flex
