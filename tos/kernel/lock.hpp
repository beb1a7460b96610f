/* The kernel's one lock. Interrupts are masked whenever the kernel runs, so a holder is never preempted. */
#ifndef FLEX_TOS_KERNEL_LOCK_HPP
#define FLEX_TOS_KERNEL_LOCK_HPP

#include "core/types.hpp"

namespace flex::tos {

/* First come, first served. */
class SpinLock {
public:
    void lock() {
        const u32 mine = __atomic_fetch_add(&next_, 1, __ATOMIC_RELAXED);
        while (__atomic_load_n(&serving_, __ATOMIC_ACQUIRE) != mine) asm volatile("yield");
    }
    void unlock() { __atomic_store_n(&serving_, serving_ + 1, __ATOMIC_RELEASE); }
    /* For a panic, which must not wait for a lock that its own core may hold. */
    [[nodiscard]] bool free() const { return __atomic_load_n(&next_, __ATOMIC_RELAXED) == serving_; }

private:
    u32 next_ = 0, serving_ = 0;
};

/* Guards everything declared in kernel/ unless said otherwise. */
extern SpinLock g_lock;

struct Locked {
    Locked() { g_lock.lock(); }
    ~Locked() { g_lock.unlock(); }
    Locked(const Locked&) = delete;
};
/* For work that takes long and touches only what the running thread owns. */
struct Unlocked {
    Unlocked() { g_lock.unlock(); }
    ~Unlocked() { g_lock.lock(); }
    Unlocked(const Unlocked&) = delete;
};

} // namespace flex::tos

#endif
