#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <array>

#include "engine/gguf.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pretokenize.h"
#include "tokenizer/unicode.h"

namespace flex::tokenizer {

namespace {

constexpr std::uint64_t kMaxVocabulary = 1u << 22;

/// Numbers of `tokenizer.ggml.token_type` (llama.cpp's llama_token_type).
enum class TokenType : std::uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
};

Error corrupt(std::string what) { return fail(ErrorCode::kCorrupt, "GGUF tokenizer: " + std::move(what)); }

/// GPT-2 writes every byte as a printable character: bytes that are printable in Latin-1 as themselves, the
/// others from U+0100 on in order. This is the way back; -1 where a code stands for no byte.
std::array<int, 0x144> make_byte_of_code() {
    std::array<int, 0x144> table{};
    table.fill(-1);
    std::size_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
        const bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        table[itself ? static_cast<std::size_t>(byte) : next++] = byte;
    }
    return table;
}

/// The bytes a vocabulary string stands for; a string that is not in GPT-2's writing stands for itself.
std::string decode_vocabulary_string(std::string_view text) {
    static const auto byte_of_code = make_byte_of_code();
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const Character c = character_at(text, at);
        const int byte = c.code < byte_of_code.size() ? byte_of_code[c.code] : -1;
        if (byte < 0) return std::string(text);
        out += static_cast<char>(byte);
        at += c.bytes;
    }
    return out;
}

} // namespace

struct Tokenizer::Tables {
    SymbolTable symbols; // [0, vocabulary) are tokens; later ones exist only between merges
    MergeTable merges;
    std::vector<TokenType> types; // [vocabulary]
    std::array<TokenId, 256> byte_token{};
    std::vector<TokenId> specials; // control and user-defined, by first byte, then longest first
    std::array<std::uint32_t, 257> specials_begin{};
    std::vector<TokenId> end_tokens;
    std::optional<TokenId> bos, eos;
    std::string chat_template;
    PreTokenizer pre = PreTokenizer::kQwen2;
    bool add_bos = false;
    bool whole_words =
        false; // "ignore_merges": a word that is a token is that token, whatever the merges say

    [[nodiscard]] std::uint32_t vocabulary() const { return static_cast<std::uint32_t>(types.size()); }
    [[nodiscard]] std::string_view name(TokenId id) const { return symbols.bytes(id); }

    Status read_kind(const engine::Gguf& gguf);
    Status read_tokens(const engine::Gguf& gguf);
    Status read_merges(const engine::Gguf& gguf);
    Status read_special_ids(const engine::Gguf& gguf);
    void index_specials();
    [[nodiscard]] std::uint32_t symbol_for(std::string_view bytes);
    [[nodiscard]] std::optional<TokenId> special(std::string_view name) const;
    [[nodiscard]] std::optional<TokenId> special_at(std::string_view text) const;
    void encode_plain(std::string_view text, Merger& merger, std::vector<std::uint32_t>& word,
                      std::vector<TokenId>& out) const;
};

Status Tokenizer::Tables::read_kind(const engine::Gguf& gguf) {
    FLEX_ASSIGN(const auto model, gguf.string_value("tokenizer.ggml.model"));
    if (!model) return fail(ErrorCode::kNotFound, "the file has no tokenizer");
    if (*model != "gpt2")
        return fail(ErrorCode::kUnsupported, "tokenizer model is not supported, only gpt2 (byte-level BPE)");
    FLEX_ASSIGN(const auto pre_name, gguf.string_value("tokenizer.ggml.pre"));
    const std::string_view name = pre_name.value_or("");
    if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
        pre = PreTokenizer::kLlamaBpe;
        whole_words = true;
        add_bos = true;
    } else if (name == "qwen2") {
        pre = PreTokenizer::kQwen2;
    } else {
        return fail(ErrorCode::kUnsupported, "pre-tokenizer is not supported, only llama-bpe and qwen2");
    }
    FLEX_ASSIGN(const auto add, gguf.bool_value("tokenizer.ggml.add_bos_token"));
    add_bos = add.value_or(add_bos);
    FLEX_ASSIGN(const auto chat, gguf.string_value("tokenizer.chat_template"));
    chat_template = std::string(chat.value_or(""));
    return {};
}

