// UTF-8 and the character classes of the pre-tokenisers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace flex::tokenizer {

enum class CharClass : std::uint8_t {
    kLetter,  ///< \p{L}
    kNumber,  ///< \p{N}
    kNewline, ///< \r or \n (they are \s too)
    kSpace,   ///< any other \s
    kOther,
};

struct Character {
    std::uint32_t code = 0;
    std::uint32_t bytes = 0; ///< 0 at the end of the text
    CharClass kind = CharClass::kOther;
};

/// The character that starts at `at`. A byte that starts no well-formed sequence (Unicode Standard, table
/// 3-7) counts as U+FFFD and one byte.
[[nodiscard]] Character character_at(std::string_view text, std::size_t at);

/// Length of the well-formed UTF-8 sequence at the start of `text`; 0: there is none; -1: there may be one,
/// but the text ends too early to tell. `text` is not empty.
[[nodiscard]] int utf8_length(std::string_view text);

[[nodiscard]] CharClass class_of(std::uint32_t code);

} // namespace flex::tokenizer
