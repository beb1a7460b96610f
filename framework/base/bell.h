// Wakes a thread that has nothing to do until somebody else has done something.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace flex {

/// Any thread rings, one waits. What rang since the last wait ends the next one at once, so who looks first
/// and waits then misses nothing.
class Bell {
public:
    void ring() {
        const std::lock_guard lock(mutex_);
        rung_ = true;
        wake_.notify_one();
    }
    void wait_until(std::chrono::steady_clock::time_point end) {
        std::unique_lock lock(mutex_);
        wake_.wait_until(lock, end, [&] { return rung_; });
        rung_ = false;
    }

private:
    std::mutex mutex_;
    std::condition_variable wake_;
    bool rung_ = false;
};

} // namespace flex
