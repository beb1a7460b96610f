// Conversations as token ids. The text of a message can never produce a special token.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/token.h"
#include "tokenizer/chat_form.h"
#include "tokenizer/tokenizer.h"

namespace flex::tokenizer {

/// A tokenizer and, for a model that chats, its form. Immutable; safe to share; `tokenizer` must outlive it.
class ChatTemplate {
public:
    explicit ChatTemplate(const Tokenizer& tokenizer, std::optional<ChatForm> form = {})
        : tokenizer_(&tokenizer), form_(std::move(form)) {}
    /// `bytes`: a serialized form; none: a model for completions only. Error: kCorrupt, kUnsupported.
    static Result<ChatTemplate> create(const Tokenizer& tokenizer, std::span<const std::byte> bytes);

    [[nodiscard]] bool known() const { return form_.has_value(); }
    [[nodiscard]] bool takes_tools() const { return form_ && form_->takes_tools(); }
    /// The whole conversation, with BOS exactly once where the model wants it. Only fixed texts of the form
    /// may become special tokens.
    /// Errors: kUnsupported (no form: says to use completion), those of ChatForm::render.
    [[nodiscard]] Result<std::vector<TokenId>> render(const Conversation& conversation) const;

private:
    const Tokenizer* tokenizer_;
    std::optional<ChatForm> form_;
};

} // namespace flex::tokenizer
