// How a command, or a part of one, ended.
#pragma once

#include <atomic>
#include <cstddef>
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

/// Of tasks that several threads take in their order: the failure of the first task that fails, whichever
/// thread is faster.
class SharedOutcome {
public:
    void report(std::size_t task, const Outcome& outcome) {
        if (outcome.ok()) return;
        const std::lock_guard lock(mutex_);
        if (task >= failed_.load(std::memory_order_relaxed)) return;
        first_ = outcome;
        failed_.store(task, std::memory_order_relaxed);
    }
    /// It can be left out.
    [[nodiscard]] bool failed_before(std::size_t task) const {
        return failed_.load(std::memory_order_relaxed) < task;
    }
    /// When all threads are done.
    [[nodiscard]] Outcome first() const { return first_; }

private:
    std::mutex mutex_;
    std::atomic<std::size_t> failed_{~std::size_t{0}}; // the task
    Outcome first_;
};

} // namespace flex::npu::model
