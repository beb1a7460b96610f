/*
 * Who waits for which futex word (futex(2)). The words themselves are read by the caller. First come, first
 * woken. Threads are named by their index. Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_FUTEX_HPP
#define FLEX_TOS_CORE_FUTEX_HPP

#include "core/types.hpp"

namespace flex::tos {

template <u32 kThreads> class FutexQueue {
public:
    void clear() { count_ = 0; }

    void wait(u32 thread, u64 address, u32 bits) { waiters_[count_++] = {address, bits, thread}; }

    /* A time-out or the end of the thread. */
    void remove(u32 thread) {
        for (u32 i = 0; i < count_; i++) {
            if (waiters_[i].thread == thread) return erase(i);
        }
    }

    /* Takes up to `most` waiters out, calls woken(thread) for each; returns how many. */
    template <class Woken> u32 wake(u64 address, u32 bits, u32 most, Woken&& woken) {
        u32 done = 0;
        for (u32 i = 0; i < count_ && done < most;) {
            if (waiters_[i].address != address || (waiters_[i].bits & bits) == 0) {
                i++;
                continue;
            }
            const u32 thread = waiters_[i].thread;
            erase(i);
            woken(thread);
            done++;
        }
        return done;
    }

    /* Lets up to `most` waiters wait for another word instead. */
    u32 requeue(u64 from, u64 to, u32 most) {
        u32 done = 0;
        for (u32 i = 0; i < count_ && done < most; i++) {
            if (waiters_[i].address != from) continue;
            waiters_[i].address = to;
            done++;
        }
        return done;
    }

private:
    struct Waiter {
        u64 address;
        u32 bits;
        u32 thread;
    };
    void erase(u32 i) {
        count_--;
        for (; i < count_; i++) waiters_[i] = waiters_[i + 1];
    }

    Waiter waiters_[kThreads]; /* a thread waits for one word at most */
    u32 count_ = 0;
};

} // namespace flex::tos

#endif
