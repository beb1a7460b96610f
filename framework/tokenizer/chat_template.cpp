#include "tokenizer/chat_template.h"

namespace flex::tokenizer {

namespace {

/// Collects a conversation. Text between two special tokens is tokenised as one piece, as the reference
/// tokenizers do; cutting it elsewhere would give other tokens.
class TokenSink final : public ChatSink {
public:
    explicit TokenSink(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

    void fixed(std::string_view text) override {
        for (const TextPart& part : tokenizer_.parts_of(text)) {
            pending_ += part.text;
            if (!part.special) continue;
            flush();
            out_.push_back(*part.special);
        }
    }
    void foreign(std::string_view text) override { pending_ += text; }
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

Result<ChatTemplate> ChatTemplate::create(const Tokenizer& tokenizer, std::span<const std::byte> bytes) {
    if (bytes.empty()) return ChatTemplate(tokenizer);
    FLEX_ASSIGN(ChatForm form, ChatForm::parse(bytes));
    return ChatTemplate(tokenizer, std::move(form));
}

Result<std::vector<TokenId>> ChatTemplate::render(const Conversation& conversation) const {
    if (!form_) {
        return fail(ErrorCode::kUnsupported,
                    "this model came without a chat template; use plain completion, or "
                    "seal it with --template");
    }
    TokenSink sink(*tokenizer_);
    FLEX_TRY(form_->render(conversation, sink));
    std::vector<TokenId> ids = sink.finish();
    const auto bos = tokenizer_->bos();
    if (tokenizer_->adds_bos() && bos && (ids.empty() || ids.front() != *bos)) ids.insert(ids.begin(), *bos);
    return ids;
}

} // namespace flex::tokenizer
