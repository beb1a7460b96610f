// A few threads that compute one thing at a time together with the caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include <pthread.h>

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

    /// Memory that the next job will read, for threads that have nothing to do until then: the tail of this
    /// job and what one thread does between two. Thread t may ask for `bytes` from `first` + t * `stride`
    /// into its second-level cache. Only a hint: nothing is read through it, the memory may go at any time.
    /// Null takes it back.
    void expect_reads(const std::byte* first, std::size_t stride, std::size_t bytes) {
        expected_first_.store(first, std::memory_order_relaxed);
        expected_stride_.store(stride, std::memory_order_relaxed);
        expected_bytes_.store(bytes, std::memory_order_relaxed);
    }

    /// Until it is taken back, threads wait for each other and for the next run() for a millisecond or two
    /// before they go to sleep, and those that sleep wake up. For somebody who knows that a run() follows,
    /// and whose threads may lose their processors for a moment: what is woken then often waits for the
    /// processor of whoever woke it, beside one that is idle.
    void stay_awake(bool on);

private:
    using Call = void (*)(const void* task, std::size_t index, unsigned thread);
    void run_erased(std::size_t count, Call call, const void* task);
    void work(unsigned thread);
    void drain(unsigned thread);
    bool join(std::uint64_t& seen);
    void leave();

    /// How far a waiting thread has asked for what it expects.
    struct Asked {
        const std::byte* first = nullptr;
        std::size_t bytes = 0;
    };
    void wait_a_little(unsigned thread, Asked& asked) const;
    [[nodiscard]] bool spins_on(int spins) const;

    // ticket_: job number (bits 63..17), open (bit 16), workers inside (bits 15..0). A worker enters only an
    // open job, and the job's fields change only while the ticket is closed and nobody is inside. So a worker
    // that comes late (its core was taken away) delays nobody.
    static constexpr std::uint64_t kOpen = 1u << 16;
    static constexpr std::uint64_t kInside = kOpen - 1;
    static constexpr std::uint64_t kOneJob = 1u << 17;

    std::mutex turn_;              // one job at a time
    std::mutex sleep_;             // guards going to sleep, not the job
    std::condition_variable wake_; // for workers: there is a job
    std::condition_variable done_; // for the caller: nobody is inside
    std::atomic<unsigned> sleepers_{0};
    std::atomic<bool> caller_sleeps_{false};
    std::atomic<bool> stop_{false};
    std::atomic<bool> awake_{false};
    std::atomic<unsigned> roused_{0}; // times that sleepers were to wake up for stay_awake()
    Call call_ = nullptr;
    const void* task_ = nullptr;
    std::size_t count_ = 0;
    // Three that may be seen of different hints: a thread then asks for memory nobody wants.
    std::atomic<const std::byte*> expected_first_{nullptr};
    std::atomic<std::size_t> expected_stride_{0}, expected_bytes_{0};
    alignas(64) std::atomic<std::uint64_t> ticket_{0};
    alignas(64) std::atomic<std::size_t> next_{0};
    struct Worker {
        ThreadPool* pool;
        unsigned thread;
        pthread_t handle;
    };
    std::vector<Worker> workers_; // never grows after the constructor: the threads hold pointers into it
};

} // namespace flex::engine
