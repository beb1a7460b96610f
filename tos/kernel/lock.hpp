/* The kernel's one lock. Interrupts are masked whenever the kernel runs, so a holder is never preempted. */
#ifndef FLEX_TOS_KERNEL_LOCK_HPP
#define FLEX_TOS_KERNEL_LOCK_HPP

#include "core/types.hpp"

namespace flex::tos {

/* Not fair, on purpose: with a queue, one core that its hypervisor (or a debugger) holds up would hold up all behind it. */
class SpinLock {
public:
    void lock() {
        while (__atomic_exchange_n(&taken_, true, __ATOMIC_ACQUIRE)) {
            while (__atomic_load_n(&taken_, __ATOMIC_RELAXED)) asm volatile("yield");
        }
    }
    void unlock() { __atomic_store_n(&taken_, false, __ATOMIC_RELEASE); }

private:
    bool taken_ = false;
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
