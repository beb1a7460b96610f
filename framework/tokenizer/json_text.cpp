#include "tokenizer/json_text.h"

#include <algorithm>
#include <utility>

namespace flex::tokenizer {
namespace {

constexpr std::size_t kMaxDepth = 64;

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// End of the string whose opening quote is at `at`.
std::size_t string_end(std::string_view text, std::size_t at) {
    for (std::size_t i = at + 1; i < text.size(); ++i) {
        if (text[i] == '\\')
            ++i;
        else if (text[i] == '"')
            return i + 1;
    }
    return text.size();
}

std::size_t skip_blank(std::string_view text, std::size_t at) {
    while (at < text.size() && is_blank(text[at])) ++at;
    return at;
}

void new_line(std::string& out, std::size_t indent, std::size_t depth) {
    out += '\n';
    out.append(indent * std::min(depth, kMaxDepth), ' ');
}

} // namespace

std::string json_in_style(std::string_view text, JsonStyle style) {
    const std::size_t indent = style == JsonStyle::kIndent2 ? 2 : style == JsonStyle::kIndent4 ? 4 : 0;
    std::string out;
    std::size_t depth = 0;
    for (std::size_t at = skip_blank(text, 0); at < text.size(); at = skip_blank(text, at)) {
        const char c = text[at];
        if (c == '"') {
            const std::size_t end = string_end(text, at);
            out += text.substr(at, end - at);
            at = end;
            continue;
        }
        ++at;
        if (c == '{' || c == '[') {
            out += c;
            const std::size_t next = skip_blank(text, at);
            if (next < text.size() && (text[next] == '}' || text[next] == ']')) { // {} stays on its line
                out += text[next];
                at = next + 1;
                continue;
            }
            ++depth;
            if (indent != 0) new_line(out, indent, depth);
        } else if (c == '}' || c == ']') {
            if (depth > 0) --depth;
            if (indent != 0) new_line(out, indent, depth);
            out += c;
        } else if (c == ',') {
            out += c;
            if (indent != 0)
                new_line(out, indent, depth);
            else if (style == JsonStyle::kPython)
                out += ' ';
        } else if (c == ':') {
            out += style == JsonStyle::kCompact ? ":" : ": ";
        } else {
            out += c;
        }
    }
    return out;
}

std::string_view json_member(std::string_view text, std::string_view name) {
    std::size_t depth = 0;
    bool is_key = false;
    for (std::size_t at = skip_blank(text, 0); at < text.size();) {
        const char c = text[at];
        if (c == '{' || c == '[') ++depth;
        if ((c == '}' || c == ']') && depth > 0) --depth;
        if (depth == 1 && (c == '{' || c == ',')) is_key = true;
        if (c != '"') {
            ++at;
            continue;
        }
        const std::size_t end = string_end(text, at);
        const bool found = std::exchange(is_key, false) && depth == 1 && end - at == name.size() + 2 &&
                           text.substr(at + 1, name.size()) == name;
        at = end;
        if (!found) continue;
        const std::size_t colon = skip_blank(text, at);
        const std::size_t begin = skip_blank(text, std::min(colon + 1, text.size()));
        std::size_t stop = begin, inner = 0;
        while (stop < text.size()) {
            if (text[stop] == '"') {
                stop = string_end(text, stop);
                continue;
            }
            if (text[stop] == '{' || text[stop] == '[') ++inner;
            if (text[stop] == '}' || text[stop] == ']') {
                if (inner == 0) break;
                --inner;
            }
            if (text[stop] == ',' && inner == 0) break;
            ++stop;
        }
        while (stop > begin && is_blank(text[stop - 1])) --stop;
        return text.substr(begin, stop - begin);
    }
    return {};
}

std::string json_quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
        switch (c) {
        case '"':
            out += "\\\"";
            break;
        case '\\':
            out += "\\\\";
            break;
        case '\b':
            out += "\\b";
            break;
        case '\f':
            out += "\\f";
            break;
        case '\n':
            out += "\\n";
            break;
        case '\r':
            out += "\\r";
            break;
        case '\t':
            out += "\\t";
            break;
        default:
            if (static_cast<unsigned char>(c) < 0x20) {
                constexpr const char* kDigits = "0123456789abcdef";
                out += std::string("\\u00") + kDigits[c >> 4] + kDigits[c & 15];
            } else {
                out += c;
            }
        }
    }
    return out + '"';
}

} // namespace flex::tokenizer
