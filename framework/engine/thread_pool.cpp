#include "engine/thread_pool.h"

#include <algorithm>

#include <sched.h>

namespace flex::engine {

namespace {

#if defined(__x86_64__)
constexpr int kSpins = 2000; // a PAUSE is about 20 ns on current cores: 40 µs
void relax() { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
constexpr int kSpins = 20000;
void relax() { asm volatile("yield"); }
#else
constexpr int kSpins = 1000;
void relax() {}
#endif

/// Longer than most times for which a scheduler gives the processor to somebody else.
constexpr int kAwakeFactor = 40;
/// Once it takes long, others that want this processor have it.
constexpr int kSpinsBetweenYields = 32;

} // namespace

ThreadPool::ThreadPool(unsigned threads) {
    const unsigned wanted = std::clamp(threads, 1u, 64u) - 1;
    workers_.reserve(wanted);
    // pthreads, because std::thread can report a refusal only by throwing.
    for (unsigned i = 0; i < wanted; ++i) {
        workers_.push_back({this, i + 1, {}});
        const auto main = [](void* worker) -> void* {
            static_cast<Worker*>(worker)->pool->work(static_cast<Worker*>(worker)->thread);
            return nullptr;
        };
        if (pthread_create(&workers_.back().handle, nullptr, main, &workers_.back()) != 0) {
            workers_.pop_back();
            break;
        }
    }
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard lock(sleep_);
        stop_.store(true);
    }
    wake_.notify_all();
    for (const Worker& worker : workers_) pthread_join(worker.handle, nullptr);
}

/// A prefetch never faults (Intel SDM, PREFETCHh; Arm ARM, PRFM), so the address need not be there.
void ThreadPool::wait_a_little(unsigned thread, Asked& asked) const {
    constexpr std::size_t kAtOnce = 512, kLine = 64; // about as long as relax() with a memory that is busy
    const std::byte* first = expected_first_.load(std::memory_order_relaxed);
    if (first != asked.first) asked = {first, 0};
    if (first == nullptr || asked.bytes >= expected_bytes_.load(std::memory_order_relaxed)) return relax();
    const std::byte* from = first + thread * expected_stride_.load(std::memory_order_relaxed) + asked.bytes;
    for (std::size_t line = 0; line < kAtOnce; line += kLine) __builtin_prefetch(from + line, 0, 2);
    asked.bytes += kAtOnce;
}

void ThreadPool::stay_awake(bool on) {
    awake_.store(on);
    if (!on) return;
    roused_.fetch_add(1);
    if (sleepers_.load() == 0) return;
    { const std::lock_guard lock(sleep_); }
    wake_.notify_all();
}

/// Whether a thread that has looked so often in vain looks once more, rather than to sleep.
bool ThreadPool::spins_on(int spins) const {
    if (spins < kSpins) return true;
    if (spins >= kAwakeFactor * kSpins || !awake_.load(std::memory_order_relaxed)) return false;
    if (spins % kSpinsBetweenYields == 0) sched_yield();
    return true;
}

void ThreadPool::drain(unsigned thread) {
    for (std::size_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
        call_(task_, i, thread);
    }
}

void ThreadPool::run_erased(std::size_t count, Call call, const void* task) {
    if (workers_.empty() || count <= 1) {
        for (std::size_t i = 0; i < count; ++i) call(task, i, 0);
        return;
    }
    const std::lock_guard turn(turn_);
    call_ = call;
    task_ = task;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    ticket_.fetch_add(kOneJob + kOpen); // closed and empty before: publishes the fields and opens the job
    if (sleepers_.load() > 0) {
        { const std::lock_guard lock(sleep_); }
        wake_.notify_all();
    }
    drain(0);
    ticket_.fetch_and(~kOpen);
    Asked asked;
    for (int i = 0; spins_on(i); ++i) {
        if ((ticket_.load() & kInside) == 0) return;
        wait_a_little(0, asked);
    }
    std::unique_lock lock(sleep_);
    // An exchange, not a store: a store-release and the load-acquire of ticket_ that follows must not change
    // places, which the Arm ARM promises (B2.3.11) but QEMU's translation to x86 does not keep. leave() would
    // then see nobody asleep.
    caller_sleeps_.exchange(true);
    done_.wait(lock, [this] { return (ticket_.load() & kInside) == 0; });
    caller_sleeps_.store(false);
}

bool ThreadPool::join(std::uint64_t& seen) {
    std::uint64_t ticket = ticket_.load();
    while ((ticket & kOpen) != 0 && (ticket & ~kInside) != seen) {
        if (ticket_.compare_exchange_weak(ticket, ticket + 1)) {
            seen = ticket & ~kInside;
            return true;
        }
    }
    return false;
}

void ThreadPool::leave() {
    const std::uint64_t before = ticket_.fetch_sub(1);
    if ((before & kInside) == 1 && caller_sleeps_.load()) {
        { const std::lock_guard lock(sleep_); }
        done_.notify_one();
    }
}

void ThreadPool::work(unsigned thread) {
    std::uint64_t seen = 0;
    unsigned roused = 0;
    Asked asked;
    const auto announced = [&] {
        const std::uint64_t ticket = ticket_.load();
        return stop_.load() || roused_.load() != roused ||
               ((ticket & kOpen) != 0 && (ticket & ~kInside) != seen);
    };
    while (!stop_.load()) {
        bool joined = false;
        roused = roused_.load();
        for (int i = 0; spins_on(i) && !joined && !stop_.load(std::memory_order_relaxed); ++i) {
            joined = join(seen);
            if (!joined) wait_a_little(thread, asked);
        }
        if (joined) {
            drain(thread);
            leave();
            continue;
        }
        // Either run_erased() sees this sleeper and notifies after we wait, or we see its ticket here.
        std::unique_lock lock(sleep_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, announced);
        sleepers_.fetch_sub(1);
    }
}

} // namespace flex::engine
