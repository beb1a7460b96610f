// The sessions of one model: those that compute, and those kept for the next turn of their conversation.
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
    std::string key;             ///< secret of those who may continue it; empty: nobody
};

/// One that waits for its next turn.
struct IdleConversation {
    std::uint64_t id = 0; ///< of this stay among the idle
    std::size_t tokens = 0;
    std::uint64_t bytes = 0; ///< of KV cache, also where others share it
    double idle_seconds = 0;
};

/// Any thread.
class Conversations {
public:
    Conversations(std::shared_ptr<engine::Batch> batch, std::shared_ptr<engine::KvPool> pool,
                  std::uint32_t context)
        : batch_(std::move(batch)), pool_(std::move(pool)), context_(context) {}

    /// A session for `prompt`, which already holds as much of its beginning (but never all) as the idle
    /// conversation with the same non-empty key has in common with it. Idle conversations go until the pool
    /// has room for `tokens` tokens beside those that run.
    Result<Conversation> take(std::span<const TokenId> prompt, const std::string& key, std::size_t tokens);
    /// Keeps it for its next turn; one without a key is forgotten.
    void put_back(Conversation conversation);
    /// Forgets those that are idle and returns their memory: how many bytes that were.
    std::uint64_t give_back();
    /// Forgets this one, if it is still idle, and returns what memory is free then.
    std::uint64_t give_back(std::uint64_t id);
    [[nodiscard]] std::size_t idle() const;
    [[nodiscard]] std::vector<IdleConversation> list_idle() const;

    /// Kept at most; then the one idle for longest goes.
    static constexpr std::size_t kMaxIdle = 16;

private:
    const std::shared_ptr<engine::Batch> batch_;
    const std::shared_ptr<engine::KvPool> pool_;
    const std::uint32_t context_;
    mutable std::mutex mutex_;
    struct Idle {
        Conversation conversation;
        std::uint64_t id = 0;
        std::chrono::steady_clock::time_point since;
    };
    std::vector<Idle> idle_; // the one idle for longest first
    std::uint64_t next_id_ = 0;
};

} // namespace flex::pipeline
