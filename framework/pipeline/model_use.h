// How a model is used and how fast it computes prompts: what the memory policy goes by.
#pragma once

#include <chrono>
#include <mutex>

#include "memory/policy.h"

namespace flex::pipeline {

/// Outlives the model's stay in memory. Any thread.
class ModelUse {
public:
    explicit ModelUse(const memory::PolicyOptions& options) : options_(options) {}

    /// A prompt of `tokens` tokens is done; `computed` of them took `nanoseconds` (the others were cached).
    void note_prompt(std::size_t tokens, std::size_t computed, std::uint64_t nanoseconds) {
        const std::lock_guard lock(mutex_);
        history_.note(now(), static_cast<std::uint32_t>(tokens), options_);
        if (computed < kTelling || nanoseconds == 0) return;
        const double rate = static_cast<double>(computed) * 1e9 / static_cast<double>(nanoseconds);
        prefill_rate_ = prefill_rate_ == 0 ? rate : (prefill_rate_ + rate) / 2;
    }

    struct Snapshot {
        memory::UseHistory history;
        double recent = 0;
        double prefill_rate = 0; ///< tokens/s; 0: unknown
    };
    [[nodiscard]] Snapshot snapshot() const {
        const std::lock_guard lock(mutex_);
        return {history_, history_.recent(now(), options_), prefill_rate_};
    }

private:
    static constexpr std::size_t kTelling = 8; ///< fewer tokens say little about speed
    static double now() {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }

    const memory::PolicyOptions options_;
    mutable std::mutex mutex_;
    memory::UseHistory history_;
    double prefill_rate_ = 0;
};

} // namespace flex::pipeline
