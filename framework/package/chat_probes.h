// Conversations to try a chat template with. Host only.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tokenizer/chat.h"

namespace flex::package {

/// Which parts of the API probes may use: a template that cannot take one of them may do without.
struct ProbeScope {
    bool tools = true; ///< tools and their answers
    bool calls = true; ///< calls of an assistant
};

/// For learning: every row of up to three messages of every kind, longer rows at random, with and without
/// tools, with the answer's header and thinking in all ways. Each text holds a mark that is found nowhere
/// else (mark_in), between blanks of several kinds, so that it shows what the template does to it.
[[nodiscard]] std::vector<tokenizer::Conversation> learning_probes(ProbeScope scope);

/// For checking what was learned: other rows at random, with texts as people and models write them: empty,
/// with blanks, quotes, other alphabets, names of special tokens, thinking in the content. Reproducible.
[[nodiscard]] std::vector<tokenizer::Conversation> checking_probes(ProbeScope scope, std::size_t count);

/// The mark in a text of a learning probe; empty if there is none.
[[nodiscard]] std::string_view mark_in(std::string_view text);

} // namespace flex::package