Status Tokenizer::Tables::read_tokens(const engine::Gguf& gguf) {
    FLEX_ASSIGN(const auto tokens, gguf.string_array("tokenizer.ggml.tokens"));
    FLEX_ASSIGN(const auto kinds, gguf.integer_array("tokenizer.ggml.token_type"));
    if (!tokens || tokens->size() == 0) return fail(ErrorCode::kNotFound, "the file has no vocabulary");
    if (tokens->size() > kMaxVocabulary)
        return corrupt("absurd vocabulary of " + std::to_string(tokens->size()));
    if (kinds && kinds->size() != tokens->size()) return corrupt("token types do not match the vocabulary");
    types.reserve(tokens->size());
    for (const std::string_view text : *tokens) {
        const std::int64_t kind = kinds ? (*kinds)[types.size()] : 1;
        if (kind < 1 || kind > 6) return corrupt("token type " + std::to_string(kind) + " does not exist");
        const auto type = static_cast<TokenType>(kind);
        // Only normal tokens can come out of plain text, so only they can be found by their bytes.
        const bool normal = type == TokenType::kNormal;
        symbols.add(normal ? decode_vocabulary_string(text) : std::string(text), normal);
        types.push_back(type);
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        byte_token[byte] = symbols.find(std::string_view(&c, 1));
        if (byte_token[byte] == SymbolTable::kNone)
            return corrupt("no token for byte " + std::to_string(byte));
    }
    return {};
}

/// A string that merges go through but that is no token gets a number beyond the vocabulary.
std::uint32_t Tokenizer::Tables::symbol_for(std::string_view bytes) {
    const std::uint32_t known = symbols.find(bytes);
    return known != SymbolTable::kNone ? known : symbols.add(bytes, true);
}

Status Tokenizer::Tables::read_merges(const engine::Gguf& gguf) {
    FLEX_ASSIGN(const auto rules, gguf.string_array("tokenizer.ggml.merges"));
    if (!rules) return corrupt("no merges");
    if (rules->size() > 2 * kMaxVocabulary) return corrupt("absurd number of merges");
    merges.reserve(rules->size());
    std::uint32_t rank = 0;
    for (const std::string_view rule : *rules) {
        const std::size_t space = rule.find(' ', 1);
        if (space == std::string_view::npos || space + 1 >= rule.size())
            return corrupt("merge without two parts");
        const std::string left = decode_vocabulary_string(rule.substr(0, space));
        const std::string right = decode_vocabulary_string(rule.substr(space + 1));
        const std::uint32_t a = symbol_for(left), b = symbol_for(right);
        merges.add(a, b, {rank++, symbol_for(left + right)});
    }
    return {};
}

