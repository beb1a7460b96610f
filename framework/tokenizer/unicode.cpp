#include "tokenizer/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace flex::tokenizer {

namespace {

struct CodeRange {
    std::uint32_t first, last; // inclusive
};

#include "tokenizer/unicode_tables.inc"

template <std::size_t N> bool in(const CodeRange (&ranges)[N], std::uint32_t code) {
    const auto* after =
        std::upper_bound(std::begin(ranges), std::end(ranges), code,
                         [](std::uint32_t c, const CodeRange& range) { return c < range.first; });
    return after != std::begin(ranges) && code <= std::prev(after)->last;
}

CharClass look_up(std::uint32_t code) {
    if (code == '\r' || code == '\n') return CharClass::kNewline;
    if (in(kLetters, code)) return CharClass::kLetter;
    if (in(kNumbers, code)) return CharClass::kNumber;
    if (in(kSpaces, code)) return CharClass::kSpace;
    return CharClass::kOther;
}

struct Lead {
    int length;
    unsigned char second_low, second_high; // what the second byte may be; the others are 80..bf
};

/// Unicode Standard, table 3-7: excludes overlong forms, surrogates and codes above U+10FFFF.
Lead lead(unsigned char c) {
    if (c < 0x80) return {1, 0, 0};
    if (c < 0xc2 || c > 0xf4) return {0, 0, 0};
    if (c < 0xe0) return {2, 0x80, 0xbf};
    if (c == 0xe0) return {3, 0xa0, 0xbf};
    if (c == 0xed) return {3, 0x80, 0x9f};
    if (c < 0xf0) return {3, 0x80, 0xbf};
    if (c == 0xf0) return {4, 0x90, 0xbf};
    if (c == 0xf4) return {4, 0x80, 0x8f};
    return {4, 0x80, 0xbf};
}

} // namespace

int utf8_length(std::string_view text) {
    const Lead first = lead(static_cast<unsigned char>(text[0]));
    for (int i = 1; i < first.length; ++i) {
        if (static_cast<std::size_t>(i) >= text.size()) return -1;
        const auto c = static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
        const bool fits = i == 1 ? c >= first.second_low && c <= first.second_high : (c & 0xc0) == 0x80;
        if (!fits) return 0;
    }
    return first.length;
}

CharClass class_of(std::uint32_t code) {
    static const auto ascii = [] {
        std::array<CharClass, 128> table{};
        for (std::uint32_t c = 0; c < table.size(); ++c) table[c] = look_up(c);
        return table;
    }();
    return code < ascii.size() ? ascii[code] : look_up(code);
}

Character character_at(std::string_view text, std::size_t at) {
    if (at >= text.size()) return {};
    const int length = utf8_length(text.substr(at));
    if (length <= 0) return {0xfffd, 1, CharClass::kOther};
    const auto byte = [&](int i) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(text[at + static_cast<std::size_t>(i)]));
    };
    std::uint32_t code = byte(0);
    if (length > 1) code &= 0x7fu >> length;
    for (int i = 1; i < length; ++i) code = (code << 6) | (byte(i) & 0x3f);
    return {code, static_cast<std::uint32_t>(length), class_of(code)};
}

} // namespace flex::tokenizer
