/*
 * Threads of the program, and how they wait. The kernel has one stack a core and none a thread: a thread that
 * has to wait in the middle of a system call leaves a `step` that goes on from there.
 */
#ifndef FLEX_TOS_KERNEL_THREAD_HPP
#define FLEX_TOS_KERNEL_THREAD_HPP

#include "arch/layout.h"
#include "core/rpc.hpp"
#include "core/types.hpp"

namespace flex::tos {

struct Registers {
    u64 x[31];
    u64 sp, pc, pstate, tls;
    u64 esr, far; /* of the exception that brought it into the kernel */
    u64 padding;
};
static_assert(offsetof(Registers, sp) == REGISTERS_SP && offsetof(Registers, pc) == REGISTERS_PC);
static_assert(offsetof(Registers, pstate) == REGISTERS_PSTATE && offsetof(Registers, tls) == REGISTERS_TLS);
static_assert(offsetof(Registers, esr) == REGISTERS_ESR && offsetof(Registers, far) == REGISTERS_FAR);
static_assert(sizeof(Registers) == REGISTERS_BYTES && sizeof(Registers) % 16 == 0);

struct alignas(16) FpState {
    u8 v[32][16];
    u64 fpcr, fpsr;
};
extern "C" void save_fp(FpState* state);
extern "C" void load_fp(const FpState* state);

struct Thread;
struct MemoryJob;

/* What the core does with the thread after a step or a system call. */
enum class Next : u8 {
    User,  /* back to S-EL0 */
    Again, /* call the step again, unless an interrupt waits */
    Wait,  /* it waits; the core takes another thread */
};
using Step = Next (*)(Thread&);

enum class ThreadState : u8 { Free, Ready, Running, Waiting };
enum class WaitFor : u8 { Nothing, Futex, Time, Answer, Slot, Frames, Job, Reclaim, Flash, Npu, NpuRecall, Service };

constexpr u64 kNever = ~u64{0};

/* One descriptor of a poll or select in progress, in the order of the request. */
constexpr u32 kPollMax = 32;
struct PollItem {
    u32 position; /* in the program's array, or descriptor of a select */
    u32 descriptor;
    u32 handle;
    u32 events;
};

struct Thread {
    Registers registers;
    FpState fp;

    ThreadState state;
    WaitFor waits_for;
    bool timed_out;      /* how the last wait ended */
    bool in_system_call; /* registers are those of an SVC that has not been answered */
    u32 id;              /* as gettid says; index in g_threads */
    i32 core;            /* whose FP registers hold this thread's, -1: none */
    u64 deadline;        /* ticks; kNever: none */
    Next outcome;        /* of an access to its memory that could not be made, see reached() */
    Step step;           /* nullptr: run the program */
    Thread* next;        /* in the ready queue */
    u64 clear_tid;       /* CLONE_CHILD_CLEARTID */

    /* Of a system call in progress */
    u32 slot; /* RPC slot, kNone: none */
    MemoryJob* job;
    u64 user_address, user_bytes;
    u64 descriptor;
    u64 scratch[2];
    PollItem poll[kPollMax];
    u32 poll_count;
};

constexpr u32 kThreads = 64;
/* The kernel's own thread: keeps the pool filled, takes the program apart. It has no S-EL0 part. */
constexpr u32 kServiceThread = 0;
extern Thread g_threads[kThreads];

/* Ends a system call. */
Next finish(Thread& thread, i64 result);
/* Waits; `step` goes on afterwards (nullptr: in the program). */
Next wait_for(Thread& thread, WaitFor what, Step step, u64 deadline = kNever);
/* Waits, then makes the same system call (or access) again. */
Next wait_and_restart(Thread& thread, WaitFor what, u64 deadline = kNever);

} // namespace flex::tos

#endif
