#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace flex::tokenizer {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD"; // U+FFFD

} // namespace

std::string Detokenizer::push(TokenId id) {
    pending_ += tokenizer_->bytes_of(id, with_specials_);
    std::string out;
    std::size_t at = 0;
    while (at < pending_.size()) {
        const int length = utf8_length(std::string_view(pending_).substr(at));
        if (length < 0) break; // the rest of this character is still to come
        if (length == 0) {
            out += kReplacement;
            ++at;
        } else {
            out.append(pending_, at, static_cast<std::size_t>(length));
            at += static_cast<std::size_t>(length);
        }
    }
    pending_.erase(0, at);
    return out;
}

std::string Detokenizer::finish() {
    if (pending_.empty()) return {};
    pending_.clear();
    return std::string(kReplacement); // one beginning of a character that never became whole
}

} // namespace flex::tokenizer
