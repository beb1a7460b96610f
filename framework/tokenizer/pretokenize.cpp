#include "tokenizer/pretokenize.h"

#include "tokenizer/unicode.h"

namespace flex::tokenizer {

namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

/// (?i:'s|'t|'re|'ve|'m|'ll|'d): 0 if it does not match. As in llama.cpp, only ASCII letters fold.
std::size_t contraction(std::string_view text, std::size_t at) {
    const char a = at + 1 < text.size() ? lower(text[at + 1]) : '\0';
    const char b = at + 2 < text.size() ? lower(text[at + 2]) : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/// End of the run of characters of one class from `at` on, of at most `most` characters.
std::size_t run_end(std::string_view text, std::size_t at, CharClass kind,
                    std::size_t most = static_cast<std::size_t>(-1)) {
    for (Character c = character_at(text, at); most > 0 && c.bytes != 0 && c.kind == kind; --most) {
        at += c.bytes;
        c = character_at(text, at);
    }
    return at;
}

/// \s*[\r\n]+ | \s+(?!\S) | \s+
std::size_t spaces_end(std::string_view text, std::size_t at) {
    std::size_t end = at, last = at, newline_end = at; // last: where the last character of the run starts
    for (Character c = character_at(text, at); c.kind == CharClass::kSpace || c.kind == CharClass::kNewline;
         c = character_at(text, end)) {
        last = end;
        end += c.bytes;
        if (c.kind == CharClass::kNewline) newline_end = end;
    }
    if (newline_end != at) return newline_end; // greedy up to the last line end of the run
    if (end == text.size() || last == at) return end;
    return last; // leaves one space to what follows
}

} // namespace

std::size_t word_length(PreTokenizer kind, std::string_view text, std::size_t at) {
    const Character first = character_at(text, at);
    if (first.code == '\'') {
        if (const std::size_t length = contraction(text, at); length != 0) return length;
    }
    const std::size_t second_at = at + first.bytes;
    const Character second = character_at(text, second_at);
    const bool second_is_letter = second.bytes != 0 && second.kind == CharClass::kLetter;
    const bool second_is_other = second.bytes != 0 && second.kind == CharClass::kOther;
    switch (first.kind) {
    case CharClass::kLetter:
        return run_end(text, at, CharClass::kLetter) - at;
    case CharClass::kNumber:
        return run_end(text, at, CharClass::kNumber, kind == PreTokenizer::kQwen2 ? 1 : 3) - at;
    case CharClass::kOther:
        if (second_is_letter) return run_end(text, second_at, CharClass::kLetter) - at;
        return run_end(text, run_end(text, at, CharClass::kOther), CharClass::kNewline) - at;
    case CharClass::kSpace:
        if (second_is_letter) return run_end(text, second_at, CharClass::kLetter) - at;
        if (first.code == ' ' && second_is_other) {
            return run_end(text, run_end(text, second_at, CharClass::kOther), CharClass::kNewline) - at;
        }
        return spaces_end(text, at) - at;
    case CharClass::kNewline:
        return spaces_end(text, at) - at;
    }
    return first.bytes;
}

} // namespace flex::tokenizer
