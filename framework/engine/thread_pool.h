// A few threads that compute one thing at a time together with the caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace flex::engine {

/// run() hands out task numbers to the caller and the workers until none is left. Workers spin for a few tens
/// of microseconds between jobs (layers follow each other closely), then sleep. Several sessions may share a
/// pool: run() calls from different threads take turns.
class ThreadPool {
public:
    /// `threads` counts the caller: 1 makes no thread at all. Clamped to 1..64. If the system refuses a
    /// thread, the pool works with those it got.
    explicit ThreadPool(unsigned threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    [[nodiscard]] unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

    /// Calls task(index, thread) for every index in [0, count), thread in [0, threads()). Returns when all
    /// are done and their writes are visible. Must not be called from inside a task.
    template <class Task> void run(std::size_t count, const Task& task) {
        run_erased(
            count,
            [](const void* t, std::size_t i, unsigned thread) { (*static_cast<const Task*>(t))(i, thread); },
            &task);
    }

private:
    using Call = void (*)(const void* task, std::size_t index, unsigned thread);
    void run_erased(std::size_t count, Call call, const void* task);
    void work(unsigned thread);
    void drain(unsigned thread);

    std::mutex turn_;  // one job at a time
    std::mutex sleep_; // guards the sleeping, not the job
    std::condition_variable wake_;
    std::atomic<std::uint64_t> generation_{0}; // a new value announces a job
    std::atomic<unsigned> sleepers_{0};
    std::atomic<bool> stop_{false};
    Call call_ = nullptr;
    const void* task_ = nullptr;
    std::size_t count_ = 0;
    alignas(64) std::atomic<std::size_t> next_{0};
    alignas(64) std::atomic<unsigned> busy_{0};
    std::vector<std::thread> workers_;
};

} // namespace flex::engine
