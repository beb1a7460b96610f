// Conversations and the store: what is written out, and what comes back (docs/kv-store.md).
#include <algorithm>

#include "pipeline/conversations.h"

namespace flex::pipeline {

namespace {
constexpr std::size_t kBlock = engine::kKvBlockTokens;
using Clock = std::chrono::steady_clock;

crypto::Public32 digest_of(const std::string& text) {
    const auto digest = crypto::sha256(crypto::bytes_of(text));
    return digest ? *digest : crypto::Public32{};
}
} // namespace

std::size_t Conversation::until_ahead() const {
    if (ahead.empty() || ahead.begin()->first * kBlock <= tokens.size()) return SIZE_MAX;
    return ahead.begin()->first * kBlock - tokens.size();
}

memory::KvBinding Conversations::binding(const std::string& scope) const {
    return {store_.model_digest, digest_of(scope), pool_->layout()};
}

// ---- Coming back ----

/// Begins to read what `conversation` lacks of what was found. The memory is taken here, so that the thread
/// that reads needs nothing of the model.
void Conversations::begin_restoring(Conversation& conversation, memory::KvFound found) {
    {
        const std::lock_guard lock(mutex_);
        const auto same = std::ranges::find_if(running_, [&](const Conversation* other) {
            return other->coming && other->coming->found.session == found.session;
        });
        if (same != running_.end()) {
            conversation.comes_with = std::move(found.session);
            return;
        }
    }
    auto coming = std::make_unique<Conversation::Coming>();
    coming->first = conversation.tokens.size() / kBlock;
    const std::size_t end = (found.tokens + kBlock - 1) / kBlock;
    std::vector<memory::KvPlace> places;
    while (coming->first + places.size() < end) {
        auto block = pool_->take();
        if (!block) break; // memory is short; computing it needs no more
        places.push_back(
            {coming->first + places.size(), block->bytes().first(pool_->layout().block_bytes())});
        coming->blocks.push_back(std::move(*block));
    }
    if (places.empty()) return;
    coming->until = Clock::now() + store_.patience;
    coming->reading = store_.store->read(found, std::move(places), bell_);
    if (!coming->reading) return;
    coming->found = std::move(found);
    const std::lock_guard lock(mutex_);
    conversation.coming = std::move(coming);
}

/// Takes over what came from the store; false: more of it may come. The first block that did not come back as
/// it was written ends what the conversation holds; those behind wait until that is computed.
bool Conversations::restore(Conversation& conversation, std::span<const TokenId> prompt) {
    Conversation::Coming& from = *conversation.coming;
    if (!from.reading->done() && Clock::now() < from.until) return false;
    const auto losses = store_.store->finish(*from.reading);
    const std::size_t end = from.found.tokens;
    bool whole = from.found.whole;
    for (std::size_t i = 0; i < losses.size(); ++i) {
        whole = whole && !losses[i];
        if (losses[i]) continue;
        const std::size_t index = from.first + i, tokens = std::min((index + 1) * kBlock, end);
        if (index <= conversation.session->position() / kBlock)
            conversation.session->adopt(index, std::move(from.blocks[i]), static_cast<std::uint32_t>(tokens));
        else
            conversation.ahead.emplace(index, std::move(from.blocks[i]));
    }
    conversation.ahead_end = end;
    const std::size_t has = conversation.session->position();
    conversation.tokens.assign(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(has));
    const std::lock_guard lock(mutex_);
    if (whole) { // else what was damaged is written anew, as another conversation
        conversation.name = from.found.session->id;
        conversation.stored = from.found.session;
        conversation.saved = end / kBlock;
    }
    conversation.coming.reset();
    return true;
}

/// Goes on behind blocks that came from the store, where all in front of them is there now.
void Conversations::use_ahead(Conversation& conversation, std::span<const TokenId> prompt) {
    std::size_t has = conversation.tokens.size();
    auto& ahead = conversation.ahead;
    while (!ahead.empty() && ahead.begin()->first * kBlock <= has) {
        const std::size_t index = ahead.begin()->first;
        const std::size_t end = std::min((index + 1) * kBlock, conversation.ahead_end);
        if (end > has) {
            conversation.session->adopt(index, std::move(ahead.begin()->second),
                                        static_cast<std::uint32_t>(end));
            has = end;
        }
        ahead.erase(ahead.begin());
    }
    conversation.tokens.assign(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(has));
}

// ---- Writing out ----

/// A block that is to be written next.
struct Conversations::Unsaved {
    std::uint64_t id = 0; // of the conversation's stay among the idle
    memory::SessionId name{};
    std::string scope, owner;
    std::shared_ptr<memory::StoredSession> stored;
    std::size_t index = 0;
    bool last = false;
    std::vector<TokenId> tokens; // in it
    engine::KvBlockRef block;    // nobody writes to what is shared
};

std::unique_ptr<Conversations::Unsaved> Conversations::next_unsaved(std::chrono::milliseconds age) {
    const auto now = Clock::now();
    const std::lock_guard lock(mutex_);
    for (const auto& idle : idle_) {
        const std::size_t blocks = idle->tokens.size() / kBlock;
        if (idle->owner.empty() || idle->save_failed || now - idle->idle_since < age || idle->saved >= blocks)
            continue;
        auto next = std::make_unique<Unsaved>();
        next->id = idle->id;
        next->name = idle->name;
        next->scope = idle->scope;
        next->owner = idle->owner;
        next->stored = idle->stored;
        next->index = idle->saved;
        next->last = idle->saved + 1 == blocks;
        const auto first = idle->tokens.begin() + static_cast<std::ptrdiff_t>(idle->saved * kBlock);
        next->tokens.assign(first, first + kBlock);
        next->block = idle->session->block(idle->saved);
        return next;
    }
    return nullptr;
}

Status Conversations::save_block(Unsaved& unsaved) {
    memory::KvStore& store = *store_.store;
    if (!unsaved.stored) {
        FLEX_ASSIGN(unsaved.stored, store.begin(unsaved.name, binding(unsaved.scope),
                                                digest_of(unsaved.owner), store_.model));
    }
    return store.append(*unsaved.stored, unsaved.index, unsaved.tokens,
                        unsaved.block.bytes().first(pool_->layout().block_bytes()));
}

void Conversations::finish_saving(const Unsaved& unsaved, const Status& status) {
    const bool anew = !status && (status.error().code == ErrorCode::kNotFound ||
                                  status.error().code == ErrorCode::kInvalidArgument);
    bool commit = unsaved.last || !status;
    {
        const std::lock_guard lock(mutex_);
        const auto found = std::ranges::find(idle_, unsaved.id, [](const auto& idle) { return idle->id; });
        if (found == idle_.end()) {
            commit = true; // it runs again or had to go: what was written stays for later
        } else if (Conversation& idle = **found; status.ok()) {
            idle.stored = unsaved.stored;
            idle.saved = unsaved.index + 1;
        } else if (anew && idle.stored) { // another conversation that began alike has gone on with it
            idle.stored = nullptr;
            idle.saved = 0;
            static_cast<void>(crypto::random(idle.name));
        } else if (anew && unsaved.stored == nullptr) { // its name is taken
            static_cast<void>(crypto::random(idle.name));
        } else {
            idle.save_failed = true;
        }
    }
    if (commit && unsaved.stored && !anew)
        static_cast<void>(store_.store->commit(*unsaved.stored, !status)); // next time, then
}

void Conversations::save_idle(std::chrono::milliseconds age, const std::function<bool()>& stop) {
    if (store_.store == nullptr) return;
    while (!stop()) {
        const auto unsaved = next_unsaved(age);
        if (!unsaved) return;
        finish_saving(*unsaved, save_block(*unsaved));
    }
}

// ---- Owners ----

std::vector<ConversationInfo> Conversations::list(const std::string& owner) const {
    const auto now = Clock::now();
    const std::lock_guard lock(mutex_);
    std::vector<ConversationInfo> list;
    if (owner.empty()) return list;
    for (const Conversation* running : running_) {
        if (running->owner == owner) list.push_back({running->name, true, 0, 0, 0});
    }
    for (const auto& idle : idle_) {
        if (idle->owner != owner) continue;
        const std::chrono::duration<double> age = now - idle->idle_since;
        list.push_back({idle->name, false, idle->tokens.size(), idle->saved * kBlock, age.count()});
    }
    return list;
}

std::vector<memory::SessionId> Conversations::forget(const std::string& owner,
                                                     const memory::SessionId* name) {
    std::vector<memory::SessionId> gone;
    if (owner.empty()) return gone;
    {
        const std::lock_guard lock(mutex_);
        const auto meant = [&](const Conversation& conversation) {
            if (conversation.owner != owner) return false;
            const bool comes = conversation.coming && name != nullptr && // it is about to be that one
                               conversation.coming->found.session->id == *name;
            return name == nullptr || conversation.name == *name || comes;
        };
        for (Conversation* running : running_) {
            if (!meant(*running)) continue;
            running->forgotten = true;
            gone.push_back(running->name);
        }
        List going;
        for (auto& idle : idle_) {
            if (!meant(*idle)) continue;
            gone.push_back(idle->name);
            going.push_back(std::move(idle));
        }
        std::erase(idle_, nullptr);
        // Beginnings of it that were kept for others are its text, too.
        std::erase_if(prefixes_, [&](const auto& prefix) {
            if (prefix->owner != owner) return false;
            return name == nullptr || std::ranges::any_of(going, [&](const auto& conversation) {
                       return conversation->scope == prefix->scope &&
                              conversation->tokens.size() >= prefix->tokens.size() &&
                              std::ranges::equal(
                                  prefix->tokens,
                                  std::span(conversation->tokens).first(prefix->tokens.size()));
                   });
        });
    }
    pool_->trim(); // what the blocks held goes with their memory
    return gone;
}

} // namespace flex::pipeline