Status Tokenizer::Tables::read_special_ids(const engine::Gguf& gguf) {
    const auto id_at = [&](const char* key) -> Result<std::optional<TokenId>> {
        FLEX_ASSIGN(const auto id, gguf.unsigned_value(key));
        if (!id) return std::optional<TokenId>();
        if (*id >= vocabulary()) return corrupt(std::string(key) + " is outside the vocabulary");
        return std::optional<TokenId>(static_cast<TokenId>(*id));
    };
    FLEX_ASSIGN(bos, id_at("tokenizer.ggml.bos_token_id"));
    FLEX_ASSIGN(eos, id_at("tokenizer.ggml.eos_token_id"));
    FLEX_ASSIGN(const auto eot, id_at("tokenizer.ggml.eot_token_id"));
    FLEX_ASSIGN(const auto eom, id_at("tokenizer.ggml.eom_token_id"));
    for (const auto& id : {eos, eot, eom}) {
        if (id) end_tokens.push_back(*id);
    }
    // Chat models end a turn with another token than the file's eos says; the names are those of the two
    // families.
    for (const char* name : {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>"}) {
        if (const auto id = special(name)) end_tokens.push_back(*id);
    }
    return {};
}

void Tokenizer::Tables::index_specials() {
    for (TokenId id = 0; id < vocabulary(); ++id) {
        const bool is_special = types[id] == TokenType::kControl || types[id] == TokenType::kUserDefined;
        if (is_special && !name(id).empty()) specials.push_back(id);
    }
    const auto first = [this](TokenId id) { return static_cast<unsigned char>(name(id)[0]); };
    std::sort(specials.begin(), specials.end(), [&](TokenId a, TokenId b) {
        if (first(a) != first(b)) return first(a) < first(b);
        if (name(a).size() != name(b).size()) return name(a).size() > name(b).size();
        return a < b;
    });
    for (const TokenId id : specials) ++specials_begin[first(id) + 1u];
    for (std::size_t i = 1; i < specials_begin.size(); ++i) specials_begin[i] += specials_begin[i - 1];
}

/// The longest special token at the start of `text` (not empty).
std::optional<TokenId> Tokenizer::Tables::special_at(std::string_view text) const {
    const auto byte = static_cast<unsigned char>(text[0]);
    for (std::uint32_t i = specials_begin[byte]; i < specials_begin[byte + 1u]; ++i) {
        if (text.starts_with(name(specials[i]))) return specials[i];
    }
    return std::nullopt;
}

std::optional<TokenId> Tokenizer::Tables::special(std::string_view wanted) const {
    if (wanted.empty()) return std::nullopt;
    const auto byte = static_cast<unsigned char>(wanted[0]);
    for (std::uint32_t i = specials_begin[byte]; i < specials_begin[byte + 1u]; ++i) {
        if (name(specials[i]) == wanted) return specials[i];
    }
    return std::nullopt;
}

void Tokenizer::Tables::encode_plain(std::string_view text, Merger& merger, std::vector<std::uint32_t>& word,
                                     std::vector<TokenId>& out) const {
    for (std::size_t at = 0; at < text.size();) {
        const std::string_view bytes = text.substr(at, word_length(pre, text, at));
        at += bytes.size();
        if (whole_words) {
            if (const std::uint32_t id = symbols.find(bytes); id < vocabulary()) {
                out.push_back(id);
                continue;
            }
        }
        word.clear();
        for (const char c : bytes) word.push_back(byte_token[static_cast<unsigned char>(c)]);
        merger.merge(word);
        for (const std::uint32_t symbol : word) {
            if (symbol < vocabulary()) {
                out.push_back(symbol);
            } else {
                for (const char c : symbols.bytes(symbol))
                    out.push_back(byte_token[static_cast<unsigned char>(c)]);
            }
        }
    }
}

Tokenizer::Tokenizer(std::unique_ptr<Tables> tables) : tables_(std::move(tables)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::create(const engine::Gguf& gguf) {
    auto tables = std::make_unique<Tables>();
    FLEX_TRY(tables->read_kind(gguf));
    FLEX_TRY(tables->read_tokens(gguf));
    FLEX_TRY(tables->read_merges(gguf));
    tables->index_specials();
    FLEX_TRY(tables->read_special_ids(gguf));
    return Tokenizer(std::move(tables));
}

std::vector<TextPart> Tokenizer::parts_of(std::string_view text) const {
    std::vector<TextPart> parts;
    std::size_t plain_from = 0;
    for (std::size_t at = 0; at < text.size();) {
        const auto id = tables_->special_at(text.substr(at));
        if (!id) {
            ++at;
            continue;
        }
        parts.push_back({text.substr(plain_from, at - plain_from), id});
        at += tables_->name(*id).size();
        plain_from = at;
    }
    parts.push_back({text.substr(plain_from), std::nullopt});
    return parts;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, Specials specials) const {
    std::vector<TokenId> out;
    std::vector<std::uint32_t> word;
    Merger merger(tables_->merges);
    if (specials == Specials::kPlain) {
        tables_->encode_plain(text, merger, word, out);
        return out;
    }
    for (const TextPart& part : parts_of(text)) {
        tables_->encode_plain(part.text, merger, word, out);
        if (part.special) out.push_back(*part.special);
    }
    return out;
}

std::vector<TokenId> Tokenizer::encode_prompt(std::string_view text) const {
    std::vector<TokenId> out;
    if (tables_->add_bos && tables_->bos) out.push_back(*tables_->bos);
    const std::vector<TokenId> rest = encode(text);
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
}

std::string_view Tokenizer::bytes_of(TokenId id, bool with_specials) const {
    if (id >= tables_->vocabulary()) return {};
    const TokenType type = tables_->types[id];
    const bool shown = type == TokenType::kNormal || type == TokenType::kUserDefined;
    return shown || with_specials ? tables_->name(id) : std::string_view();
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool with_specials) const {
    std::string out;
    for (const TokenId id : ids) out += bytes_of(id, with_specials);
    return out;
}

std::uint32_t Tokenizer::size() const { return tables_->vocabulary(); }
std::optional<TokenId> Tokenizer::bos() const { return tables_->bos; }
std::optional<TokenId> Tokenizer::eos() const { return tables_->eos; }
bool Tokenizer::adds_bos() const { return tables_->add_bos; }
std::optional<TokenId> Tokenizer::special(std::string_view name) const { return tables_->special(name); }
const std::string& Tokenizer::chat_template() const { return tables_->chat_template; }

bool Tokenizer::ends_generation(TokenId id) const {
    return std::find(tables_->end_tokens.begin(), tables_->end_tokens.end(), id) != tables_->end_tokens.end();
}

} // namespace flex::tokenizer
