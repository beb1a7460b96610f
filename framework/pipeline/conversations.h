// The sessions of one model: those that compute, those kept for the next turn of their conversation, and the
// beginnings that several conversations of one caller have in common (system prompts). A caller's sessions
// share the KV blocks of what they begin with; two callers share nothing, whatever they ask.
//
// With a store (memory/kv_store.h) idle conversations are also written out, a while after their last turn.
// Their memory can then go at any time without a loss, and nobody who wants it waits for the store.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engine/session.h"
#include "memory/kv_store.h"

namespace flex::pipeline {

/// Whose a conversation is.
struct Ownership {
    /// Of those who may use what it holds: secret, or the digest of something secret. Empty: nobody.
    std::string scope;
    /// Who may list and delete it, likewise. Empty: nobody, and it is never written out.
    std::string owner;
};

/// A place in the KV cache, and what it holds.
struct Conversation {
    std::unique_ptr<engine::Session> session;
    std::vector<TokenId> tokens; ///< in the session
    std::string scope;           ///< Ownership::scope
    std::string owner;           ///< Ownership::owner
    std::size_t reserved = 0;    ///< blocks it may come to hold
    std::uint64_t id = 0;        ///< of its stay among the idle
    std::chrono::steady_clock::time_point idle_since{};

    memory::SessionId name{}; ///< of the conversation, turn after turn; random
    /// Blocks that came from the store behind one that did not, by their place: the pass that has computed
    /// what is missing in front of them goes on behind them.
    std::map<std::size_t, engine::KvBlockRef> ahead;
    std::size_t ahead_end = 0; ///< tokens of the prompt that they hold
    /// Tokens to be computed until the first of them begins; SIZE_MAX: there are none.
    [[nodiscard]] std::size_t until_ahead() const;

    /// What is being read for it from the store.
    struct Coming {
        memory::KvFound found;
        std::size_t first = 0;                  ///< index of the first block
        std::vector<engine::KvBlockRef> blocks; ///< that it is read into
        std::unique_ptr<memory::KvReading> reading;
        std::chrono::steady_clock::time_point until; ///< longer is not waited
    };
    std::unique_ptr<Coming> coming; ///< null: nothing
    /// What another of the same scope was reading when this one wanted to: it comes with that.
    std::shared_ptr<memory::StoredSession> comes_with;

    std::shared_ptr<memory::StoredSession> stored; ///< null: not written out
    std::size_t saved = 0;                         ///< blocks there
    bool save_failed = false;                      ///< this turn's
    bool forgotten = false;                        ///< deleted while it ran: not to be kept
};

/// One that waits for its next turn, or a prefix that waits for its next use.
struct IdleConversation {
    std::uint64_t id = 0; ///< of this stay among the idle
    std::size_t tokens = 0;
    std::size_t saved_tokens = 0; ///< of these in the store
    std::uint64_t bytes = 0;      ///< of KV cache, also where others share it
    double idle_seconds = 0;
};

/// For its owner.
struct ConversationInfo {
    memory::SessionId name{};
    bool running = false;
    std::size_t tokens = 0, saved_tokens = 0; ///< running: as the turn began
    double idle_seconds = 0;
};

/// Since the model was opened, but for the first four.
struct ConversationsStatus {
    std::size_t running = 0, idle = 0, prefixes = 0;
    std::size_t blocks_in_use = 0, blocks_free = 0, blocks_shared = 0, blocks_limit = 0;
    std::uint64_t hits = 0;          ///< conversations that began with what was there
    std::uint64_t misses = 0;        ///< with a scope, but without anything to begin with
    std::uint64_t shared_tokens = 0; ///< that were not computed again
    std::uint64_t evicted = 0;       ///< idle conversations and prefixes that had to go
};

/// Where conversations are written out.
struct ConversationStore {
    memory::KvStore* store = nullptr; ///< not owned; null: nowhere
    std::string model;                ///< for people
    crypto::Public32 model_digest{};  ///< KvBinding::model
    /// What has not come after this is not waited for; it is computed.
    std::chrono::milliseconds patience{3000};
};

/// take(), catch_up() and put_back() belong to the thread that computes the model: they look into sessions.
/// save_idle(): one thread at a time. The rest: any thread.
class Conversations {
public:
    Conversations(std::shared_ptr<engine::Batch> batch, std::shared_ptr<engine::KvPool> pool,
                  std::uint32_t context, ConversationStore store = {})
        : batch_(std::move(batch)), pool_(std::move(pool)), context_(context), store_(std::move(store)) {}

