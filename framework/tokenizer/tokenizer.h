// Byte-level BPE as llama.cpp's `llama-bpe` and `qwen2` pre-tokenisers do it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token.h"

namespace flex::engine {
class Gguf;
}

namespace flex::tokenizer {

/// Whether text may name special tokens. Text from a user is always kPlain.
enum class Specials : std::uint8_t {
    kPlain, ///< the text is only text: "<|eot_id|>" becomes the ordinary tokens of its characters
    kParse, ///< the names of control and user-defined tokens become those tokens (leftmost, then longest)
};

/// A run of ordinary text (may be empty) and the special token behind it, if there is one.
struct TextPart {
    std::string_view text;
    std::optional<TokenId> special;
};

/// Immutable after creation; safe to share between threads.
class Tokenizer {
public:
    /// Reads `tokenizer.ggml.*` and copies what it needs: `gguf` may go afterwards.
    /// Errors: kUnsupported (names the tokenizer model or pre-tokeniser), kCorrupt, kNotFound (no
    /// vocabulary).
    static Result<Tokenizer> create(const engine::Gguf& gguf);
    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;
    ~Tokenizer();

    /// Never adds a BOS. Any bytes are accepted: those that are not UTF-8 are tokens of their own and survive
    /// decode(). Time is near-linear in the text's length, whatever the text.
    [[nodiscard]] std::vector<TokenId> encode(std::string_view text,
                                              Specials specials = Specials::kPlain) const;

    /// The text cut at the names of special tokens (leftmost, then longest). Views into `text`.
    [[nodiscard]] std::vector<TextPart> parts_of(std::string_view text) const;

    /// What a plain completion starts from: BOS if the model wants one, then encode(text, kPlain).
    [[nodiscard]] std::vector<TokenId> encode_prompt(std::string_view text) const;

    /// The bytes of a token: raw text, which may be a part of a UTF-8 character. A control token gives
    /// nothing unless `with_specials`. An id outside the vocabulary gives nothing. The view lives as long as
    /// the tokenizer.
    [[nodiscard]] std::string_view bytes_of(TokenId id, bool with_specials = false) const;
    /// All bytes in a row (may be invalid UTF-8; see Detokenizer for text to show).
    [[nodiscard]] std::string decode(std::span<const TokenId> ids, bool with_specials = false) const;

    [[nodiscard]] std::uint32_t size() const;
    [[nodiscard]] std::optional<TokenId> bos() const;
    [[nodiscard]] std::optional<TokenId> eos() const;
    [[nodiscard]] bool adds_bos() const;
    /// The id of the control or user-defined token with this name.
    [[nodiscard]] std::optional<TokenId> special(std::string_view name) const;
    /// True for eos, eot and their like: generation ends here and the token is not shown.
    [[nodiscard]] bool ends_generation(TokenId id) const;
    /// `tokenizer.chat_template`, empty if there is none.
    [[nodiscard]] const std::string& chat_template() const;

private:
    struct Tables;
    explicit Tokenizer(std::unique_ptr<Tables> tables);
    std::unique_ptr<Tables> tables_;
};

/// Turns tokens into text as they come, never handing out half a character: what it returns is always valid
/// UTF-8, and bytes that cannot become a character are shown as U+FFFD. One sequence, one thread.
class Detokenizer {
public:
    /// `tokenizer` must outlive it.
    explicit Detokenizer(const Tokenizer& tokenizer, bool with_specials = false)
        : tokenizer_(&tokenizer), with_specials_(with_specials) {}
    /// The text that is complete now that `id` is known (may be empty).
    std::string push(TokenId id);
    /// What is left, at the end of the answer.
    std::string finish();

private:
    const Tokenizer* tokenizer_;
    bool with_specials_;
    std::string pending_; // fewer than 4 bytes between calls: the beginning of a character
};

} // namespace flex::tokenizer
