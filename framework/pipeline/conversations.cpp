#include "pipeline/conversations.h"

#include <algorithm>

namespace flex::pipeline {

namespace {

std::size_t in_common(std::span<const TokenId> a, std::span<const TokenId> b) {
    return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

} // namespace

Result<Conversation> Conversations::take(std::span<const TokenId> prompt, const std::string& key,
                                         std::size_t tokens) {
    const std::lock_guard lock(mutex_);
    auto best = idle_.end();
    std::size_t most = 0;
    for (auto it = idle_.begin(); it != idle_.end() && !key.empty(); ++it) {
        // The last token is always computed: its logits begin the answer.
        const std::size_t common = in_common(it->tokens, prompt.first(prompt.size() - 1));
        if (it->key == key && (best == idle_.end() || common > most)) {
            best = it;
            most = common;
        }
    }
    Conversation out;
    if (best != idle_.end()) {
        out = std::move(*best);
        idle_.erase(best);
        out.session->clear_cancel();
        out.session->rewind(static_cast<std::uint32_t>(most));
        out.tokens.resize(most);
    } else {
        FLEX_ASSIGN(out.session, engine::Session::create(batch_, pool_, context_));
        out.key = key;
    }
    const std::size_t needed = (tokens + engine::kKvBlockTokens - 1) / engine::kKvBlockTokens;
    const auto lacking = [&] {
        const std::size_t own = out.session->blocks(), used = pool_->status().in_use;
        return used - own + needed > pool_->limit();
    };
    while (!idle_.empty() && lacking()) idle_.erase(idle_.begin());
    return out;
}

void Conversations::put_back(Conversation conversation) {
    if (conversation.key.empty()) return;
    const std::lock_guard lock(mutex_);
    if (idle_.size() >= kMaxIdle) idle_.erase(idle_.begin());
    idle_.push_back(std::move(conversation));
}

std::uint64_t Conversations::give_back() {
    {
        const std::lock_guard lock(mutex_);
        idle_.clear();
    }
    return pool_->trim();
}

std::size_t Conversations::idle() const {
    const std::lock_guard lock(mutex_);
    return idle_.size();
}

} // namespace flex::pipeline