    /// A session for `prompt`, which already holds as much of its beginning (but never all) as anything of
    /// the same non-empty scope has in common with it: an idle conversation, one that runs (whole blocks), a
    /// prefix. More may come from the store (Conversation::coming). What is idle goes, until the cache has
    /// room for `tokens` tokens beside what runs.
    Result<std::unique_ptr<Conversation>> take(std::span<const TokenId> prompt, const Ownership& who,
                                               std::size_t tokens);
    /// While its prompt is computed: takes over what another of the same scope has computed of it meanwhile,
    /// and what came from the store.
    void catch_up(Conversation& conversation, std::span<const TokenId> prompt);
    /// For a thread that waits until something comes: returns when the next part of something has, when
    /// wake() was called since it last waited, or at `end`.
    void wait_until(std::chrono::steady_clock::time_point end) { bell_->wait_until(end); }
    void wake() { bell_->ring(); }
    /// Keeps it for its next turn; one without a scope is forgotten.
    void put_back(std::unique_ptr<Conversation> conversation);

    /// Forgets what is idle and returns its memory: how many bytes that were.
    std::uint64_t give_back();
    /// Forgets this one, if it is still idle, and returns what memory is free then.
    std::uint64_t give_back(std::uint64_t id);
    /// Forgets what was idle for longest, without returning memory. False: there is nothing idle.
    bool evict_one();
    [[nodiscard]] std::size_t idle() const;
    [[nodiscard]] std::vector<IdleConversation> list_idle() const;
    [[nodiscard]] ConversationsStatus status() const;

    /// Writes out what has been idle for `age`, until `stop` says so. What cannot be written is tried again
    /// after its next turn.
    void save_idle(std::chrono::milliseconds age, const std::function<bool()>& stop);
    /// Those of `owner`.
    [[nodiscard]] std::vector<ConversationInfo> list(const std::string& owner) const;
    /// Forgets what `owner` has here, or only `name`, beginnings kept of it included; what runs goes when it
    /// ends. Does not touch the store. Returns which ones.
    std::vector<memory::SessionId> forget(const std::string& owner, const memory::SessionId* name);

    /// Kept at most; then the one unused for longest goes.
    static constexpr std::size_t kMaxIdle = 16, kMaxPrefixes = 8;
    /// Of one scope, so that a busy caller leaves others theirs.
    static constexpr std::size_t kMaxPrefixesOfOne = 4;

private:
    struct Source {
        const Conversation* conversation = nullptr;
        std::size_t tokens = 0; ///< in common
    };
    [[nodiscard]] Source best_source(std::span<const TokenId> prompt, const std::string& scope,
                                     const Conversation* except) const;
    void use_source(Conversation& conversation, const Source& source, std::span<const TokenId> prompt);
    void keep_prefix(const Conversation& source, std::span<const TokenId> tokens);
    [[nodiscard]] std::size_t blocks_needed() const;
    bool evict_locked();
    using List = std::vector<std::unique_ptr<Conversation>>;

    // conversations_store.cpp
    [[nodiscard]] memory::KvBinding binding(const std::string& scope) const;
    void begin_restoring(Conversation& conversation, memory::KvFound found);
    [[nodiscard]] bool restore(Conversation& conversation, std::span<const TokenId> prompt);
    void use_ahead(Conversation& conversation, std::span<const TokenId> prompt);
    struct Unsaved;
    [[nodiscard]] std::unique_ptr<Unsaved> next_unsaved(std::chrono::milliseconds age);
    Status save_block(Unsaved& block);
    void finish_saving(const Unsaved& block, const Status& status);

    const std::shared_ptr<engine::Batch> batch_;
    const std::shared_ptr<engine::KvPool> pool_;
    const std::uint32_t context_;
    const ConversationStore store_;
    const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>(); // readings may outlive all this
    mutable std::mutex mutex_;                                    // never held while the store works
    std::vector<Conversation*> running_;                          // taken, not yet put back
    List idle_, prefixes_;                                        // the one unused for longest first
    ConversationsStatus counts_;
    std::uint64_t next_id_ = 0;
};

} // namespace flex::pipeline
