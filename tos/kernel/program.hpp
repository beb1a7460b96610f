/*
 * The program: its address space, its descriptors, its life. There is one at a time.
 */
#ifndef FLEX_TOS_KERNEL_PROGRAM_HPP
#define FLEX_TOS_KERNEL_PROGRAM_HPP

#include "abi/frame_table.hpp"
#include "core/areas.hpp"
#include "core/drbg.hpp"
#include "core/elf.hpp"
#include "core/files.hpp"
#include "core/frame_pool.hpp"
#include "core/futex.hpp"
#include "core/page_table.hpp"
#include "core/rpc.hpp"
#include "core/secure_store.hpp"
#include "kernel/lock.hpp"
#include "kernel/thread.hpp"

namespace flex::tos {

enum class Life : u8 {
    None,    /* never started, or its end was told to nobody yet started again */
    Running, /* has threads */
    Dying,   /* its threads are being stopped; the service thread takes it apart */
    Ended,   /* all frames are back; LEND says FLEX_LEND_EXITED */
};

struct Program {
    Life life;
    u32 exit_code;
    u32 threads;         /* alive, without the service thread */
    u32 running;         /* on a core now, without the service thread */
    u32 cores_lent;      /* as START said */
    u64 shared_physical; /* of the RPC area */
    ElfProgram elf;
    PageTable table;
    u64 break_start, break_end;
    u64 mapped_frames;
    u32 told_moved;      /* flex_npu_grant::moves */
    u64 refill_after; /* ticks: the normal world refused frames, ask again only then */
    u64 started;      /* ticks */
    u64 alloc_ticks, load_ticks;
    bool time_known;
    u64 time_offset_ns; /* real time minus system counter; the normal world's word */
    bool trim;          /* the normal world wants memory: the pool keeps only what it needs */
    u64 reclaim_bytes;  /* asked for by the normal world, not yet taken up by the program */
};

extern Program g_program;
extern Areas g_areas;
extern FramePool g_pool;
extern Files g_files;
extern FutexQueue<kThreads> g_futexes;
extern RpcSlots g_slots;
extern Drbg g_drbg;
extern SecureStore g_store;
extern TrustedOsFrameTable<> g_frames;
extern bool g_quiesced;

/* Counters of enum flex_tos_stat that are not computed. */
struct Statistics {
    u64 lends, interrupted, rpcs, answers_refused, adopted, released, adoptions_refused, syscalls,
        page_faults;
    u64 switch_max_ticks, starts, switches, switch_ticks, slow_switches;
    u64 npu_held, npu_revoked, npu_waits, npu_interrupts, moved;
};
extern Statistics g_statistics;

/* The embedded ELF. */
[[nodiscard]] Bytes program_image();

/* Everything of the program is back with the normal world; the shared area goes too. */
void finish_program();
/* FLEX_TOS_START. The area is pinned (or in the defence-removed build just believed). */
[[nodiscard]] i64 start_program(u64 shared, u64 bytes, u64 cores);
/* The program ends, all its threads with it. exit_code: 0..255, or 256 + signal. Safe to call more than once.
 */
void end_program(u32 exit_code);
void end_thread(Thread& thread);
[[nodiscard]] Thread* new_thread();

constexpr u32 kSignalAbort = 6, kSignalBus = 7, kSignalFloat = 8, kSignalKill = 9, kSignalSegment = 11,
              kSignalIllegal = 4;
/* A fault or abort() of the program: registers and call chain to the console, then its end. */
Next kill_program(Thread& thread, u32 signal, const char* why);

/* ---- Scheduling ---- */
void make_ready(Thread& thread);
void make_ready_first(Thread& thread);
[[nodiscard]] Thread* next_ready();
void forget_ready(Thread& thread); /* takes it out of the queue */
void wake_all(WaitFor what);
void wake_expired(u64 ticks);
void look_by(u64 ticks); /* wake_expired() is to be called by then at the latest */
void kick_service();
Next service_step(Thread& service);

/* ---- System calls ---- */
Next system_call(Thread& thread);
void collect_system_calls(); /* once, before the first */

} // namespace flex::tos

#endif
