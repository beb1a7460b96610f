// The sessions of one model: those that compute, those kept for the next turn of their conversation, and the
// beginnings that several conversations of one caller have in common (system prompts). A caller's sessions
// share the KV blocks of what they begin with; two callers share nothing, whatever they ask.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engine/session.h"

namespace flex::pipeline {

/// A place in the KV cache, and what it holds.
struct Conversation {
    std::unique_ptr<engine::Session> session;
    std::vector<TokenId> tokens; ///< in the session
    /// Of those who may use what it holds: secret, or the digest of something secret. Empty: nobody.
    std::string scope;
    std::size_t reserved = 0; ///< blocks it may come to hold
    std::uint64_t id = 0;     ///< of its stay among the idle
    std::chrono::steady_clock::time_point idle_since{};
};

/// One that waits for its next turn, or a prefix that waits for its next use.
struct IdleConversation {
    std::uint64_t id = 0; ///< of this stay among the idle
    std::size_t tokens = 0;
    std::uint64_t bytes = 0; ///< of KV cache, also where others share it
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

/// take(), catch_up() and put_back() belong to the thread that computes the model: they look into sessions.
/// The rest: any thread.
class Conversations {
public:
    Conversations(std::shared_ptr<engine::Batch> batch, std::shared_ptr<engine::KvPool> pool,
                  std::uint32_t context)
        : batch_(std::move(batch)), pool_(std::move(pool)), context_(context) {}

    /// A session for `prompt`, which already holds as much of its beginning (but never all) as anything of
    /// the same non-empty scope has in common with it: an idle conversation, one that runs (whole blocks), a
    /// prefix. What is idle goes, until the cache has room for `tokens` tokens beside what runs.
    Result<std::unique_ptr<Conversation>> take(std::span<const TokenId> prompt, const std::string& scope,
                                               std::size_t tokens);
    /// While its prompt is computed: takes over what another of the same scope has computed of it meanwhile.
    void catch_up(Conversation& conversation, std::span<const TokenId> prompt);
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
    void keep_prefix(const Conversation& source, std::span<const TokenId> tokens);
    [[nodiscard]] std::size_t blocks_needed() const;
    bool evict_locked();
    using List = std::vector<std::unique_ptr<Conversation>>;

    const std::shared_ptr<engine::Batch> batch_;
    const std::shared_ptr<engine::KvPool> pool_;
    const std::uint32_t context_;
    mutable std::mutex mutex_;
    std::vector<const Conversation*> running_; // taken, not yet put back
    List idle_, prefixes_;                     // the one unused for longest first
    ConversationsStatus counts_;
    std::uint64_t next_id_ = 0;
};

} // namespace flex::pipeline
