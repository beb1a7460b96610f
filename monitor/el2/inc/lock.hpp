#pragma once

#include "types.hpp"

namespace flex::monitor {

// A ticket lock: cores enter in the order they came. The monitor runs with interrupts masked, so a holder is
// never preempted. Machine::relax() is what a core does while it waits (WFE-free: the holder's work is
// microseconds).
template <class Machine> class TicketLock final {
public:
    void lock(Machine& machine) {
        const u32 mine = __atomic_fetch_add(&next_, 1, __ATOMIC_RELAXED);
        while (__atomic_load_n(&serving_, __ATOMIC_ACQUIRE) != mine) machine.relax();
    }
    void unlock() { __atomic_store_n(&serving_, serving_ + 1, __ATOMIC_RELEASE); }

private:
    u32 next_ = 0;
    u32 serving_ = 0;
};

template <class Machine> class Guard final {
public:
    Guard(TicketLock<Machine>& lock, Machine& machine) : lock_(lock) { lock_.lock(machine); }
    ~Guard() { lock_.unlock(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

private:
    TicketLock<Machine>& lock_;
};

} // namespace flex::monitor
