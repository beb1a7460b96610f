// How a command, or a part of one, ended.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "abi/npu.h"

namespace flex::npu::model {

struct [[nodiscard]] Outcome {
    flex_npu_status status = FLEX_NPU_OK;
    std::uint64_t address = 0; ///< of FLEX_NPU_FAULT

    [[nodiscard]] bool ok() const { return status == FLEX_NPU_OK; }
};

#define FLEX_NPU_TRY(expression)                                                                             \
    do {                                                                                                     \
        if (const ::flex::npu::model::Outcome flex_outcome = (expression); !flex_outcome.ok())               \
            return flex_outcome;                                                                             \
    } while (false)

/// The first failure of several threads.
class SharedOutcome {
public:
    void report(const Outcome& outcome) {
        if (outcome.ok()) return;
        const std::lock_guard lock(mutex_);
        if (first_.ok()) first_ = outcome;
        failed_.store(true, std::memory_order_relaxed);
    }
    [[nodiscard]] bool failed() const { return failed_.load(std::memory_order_relaxed); }
    /// When all threads are done.
    [[nodiscard]] Outcome first() const { return first_; }

private:
    std::mutex mutex_;
    std::atomic<bool> failed_{false};
    Outcome first_;
};

} // namespace flex::npu::model
