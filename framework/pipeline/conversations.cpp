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
        const std::size_t common = in_common(it->conversation.tokens, prompt.first(prompt.size() - 1));
        if (it->conversation.key == key && (best == idle_.end() || common > most)) {
            best = it;
            most = common;
        }
    }
    Conversation out;
    if (best != idle_.end()) {
        out = std::move(best->conversation);
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
    idle_.push_back({std::move(conversation), next_id_++, std::chrono::steady_clock::now()});
}

std::uint64_t Conversations::give_back() {
    {
        const std::lock_guard lock(mutex_);
        idle_.clear();
    }
    return pool_->trim();
}

std::uint64_t Conversations::give_back(std::uint64_t id) {
    {
        const std::lock_guard lock(mutex_);
        std::erase_if(idle_, [&](const Idle& idle) { return idle.id == id; });
    }
    return pool_->trim();
}

std::vector<IdleConversation> Conversations::list_idle() const {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    std::vector<IdleConversation> list;
    for (const Idle& idle : idle_) {
        const std::uint64_t bytes = idle.conversation.session->blocks() * pool_->layout().block_bytes();
        const std::chrono::duration<double> age = now - idle.since;
        list.push_back({idle.id, idle.conversation.tokens.size(), bytes, age.count()});
    }
    return list;
}

std::size_t Conversations::idle() const {
    const std::lock_guard lock(mutex_);
    return idle_.size();
}

} // namespace flex::pipeline
