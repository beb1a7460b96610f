#include "pipeline/conversations.h"

#include <algorithm>
#include <new>

namespace flex::pipeline {

namespace {

constexpr std::size_t kBlock = engine::kKvBlockTokens;

std::size_t in_common(std::span<const TokenId> a, std::span<const TokenId> b) {
    return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

std::size_t whole_blocks(std::size_t tokens) { return tokens / kBlock * kBlock; }

} // namespace

/// What has most in common with `prompt`, among what this scope may use. mutex_ is held.
Conversations::Source Conversations::best_source(std::span<const TokenId> prompt, const std::string& scope,
                                                 const Conversation* except) const {
    Source best;
    if (scope.empty()) return best;
    // The last token is always computed: its logits begin the answer.
    const auto usable = prompt.first(prompt.size() - 1);
    const auto consider = [&](const Conversation& candidate, bool runs) {
        if (candidate.scope != scope || &candidate == except) return;
        std::size_t common = in_common(candidate.tokens, usable);
        // Who runs writes into its last block; a copy of that would cost it a copy, too.
        if (runs) common = whole_blocks(common);
        if (common > best.tokens) best = {&candidate, common};
    };
    for (const auto& conversation : idle_) consider(*conversation, false);
    for (const auto& prefix : prefixes_) consider(*prefix, false);
    for (const Conversation* conversation : running_) consider(*conversation, true);
    return best;
}

/// Blocks the cache would need if all that run grew to what they reserved and nothing idle went.
std::size_t Conversations::blocks_needed() const {
    std::size_t needed = pool_->status().in_use;
    for (const Conversation* conversation : running_) {
        const std::size_t has = conversation->session->blocks() + conversation->ahead.size() +
                                (conversation->coming ? conversation->coming->blocks.size() : 0);
        needed += conversation->reserved - std::min(conversation->reserved, has);
        // The last block may be shared, and is copied when it is written to.
        if (conversation->tokens.size() % kBlock != 0) ++needed;
    }
    return needed;
}

/// Takes over what `source` has in common with `prompt`. mutex_ is held.
void Conversations::use_source(Conversation& out, const Source& source, std::span<const TokenId> prompt) {
    out.session->share_prefix(*source.conversation->session, static_cast<std::uint32_t>(source.tokens));
    out.tokens.assign(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(source.tokens));
    counts_.shared_tokens += source.tokens;
    const auto idle = std::ranges::find_if(
        idle_, [&](const auto& conversation) { return conversation.get() == source.conversation; });
    // The next turn of a conversation takes its place; another conversation that begins alike shows that the
    // beginning is worth keeping.
    if (idle != idle_.end() && source.tokens == source.conversation->tokens.size()) {
        out.name = (*idle)->name;
        out.stored = std::move((*idle)->stored);
        out.saved = (*idle)->saved;
        idle_.erase(idle);
    } else {
        keep_prefix(*source.conversation, out.tokens);
    }
    ++counts_.hits;
}

Result<std::unique_ptr<Conversation>> Conversations::take(std::span<const TokenId> prompt,
                                                          const Ownership& who, std::size_t tokens) {
    auto out = std::make_unique<Conversation>();
    FLEX_ASSIGN(out->session, engine::Session::create(batch_, pool_, context_));
    FLEX_TRY(crypto::random(out->name));
    out->scope = who.scope;
    out->owner = who.owner;
    out->reserved = (tokens + kBlock - 1) / kBlock;
    memory::KvFound found;
    if (store_.store != nullptr && !who.scope.empty())
        found = store_.store->find(binding(who.scope), prompt.first(prompt.size() - 1));
    {
        const std::lock_guard lock(mutex_);
        const Source source = best_source(prompt, who.scope, nullptr);
        if (source.tokens > 0)
            use_source(*out, source, prompt);
        else if (!who.scope.empty())
            ++counts_.misses;
        running_.push_back(out.get());
        while (blocks_needed() > pool_->limit() && evict_locked()) {
        }
    }
    // Less than a block is not worth reading one.
    if (found.tokens < out->tokens.size() + kBlock) return out;
    try {
        begin_restoring(*out, std::move(found));
    } catch (const std::bad_alloc&) {
        // Then it is computed.
    }
    return out;
}

void Conversations::catch_up(Conversation& conversation, std::span<const TokenId> prompt) {
    const std::size_t had = conversation.tokens.size();
    if (conversation.coming && !restore(conversation, prompt)) return;
    const std::lock_guard lock(mutex_);
    if (!conversation.ahead.empty()) use_ahead(conversation, prompt);
    counts_.shared_tokens += conversation.tokens.size() - had;
    if (had == 0 && !conversation.tokens.empty()) { // take() had found nothing
        ++counts_.hits;
        --counts_.misses;
    }
    const Source source = best_source(prompt, conversation.scope, &conversation);
    // Less than a block is not worth giving up one's own for.
    if (source.tokens < conversation.tokens.size() + kBlock) return;
    counts_.shared_tokens += source.tokens - conversation.tokens.size();
    if (conversation.tokens.empty()) { // take() had found nothing
        ++counts_.hits;
        --counts_.misses;
    }
    conversation.session->share_prefix(*source.conversation->session,
                                       static_cast<std::uint32_t>(source.tokens));
    conversation.tokens.assign(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(source.tokens));
    keep_prefix(*source.conversation, conversation.tokens);
}

/// The whole blocks of `tokens`, with which `source` begins, stay for others of its scope. mutex_ is held.
void Conversations::keep_prefix(const Conversation& source, std::span<const TokenId> tokens) {
    tokens = tokens.first(whole_blocks(tokens.size()));
    if (tokens.empty()) return;
    const auto same = std::ranges::find_if(prefixes_, [&](const auto& prefix) {
        return prefix->scope == source.scope && in_common(prefix->tokens, tokens) == tokens.size();
    });
    if (same != prefixes_.end()) {
        (*same)->idle_since = std::chrono::steady_clock::now();
        std::rotate(same, same + 1, prefixes_.end()); // used just now
        return;
    }
    auto session = engine::Session::create(batch_, pool_, context_);
    if (!session) return; // then it is computed again
    auto prefix = std::make_unique<Conversation>();
    prefix->session = std::move(*session);
    prefix->session->share_prefix(*source.session, static_cast<std::uint32_t>(tokens.size()));
    prefix->tokens.assign(tokens.begin(), tokens.end());
    prefix->scope = source.scope;
    prefix->owner = source.owner;
    prefix->id = next_id_++;
    prefix->idle_since = std::chrono::steady_clock::now();
    const auto of_scope = [&](const auto& other) { return other->scope == source.scope; };
    if (std::ranges::count_if(prefixes_, of_scope) >= static_cast<std::ptrdiff_t>(kMaxPrefixesOfOne))
        prefixes_.erase(std::ranges::find_if(prefixes_, of_scope));
    else if (prefixes_.size() >= kMaxPrefixes)
        prefixes_.erase(prefixes_.begin());
    prefixes_.push_back(std::move(prefix));
}

void Conversations::put_back(std::unique_ptr<Conversation> conversation) {
    conversation->comes_with.reset();
    auto coming = [&] {
        const std::lock_guard lock(mutex_);
        return std::move(conversation->coming);
    }();
    coming.reset(); // without the lock: it may be decrypting a block
    const std::lock_guard lock(mutex_);
    std::erase(running_, conversation.get());
    conversation->ahead.clear();
    conversation->save_failed = false;
    if (conversation->forgotten || conversation->scope.empty() || conversation->tokens.empty()) return;
    std::erase_if(idle_, [&](const auto& other) { // those it holds all of
        return other->scope == conversation->scope &&
               in_common(other->tokens, conversation->tokens) == other->tokens.size();
    });
    conversation->id = next_id_++;
    conversation->idle_since = std::chrono::steady_clock::now();
    if (idle_.size() >= kMaxIdle) idle_.erase(idle_.begin());
    idle_.push_back(std::move(conversation));
}

/// Prefixes go last: many conversations begin with them. mutex_ is held.
bool Conversations::evict_locked() {
    List& from = idle_.empty() ? prefixes_ : idle_;
    if (from.empty()) return false;
    from.erase(from.begin());
    ++counts_.evicted;
    return true;
}

bool Conversations::evict_one() {
    const std::lock_guard lock(mutex_);
    return evict_locked();
}

std::uint64_t Conversations::give_back() {
    {
        const std::lock_guard lock(mutex_);
        while (evict_locked()) {
        }
    }
    return pool_->trim();
}

std::uint64_t Conversations::give_back(std::uint64_t id) {
    {
        const std::lock_guard lock(mutex_);
        for (List* list : {&idle_, &prefixes_})
            counts_.evicted += std::erase_if(*list, [&](const auto& idle) { return idle->id == id; });
    }
    return pool_->trim();
}

std::vector<IdleConversation> Conversations::list_idle() const {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    std::vector<IdleConversation> list;
    for (const List* kept : {&idle_, &prefixes_}) {
        for (const auto& idle : *kept) {
            const std::uint64_t bytes = idle->session->blocks() * pool_->layout().block_bytes();
            const std::chrono::duration<double> age = now - idle->idle_since;
            list.push_back({idle->id, idle->tokens.size(), idle->saved * kBlock, bytes, age.count()});
        }
    }
    return list;
}

std::size_t Conversations::idle() const {
    const std::lock_guard lock(mutex_);
    return idle_.size();
}

ConversationsStatus Conversations::status() const {
    const std::lock_guard lock(mutex_);
    ConversationsStatus status = counts_;
    status.running = running_.size();
    status.idle = idle_.size();
    status.prefixes = prefixes_.size();
    const engine::KvPoolStatus blocks = pool_->status();
    status.blocks_in_use = blocks.in_use;
    status.blocks_free = blocks.free;
    status.blocks_shared = blocks.shared;
    status.blocks_limit = blocks.limit;
    return status;
}

} // namespace flex::pipeline
