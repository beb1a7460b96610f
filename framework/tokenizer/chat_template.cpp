#include "tokenizer/chat_template.h"

namespace flex::tokenizer {

namespace {

/// Collects a conversation. Text between two special tokens is tokenised as one piece, as the reference
/// tokenizers do; cutting it elsewhere would give other tokens.
class Writer {
public:
    explicit Writer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

    void text(std::string_view more) { pending_ += more; }
    void token(TokenId id) {
        flush();
        out_.push_back(id);
    }
    std::vector<TokenId> finish() {
        flush();
        return std::move(out_);
    }

private:
    void flush() {
        const std::vector<TokenId> ids = tokenizer_.encode(pending_, Specials::kPlain);
        out_.insert(out_.end(), ids.begin(), ids.end());
        pending_.clear();
    }

    const Tokenizer& tokenizer_;
    std::string pending_;
    std::vector<TokenId> out_;
};

std::string_view trim(std::string_view text) {
    constexpr std::string_view kBlank = " \t\r\n\v\f";
    const std::size_t first = text.find_first_not_of(kBlank);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

/// recognise() made sure that these are there.
struct ChatMlTokens {
    TokenId start, end;
    static std::optional<ChatMlTokens> of(const Tokenizer& t) {
        const auto start = t.special("<|im_start|>"), end = t.special("<|im_end|>");
        if (!start || !end) return std::nullopt;
        return ChatMlTokens{*start, *end};
    }
};

struct Llama3Tokens {
    TokenId start_header, end_header, end_turn;
    static std::optional<Llama3Tokens> of(const Tokenizer& t) {
        const auto start = t.special("<|start_header_id|>"), end = t.special("<|end_header_id|>"),
                   eot = t.special("<|eot_id|>");
        if (!start || !end || !eot) return std::nullopt;
        return Llama3Tokens{*start, *end, *eot};
    }
};

void write_chatml(const Tokenizer& tokenizer, const ChatMlTokens& mark, std::span<const ChatMessage> messages,
                  const RenderOptions& options, Writer& out) {
    for (const ChatMessage& message : messages) {
        out.token(mark.start);
        out.text(name_of(message.role));
        out.text("\n");
        out.text(message.content);
        out.token(mark.end);
        out.text("\n");
    }
    if (!options.open_answer) return;
    out.token(mark.start);
    out.text("assistant\n");
    const auto think = tokenizer.special("<think>"), end_think = tokenizer.special("</think>");
    if (options.without_thinking && think && end_think) {
        out.token(*think);
        out.text("\n\n");
        out.token(*end_think);
        out.text("\n\n");
    }
}

void write_llama3(const Llama3Tokens& mark, std::span<const ChatMessage> messages,
                  const RenderOptions& options, Writer& out) {
    const auto header = [&](std::string_view role) {
        out.token(mark.start_header);
        out.text(role);
        out.token(mark.end_header);
        out.text("\n\n");
    };
    for (const ChatMessage& message : messages) {
        header(message.role == Role::kTool ? "ipython"
                                           : name_of(message.role)); // Llama 3.1's name for tool results
        out.text(trim(message.content));
        out.token(mark.end_turn);
    }
    if (options.open_answer) header("assistant");
}

} // namespace

Result<Role> role_from(std::string_view name) {
    if (name == "system" || name == "developer") return Role::kSystem;
    if (name == "user") return Role::kUser;
    if (name == "assistant") return Role::kAssistant;
    if (name == "tool") return Role::kTool;
    std::string shown;
    for (const char c : name.substr(0, 40)) shown += (c >= 0x20 && c < 0x7f) ? c : '?';
    return fail(ErrorCode::kInvalidArgument,
                "unknown role '" + shown + "'; use system, user, assistant or tool");
}

const char* name_of(Role role) {
    switch (role) {
    case Role::kSystem:
        return "system";
    case Role::kUser:
        return "user";
    case Role::kAssistant:
        return "assistant";
    case Role::kTool:
        return "tool";
    }
    return "user";
}

ChatTemplate ChatTemplate::recognise(const Tokenizer& tokenizer) {
    const std::string& text = tokenizer.chat_template();
    // Without a template the vocabulary decides: its marks exist for nothing else.
    const auto says = [&](const char* mark) { return text.empty() || text.find(mark) != std::string::npos; };
    ChatFamily family = ChatFamily::kNone;
    if (says("<|start_header_id|>") && Llama3Tokens::of(tokenizer)) {
        family = ChatFamily::kLlama3;
    } else if (says("<|im_start|>") && ChatMlTokens::of(tokenizer)) {
        family = ChatFamily::kChatMl;
    }
    return ChatTemplate(tokenizer, family);
}

Result<std::vector<TokenId>> ChatTemplate::render(std::span<const ChatMessage> messages,
                                                  const RenderOptions& options) const {
    if (messages.empty())
        return fail(ErrorCode::kInvalidArgument, "a conversation needs at least one message");
    Writer out(*tokenizer_);
    if (tokenizer_->adds_bos() && tokenizer_->bos()) out.token(*tokenizer_->bos());
    switch (family_) {
    case ChatFamily::kNone:
        break;
    case ChatFamily::kChatMl:
        write_chatml(*tokenizer_, *ChatMlTokens::of(*tokenizer_), messages, options, out);
        return out.finish();
    case ChatFamily::kLlama3:
        write_llama3(*Llama3Tokens::of(*tokenizer_), messages, options, out);
        return out.finish();
    }
    return fail(ErrorCode::kUnsupported,
                "this model has no chat template the engine knows (ChatML, Llama 3); use plain completion");
}

} // namespace flex::tokenizer
