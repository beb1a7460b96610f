#include "kernel/scheduler.hpp"

#include "abi/calls.h"
#include "arch/mmu.hpp"
#include "kernel/exception.hpp"
#include "kernel/npu.hpp"
#include "kernel/rpc_engine.hpp"

namespace flex::tos {

SpinLock g_lock;
Thread g_threads[kThreads];
bool g_quiesced;
Statistics g_statistics;

namespace {

Thread* ready_first;
Thread* ready_last;
u32 ready_threads;

/* Cores that were asked for in x2 of a LEND result and have not come yet; forgotten when that was long ago.
 */
u32 called_cores;
u64 called_at;
constexpr u64 kCallExpiresNs = 5'000'000;

/*
 * A thread that became ready is taken by the next core that has nothing to do, often the one that made it ready and is about to wait
 * itself. Only when none has come by then, a core leaves to ask the normal world for another: that costs its own thread a
 * way out and back.
 */
u64 help_due = kNever;

/* ASID 1 for the program (bits 63:48 of TTBR0); the identity page has 0. */
constexpr u64 kProgramAsid = u64{1} << 48;

u64 earliest_deadline = kNever; /* of all waiting threads, or an earlier time */

/* Wakes whose time has come, and finds the earliest time of the others. */
void look_at_deadlines(u64 ticks) {
    earliest_deadline = npu_look(ticks);
    for (Thread& thread : g_threads) {
        if (thread.state != ThreadState::Waiting) continue;
        if (thread.deadline > ticks) {
            earliest_deadline = min(earliest_deadline, thread.deadline);
            continue;
        }
        thread.timed_out = true;
        if (thread.waits_for == WaitFor::Futex) {
            g_futexes.remove(thread.id);
            (void)finish(thread, kEtimedout);
        }
        make_ready(thread);
    }
}

u64 ns_until(u64 deadline, u64 time) {
    if (deadline == kNever) return kNever;
    return deadline > time ? ticks_to_ns(deadline - time) : 0;
}

/* A core whose tick is unknown goes back after this long. */
constexpr u64 kTickUnknownNs = 1'000'000;

u32 cores_inside() {
    u32 count = 0;
    for (const Core& core : cores) count += core.inside || core.returning;
    return count;
}

/* Further cores that could run something, of those that lend but are not here. `coming`: threads this core
 * will take itself. */
u32 helpers_wanted(u32 coming) {
    const u32 inside = cores_inside();
    const u32 away = g_program.cores_lent > inside ? g_program.cores_lent - inside : 0;
    const u32 waiting = ready_threads > coming ? ready_threads - coming : 0;
    return min(away, waiting);
}

void expire_called_cores() {
    if (called_cores != 0 && ticks_to_ns(now() - called_at) > kCallExpiresNs) called_cores = 0;
}

/*
 * The normal world's virtual timer is switched off by EL3 with the world (TF-A: opteed sets NS_TIMER_SWITCH),
 * but its interrupt is still the normal world's, and so an FIQ here. It is set for whatever comes first: the
 * core's tick, the end of a thread's wait, or the time to call for help.
 */
void set_timer(Core& core) {
    u64 due = min(core.tick_due, earliest_deadline);
    if (ready_threads != 0 && help_due > now()) due = min(due, help_due);
    if (due == core.timer_set_for) return;
    CNTV_CVAL_EL0::write(due);
    barrier_instruction();
    core.timer_set_for = due;
}

/* Keeps what EL3 does not (TF-A: CTX_INCLUDE_FPREGS is off): the normal world's FP registers. */
void borrow(Core& core) {
    if (core.borrowed) return;
    save_fp(&core.normal_fp);
    core.timer_set_for = kNever;
    CNTV_CVAL_EL0::write(kNever);
    CNTV_CTL_EL0::write(1); /* enabled, not masked */
    core.fp_owner = nullptr;
    TTBR0_EL1::write(g_program.table.root() | kProgramAsid);
    barrier_instruction();
    core.borrowed = true;
}

void give_back(Core& core) {
    if (!core.borrowed) return;
    load_fp(&core.normal_fp);
    CNTV_CTL_EL0::write(0);
    TTBR0_EL1::write(core.ttbr0_identity);
    barrier_instruction();
    core.fp_owner = nullptr;
    core.borrowed = false;
}

void fetch_fp(Core& core, Thread& thread) {
    if (core.fp_owner == &thread && thread.core == static_cast<i32>(core.index)) return;
    load_fp(&thread.fp);
    core.fp_owner = &thread;
    thread.core = static_cast<i32>(core.index);
}

void keep_fp(Core& core, Thread& thread) {
    if (core.fp_owner == &thread && thread.core == static_cast<i32>(core.index)) save_fp(&thread.fp);
}

/* A thread's wait has ended and no interrupt is pending. Re-arms the timer; on real parts its line takes a
 * moment to fall, and then the normal world gets the core for nothing. */
bool only_a_wake_up(Core& core) {
    const u64 time = now();
    if (time >= core.tick_due || time < core.timer_set_for) return false;
    wake_expired(time);
    set_timer(core);
    return !interrupt_pending();
}

enum class Turn : u8 { Waits, Ended, Interrupted, Preempted, Leave };

/* Runs one thread until it waits or ends, or the core is needed elsewhere. With the lock, which is free while
 * S-EL0 runs. */
Turn run(Core& core, Thread& thread) {
    for (;;) {
        if (g_program.life != Life::Running && thread.id != kServiceThread) {
            end_thread(thread);
            return Turn::Ended;
        }
        if (g_quiesced) return Turn::Leave;
        if (thread.step != nullptr) {
            const Next next = thread.step(thread);
            if (thread.state != ThreadState::Running)
                return thread.state == ThreadState::Free ? Turn::Ended : Turn::Waits;
            if (next == Next::User) thread.step = nullptr;
            if (interrupt_pending()) return Turn::Interrupted;
            continue;
        }
        expire_called_cores();
        if (g_slots.anything_to_report() || (helpers_wanted(0) > called_cores && now() >= help_due)) return Turn::Leave;
        fetch_fp(core, thread);
        set_timer(core);
        core.in_user = true;
        g_lock.unlock();
        const int kind = enter_user(&thread.registers);
        const u64 since = now();
        g_lock.lock();
        core.in_user = false;
        if (kind == kExceptionFiq) {
            if (only_a_wake_up(core)) return Turn::Preempted;
            core.interrupted_at = since;
            return Turn::Interrupted;
        }
        /* A call that took the first steps at once may have ended with the last one. */
        if (handle_user_exception(thread, kind) == Next::User) thread.step = nullptr;
        if (thread.state != ThreadState::Running)
            return thread.state == ThreadState::Free ? Turn::Ended : Turn::Waits;
    }
}

/* Linux should have its interrupt back by then. */
constexpr u64 kSwitchGoalNs = 100'000;

CallResult leave(Core& core, flex_lend_reason reason, u64 x3 = 0) {
    CallResult result;
    result.status = reason;
    result.x1 = g_slots.report();
    result.x2 = helpers_wanted(reason == FLEX_LEND_IDLE ? 0 : 1);
    result.x3 = x3;
    if (result.x2 > called_cores) {
        called_cores = static_cast<u32>(result.x2);
        called_at = now();
    }
    give_back(core);
    core.inside = false;
    core.returning = reason == FLEX_LEND_INTERRUPTED || reason == FLEX_LEND_WORK;
    return result;
}

CallResult leave_interrupted(Core& core) {
    g_statistics.interrupted++;
    const CallResult result = leave(core, FLEX_LEND_INTERRUPTED);
    if (core.interrupted_at != 0) {
        const u64 ticks = now() - core.interrupted_at;
        g_statistics.switches++;
        g_statistics.switch_ticks += ticks;
        g_statistics.switch_max_ticks = max(g_statistics.switch_max_ticks, ticks);
        if (ticks_to_ns(ticks) > kSwitchGoalNs) g_statistics.slow_switches++;
        core.interrupted_at = 0;
    }
    return result;
}

void count_ready() {
    if (ready_threads++ == 0) help_due = deadline_after(BOARD_HELP_AFTER_NS);
}

/* One turn of the core. False: nothing was ready. */
bool take_turn(Core& core, Turn& turn) {
    Thread* thread = next_ready();
    if (thread == nullptr) return false;
    borrow(core);
    core.thread = thread;
    thread->state = ThreadState::Running;
    if (thread->id != kServiceThread) g_program.running++;
    turn = run(core, *thread);
    if (thread->id != kServiceThread) g_program.running--;
    if (turn == Turn::Ended) {
        if (core.fp_owner == thread) core.fp_owner = nullptr;
        if (g_program.life == Life::Dying && g_program.running == 0) kick_service();
    } else {
        keep_fp(core, *thread);
    }
    if (turn == Turn::Interrupted || turn == Turn::Preempted) make_ready(*thread);
    if (turn == Turn::Leave) make_ready_first(*thread);
    return true;
}

} // namespace

CallResult lend(u32 completed, u64 tick_due, bool npu_rings) {
    Core& core = this_core();
    Locked lock;
    core.tick_due = tick_due != 0 ? tick_due : deadline_after(kTickUnknownNs);
    g_statistics.lends++;
    core.inside = true;
    if (called_cores > 0 && !core.returning) called_cores--;
    complete_slots(completed);
    if (npu_rings) npu_rang();
    for (;;) {
        if (g_quiesced) return leave(core, FLEX_LEND_IDLE, kNever);
        if (g_program.life == Life::Ended) return leave(core, FLEX_LEND_EXITED, g_program.exit_code);
        if (g_program.life == Life::None) {
            (void)leave(core, FLEX_LEND_IDLE);
            return {FLEX_ERR_STATE};
        }
        wake_expired(now());
        Turn turn = Turn::Waits;
        if (!g_slots.anything_to_report() && take_turn(core, turn)) {
            if (turn == Turn::Interrupted) return leave_interrupted(core);
            if (turn == Turn::Leave && !g_quiesced) return leave(core, FLEX_LEND_WORK);
            continue;
        }
        /* Exactly: a wait that ended early has left its deadline behind, for which a core would be woken. */
        const u64 time = now();
        look_at_deadlines(time);
        if (ready_threads == 0) return leave(core, FLEX_LEND_IDLE, ns_until(earliest_deadline, time));
        if (g_slots.anything_to_report()) return leave(core, FLEX_LEND_WORK);
    }
}

/* Nobody can enter S-EL0 while the lock is held, nor later, since g_quiesced is looked at with the lock. */
void quiesce() {
    Locked lock;
    g_quiesced = true;
    u32 others = 0;
    for (const Core& core : cores) {
        if (core.in_user) others |= 1u << core.index;
    }
    if (others != 0) interrupt_cores(others);
    Unlocked unlocked;
    for (const Core& core : cores) {
        while (__atomic_load_n(&core.in_user, __ATOMIC_ACQUIRE)) asm volatile("yield");
    }
}

void make_ready(Thread& thread) {
    thread.state = ThreadState::Ready;
    thread.waits_for = WaitFor::Nothing;
    thread.next = nullptr;
    if (ready_last != nullptr) {
        ready_last->next = &thread;
    } else {
        ready_first = &thread;
    }
    ready_last = &thread;
    count_ready();
}

void make_ready_first(Thread& thread) {
    thread.state = ThreadState::Ready;
    thread.waits_for = WaitFor::Nothing;
    thread.next = ready_first;
    ready_first = &thread;
    if (ready_last == nullptr) ready_last = &thread;
    count_ready();
}

Thread* next_ready() {
    Thread* thread = ready_first;
    if (thread == nullptr) return nullptr;
    ready_first = thread->next;
    if (ready_first == nullptr) ready_last = nullptr;
    ready_threads--;
    return thread;
}

void forget_ready(Thread& thread) {
    Thread* before = nullptr;
    for (Thread* at = ready_first; at != nullptr; before = at, at = at->next) {
        if (at != &thread) continue;
        (before != nullptr ? before->next : ready_first) = at->next;
        if (ready_last == at) ready_last = before;
        ready_threads--;
        return;
    }
}

Next finish(Thread& thread, i64 result) {
    thread.registers.x[0] = static_cast<u64>(result);
    thread.in_system_call = false;
    return Next::User;
}

Next wait_for(Thread& thread, WaitFor what, Step step, u64 deadline) {
    thread.state = ThreadState::Waiting;
    thread.waits_for = what;
    thread.step = step;
    thread.deadline = deadline;
    earliest_deadline = min(earliest_deadline, deadline);
    thread.timed_out = false;
    return Next::Wait;
}

Next wait_and_restart(Thread& thread, WaitFor what, u64 deadline) {
    if (thread.in_system_call) thread.registers.pc -= 4; /* the SVC again; its arguments are untouched */
    thread.in_system_call = false;
    if (what == WaitFor::Frames) kick_service();
    return wait_for(thread, what, nullptr, deadline);
}

void wake_all(WaitFor what) {
    for (Thread& thread : g_threads) {
        if (thread.state == ThreadState::Waiting && thread.waits_for == what) make_ready(thread);
    }
}

void wake_expired(u64 ticks) {
    if (ticks >= earliest_deadline) look_at_deadlines(ticks);
}

void look_by(u64 ticks) { earliest_deadline = min(earliest_deadline, ticks); }

void kick_service() {
    Thread& service = g_threads[kServiceThread];
    if (service.state == ThreadState::Waiting && service.waits_for == WaitFor::Service) make_ready(service);
}

} // namespace flex::tos
