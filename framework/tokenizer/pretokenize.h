// Cuts text into the words within which byte pairs are merged.
#pragma once

#include <cstddef>
#include <string_view>

namespace flex::tokenizer {

/// Both are this regular expression, alternatives tried in order; they differ in `digits` only.
///
///     (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,digits} | ?[^\s\p{L}\p{N}]+[\r\n]*
///     | \s*[\r\n]+ | \s+(?!\S) | \s+            (the fourth alternative starts with an optional space)
enum class PreTokenizer {
    kLlamaBpe, ///< digits = 3
    kQwen2,    ///< digits = 1
};

/// Length in bytes of the word that starts `text` at `at` (at < text.size()); at least 1. Calling it from one
/// word's end to the next takes linear time over the whole text.
[[nodiscard]] std::size_t word_length(PreTokenizer kind, std::string_view text, std::size_t at);

} // namespace flex::tokenizer
