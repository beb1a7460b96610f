/* Threads, futexes, time, signals. */
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/rpc_engine.hpp"
#include "kernel/system_calls.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

bool TimeSpec::to_ns(u64& ns) const {
    constexpr i64 kSecond = 1'000'000'000;
    if (seconds < 0 || nanoseconds < 0 || nanoseconds >= kSecond) return false;
    const bool far = seconds >= static_cast<i64>((kNever - 1) / kSecond);
    ns = far ? kNever - 1 : static_cast<u64>(seconds * kSecond + nanoseconds);
    return true;
}

namespace {

/* ---- clone(2): threads only ---- */

constexpr u64 kCloneVm = 0x100, kCloneFs = 0x200, kCloneFiles = 0x400, kCloneSignals = 0x800,
              kCloneThread = 0x10000;
constexpr u64 kCloneSetTls = 0x80000, kCloneParentSetTid = 0x100000, kCloneChildClearTid = 0x200000,
              kCloneChildSetTid = 0x1000000;
constexpr u64 kCloneNeeded = kCloneVm | kCloneFs | kCloneFiles | kCloneSignals | kCloneThread;

Next system_clone(Thread& thread, const Arguments& a) {
    const u64 flags = a[0], stack = a[1], parent_tid = a[2], tls = a[3], child_tid = a[4];
    if ((flags & kCloneNeeded) != kCloneNeeded) return finish(thread, kEnosys); /* fork */
    if (flags & kCloneParentSetTid) {
        if (!reached(thread, touch(parent_tid, 4, kProtectWrite))) return thread.outcome;
    }
    if (flags & kCloneChildSetTid) {
        if (!reached(thread, touch(child_tid, 4, kProtectWrite))) return thread.outcome;
    }
    Thread* child = new_thread();
    if (child == nullptr) return finish(thread, kEagain);
    child->registers = thread.registers;
    child->registers.x[0] = 0;
    child->registers.sp = stack;
    if (flags & kCloneSetTls) child->registers.tls = tls;
    if (flags & kCloneChildClearTid) child->clear_tid = child_tid;
    save_fp(&child->fp); /* the parent's, which this core holds */
    const u32 id = child->id;
    if ((flags & kCloneParentSetTid) && store_user(parent_tid, id) != Access::Good)
        return finish(thread, kEfault);
    if ((flags & kCloneChildSetTid) && store_user(child_tid, id) != Access::Good)
        return finish(thread, kEfault);
    make_ready(*child);
    return finish(thread, id);
}

Next system_exit(Thread& thread, const Arguments&) {
    if (thread.clear_tid != 0) {
        (void)store_user(thread.clear_tid, u32{0});
        (void)g_futexes.wake(thread.clear_tid, ~u32{0}, ~u32{0}, [](u32 id) {
            (void)finish(g_threads[id], 0);
            make_ready(g_threads[id]);
        });
    }
    end_thread(thread);
    return Next::Wait;
}

Next system_exit_group(Thread& thread, const Arguments& a) {
    end_program(static_cast<u32>(a[0]) & 0xff);
    (void)thread; /* ends at the core's next turn, with the others */
    return Next::Again;
}

Next system_set_tid_address(Thread& thread, const Arguments& a) {
    thread.clear_tid = a[0];
    return finish(thread, thread.id);
}

Next system_gettid(Thread& thread, const Arguments&) { return finish(thread, thread.id); }

Next system_yield(Thread& thread, const Arguments&) {
    (void)finish(thread, 0);
    make_ready(thread);
    return Next::Wait;
}

/* ---- futex(2) ---- */

constexpr u64 kFutexWait = 0, kFutexWake = 1, kFutexRequeue = 3, kFutexCompareRequeue = 4, kFutexWaitBits = 9,
              kFutexWakeBits = 10;
constexpr u64 kFutexCommand = 0x7f, kFutexRealtime = 0x100;

u32 wake_futex(u64 address, u32 bits, u32 most) {
    return g_futexes.wake(address, bits, most, [](u32 id) {
        (void)finish(g_threads[id], 0);
        make_ready(g_threads[id]);
    });
}

/* Time-outs of WAIT are relative; those of WAIT_BITSET are points in time. */
Access futex_deadline(u64 user_time, bool absolute, bool realtime, u64& deadline, bool& valid) {
    TimeSpec time;
    if (const Access access = load_user(time, user_time); access != Access::Good) return access;
    u64 ns = 0;
    valid = time.to_ns(ns);
    if (!valid) return Access::Good;
    if (!absolute) {
        deadline = deadline_after(ns);
    } else {
        if (realtime) ns = ns > g_program.time_offset_ns ? ns - g_program.time_offset_ns : 0;
        deadline = ns_to_ticks(ns);
    }
    return Access::Good;
}

Next futex_wait(Thread& thread, const Arguments& a, bool with_bits) {
    const u32 bits = with_bits ? static_cast<u32>(a[5]) : ~u32{0};
    if (bits == 0) return finish(thread, kEinval);
    u64 deadline = kNever;
    if (a[3] != 0) {
        bool valid = true;
        if (!reached(thread, futex_deadline(a[3], with_bits, (a[1] & kFutexRealtime) != 0, deadline, valid)))
            return thread.outcome;
        if (!valid) return finish(thread, kEinval);
    }
    u32 word = 0;
    if (!reached(thread, load_user_word(word, a[0]))) return thread.outcome;
    if (word != static_cast<u32>(a[2])) return finish(thread, kEagain);
    g_futexes.wait(thread.id, a[0], bits);
    return wait_for(thread, WaitFor::Futex, nullptr, deadline);
}

Next futex_requeue(Thread& thread, const Arguments& a, bool compare) {
    if (compare) {
        u32 word = 0;
        if (!reached(thread, load_user_word(word, a[0]))) return thread.outcome;
        if (word != static_cast<u32>(a[5])) return finish(thread, kEagain);
    }
    const u32 woken = wake_futex(a[0], ~u32{0}, static_cast<u32>(a[2]));
    const u32 moved = g_futexes.requeue(a[0], a[4], static_cast<u32>(a[3]));
    return finish(thread, woken + (compare ? moved : 0));
}

Next system_futex(Thread& thread, const Arguments& a) {
    if (!is_aligned(a[0], 4)) return finish(thread, kEinval);
    switch (a[1] & kFutexCommand) {
    case kFutexWait:
        return futex_wait(thread, a, false);
    case kFutexWaitBits:
        return futex_wait(thread, a, true);
    case kFutexWake:
        return finish(thread, wake_futex(a[0], ~u32{0}, static_cast<u32>(a[2])));
    case kFutexWakeBits:
        return finish(thread, wake_futex(a[0], static_cast<u32>(a[5]), static_cast<u32>(a[2])));
    case kFutexRequeue:
        return futex_requeue(thread, a, false);
    case kFutexCompareRequeue:
        return futex_requeue(thread, a, true);
    default:
        return finish(thread, kEnosys);
    }
}

/* ---- Time ---- */

constexpr u64 kClockRealtime = 0, kClockRealtimeCoarse = 5;
bool is_realtime(u64 clock) { return clock == kClockRealtime || clock == kClockRealtimeCoarse; }
constexpr u64 kClocks = 12; /* all others run with the system counter */

Next store_time(Thread& thread, u64 to, u64 ns) {
    const TimeSpec time = {static_cast<i64>(ns / 1'000'000'000), static_cast<i64>(ns % 1'000'000'000)};
    if (!reached(thread, store_user(to, time))) return thread.outcome;
    return finish(thread, 0);
}

Next time_known_step(Thread& thread) {
    RpcAnswer answer;
    if (take_answer(thread, answer) && answer.result >= 0 && !g_program.time_known) {
        const u64 counter = ticks_to_ns(now());
        g_program.time_offset_ns = answer.out[0] > counter ? answer.out[0] - counter : 0;
    }
    g_program.time_known = true; /* also after a refusal: then the epoch is the device's start */
    drop_slot(thread);
    return store_time(thread, thread.user_address, ticks_to_ns(now()) + g_program.time_offset_ns);
}

/* Real time is the normal world's word, asked for once; from there the counter, so it never jumps. Untrusted.
 */
Next system_clock_gettime(Thread& thread, const Arguments& a) {
    if (a[0] >= kClocks) return finish(thread, kEinval);
    if (!is_realtime(a[0])) return store_time(thread, a[1], ticks_to_ns(now()));
    if (g_program.time_known) return store_time(thread, a[1], ticks_to_ns(now()) + g_program.time_offset_ns);
    if (!reached(thread, touch(a[1], sizeof(TimeSpec), kProtectWrite))) return thread.outcome;
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = a[1];
    return post(thread, {FLEX_RPC_TIME, 0, {}}, time_known_step);
}

Next system_clock_getres(Thread& thread, const Arguments& a) {
    if (a[0] >= kClocks) return finish(thread, kEinval);
    return a[1] == 0 ? finish(thread, 0) : store_time(thread, a[1], 1);
}

Next slept_step(Thread& thread) { return finish(thread, 0); }

Next sleep_until(Thread& thread, u64 deadline) {
    return wait_for(thread, WaitFor::Time, slept_step, deadline);
}

Next system_nanosleep(Thread& thread, const Arguments& a) {
    TimeSpec time;
    if (!reached(thread, load_user(time, a[0]))) return thread.outcome;
    u64 ns = 0;
    if (!time.to_ns(ns)) return finish(thread, kEinval);
    return sleep_until(thread, deadline_after(ns));
}

Next system_clock_nanosleep(Thread& thread, const Arguments& a) {
    constexpr u64 kAbsolute = 1;
    TimeSpec time;
    if (a[0] >= kClocks) return finish(thread, kEinval);
    if (!reached(thread, load_user(time, a[2]))) return thread.outcome;
    u64 ns = 0;
    if (!time.to_ns(ns)) return finish(thread, kEinval);
    if ((a[1] & kAbsolute) == 0) return sleep_until(thread, deadline_after(ns));
    if (is_realtime(a[0])) ns = ns > g_program.time_offset_ns ? ns - g_program.time_offset_ns : 0;
    return sleep_until(thread, ns_to_ticks(ns));
}

/* ---- Signals: only the deadly ones exist ---- */

Next deadly_signal(Thread& thread, u64 signal) {
    if (signal == 0) return finish(thread, 0);
    return kill_program(thread, static_cast<u32>(signal) & 0x7f, "raise a signal");
}
Next system_kill(Thread& thread, const Arguments& a) { return deadly_signal(thread, a[1]); }
Next system_tgkill(Thread& thread, const Arguments& a) { return deadly_signal(thread, a[2]); }

/* What was there before: nothing. */
Next zero_old(Thread& thread, u64 to, u64 bytes) {
    const u8 zero[32] = {};
    if (to != 0 && bytes <= sizeof zero) {
        if (!reached(thread, copy_to_user(to, zero, bytes))) return thread.outcome;
    }
    return finish(thread, 0);
}
Next system_sigaction(Thread& thread, const Arguments& a) { return zero_old(thread, a[2], 32); }
Next system_sigprocmask(Thread& thread, const Arguments& a) { return zero_old(thread, a[2], a[3]); }

const CallEntry kThreadCallsList[] = {
    {93, system_exit},
    {94, system_exit_group},
    {96, system_set_tid_address},
    {98, system_futex},
    {99, answer<0>}, /* set_robust_list: no thread ends without the program but by exit */
    {101, system_nanosleep},
    {113, system_clock_gettime},
    {114, system_clock_getres},
    {115, system_clock_nanosleep},
    {124, system_yield},
    {129, system_kill},
    {130, system_kill}, /* tkill */
    {131, system_tgkill},
    {132, answer<0>}, /* sigaltstack */
    {134, system_sigaction},
    {135, system_sigprocmask},
    {178, system_gettid},
    {220, system_clone},
    {283, answer<kEnosys>}, /* membarrier: glibc does without */
    {293, answer<kEnosys>}, /* rseq */
    {435, answer<kEnosys>}, /* clone3: glibc falls back to clone */
};
} // namespace

const Span<const CallEntry> kThreadCalls(kThreadCallsList);

} // namespace flex::tos
