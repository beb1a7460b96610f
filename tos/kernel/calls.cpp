/* What the world outside asks for: opteed's entries and the calls of abi/calls.h. */
#include "abi/calls.h"
#include "abi/npu_control.hpp"

#include "arch/mmu.hpp"
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/exception.hpp"
#include "kernel/memory_job.hpp"
#include "kernel/npu.hpp"
#include "kernel/move.hpp"
#include "kernel/random.hpp"
#include "kernel/scheduler.hpp"

extern "C" {
extern const char opteed_vectors[], __stack0_top[];
extern const flex::tos::u64 identity_root;
[[noreturn]] void smc_return(flex::tos::u64 function, flex::tos::u64 x1, flex::tos::u64 x2, flex::tos::u64 x3,
                             flex::tos::u64 x4);
extern const flex::tos::u64 core_bytes;
const flex::tos::u64 core_bytes = sizeof(flex::tos::Core);
}

namespace flex::tos {

constinit Core cores[kCores];

namespace {

void init_core(u32 index) {
    Core& core = cores[index];
    core = {};
    core.index = index;
    core.stack_top = reinterpret_cast<u64>(__stack0_top) + index * u64{TOS_STACK_STRIDE};
    core.panic_stack_top = core.stack_top + TOS_GUARD_BYTES + TOS_STACK_BYTES;
    core.ttbr0_identity = identity_root;
    constexpr u64 kCountersForUser = 3; /* EL0PCTEN, EL0VCTEN; no timers */
    CNTKCTL_EL1::write(kCountersForUser);
}

CallResult boot(u64 table, u64 base, u64 frames) {
    Locked lock;
    constexpr u64 kFramesMax = BOARD_DRAM_BYTES_MAX >> FLEX_FRAME_SHIFT;
    if (g_frames.frames() != 0) return {FLEX_ERR_STATE};
    if (!is_aligned(table, kPageBytes) || !is_aligned(base, kPageBytes) || frames == 0 ||
        frames > kFramesMax) {
        return {FLEX_ERR_ARGUMENT};
    }
    const u64 control = npu_control_offset(frames);
    u8* cells = map_non_secure(TOS_FRAME_TABLE_BASE, table, control + kPageBytes);
    if (cells == nullptr) return {FLEX_ERR_NO_MEMORY};
    npu_boot(reinterpret_cast<flex_npu_control*>(cells + control));
    g_frames = TrustedOsFrameTable<>(cells, base, frames);
    return {FLEX_OK};
}

CallResult stop() {
    Locked lock;
    if (g_program.life != Life::Running) return {FLEX_ERR_STATE};
    end_program(256 + kSignalKill);
    return {FLEX_OK};
}

CallResult reclaim(u64 bytes) {
    Locked lock;
    if (g_program.life != Life::Running) return {FLEX_ERR_STATE};
    g_program.reclaim_bytes = bytes > ~g_program.reclaim_bytes ? ~u64{0} : g_program.reclaim_bytes + bytes;
    g_program.trim = true;
    wake_all(WaitFor::Reclaim);
    kick_service();
    return {FLEX_OK};
}

CallResult recall_npu(u64 ms) {
    Locked lock;
    return {npu_recall(ms) ? FLEX_OK : FLEX_ERR_STATE};
}

CallResult statistic(u64 which) {
    Locked lock;
    const Statistics& s = g_statistics;
    switch (which) {
    case FLEX_TOS_STAT_LENDS:
        return {FLEX_OK, s.lends};
    case FLEX_TOS_STAT_INTERRUPTED:
        return {FLEX_OK, s.interrupted};
    case FLEX_TOS_STAT_RPCS:
        return {FLEX_OK, s.rpcs};
    case FLEX_TOS_STAT_RPC_ANSWERS_REFUSED:
        return {FLEX_OK, s.answers_refused};
    case FLEX_TOS_STAT_FRAMES_ADOPTED:
        return {FLEX_OK, s.adopted};
    case FLEX_TOS_STAT_FRAMES_RELEASED:
        return {FLEX_OK, s.released};
    case FLEX_TOS_STAT_ADOPTIONS_REFUSED:
        return {FLEX_OK, s.adoptions_refused};
    case FLEX_TOS_STAT_POOL_FRAMES:
        return {FLEX_OK, g_pool.frames()};
    case FLEX_TOS_STAT_SYSCALLS:
        return {FLEX_OK, s.syscalls};
    case FLEX_TOS_STAT_PAGE_FAULTS:
        return {FLEX_OK, s.page_faults};
    case FLEX_TOS_STAT_THREADS:
        return {FLEX_OK, g_program.threads};
    case FLEX_TOS_STAT_SWITCH_MAX_NS:
        return {FLEX_OK, ticks_to_ns(s.switch_max_ticks)};
    case FLEX_TOS_STAT_SWITCHES:
        return {FLEX_OK, s.switches};
    case FLEX_TOS_STAT_SWITCH_TOTAL_NS:
        return {FLEX_OK, ticks_to_ns(s.switch_ticks)};
    case FLEX_TOS_STAT_SWITCHES_OVER_100US:
        return {FLEX_OK, s.slow_switches};
    case FLEX_TOS_STAT_NPU_HELD:
        return {FLEX_OK, s.npu_held};
    case FLEX_TOS_STAT_NPU_REVOKED:
        return {FLEX_OK, s.npu_revoked};
    case FLEX_TOS_STAT_FRAMES_MOVED:
        return {FLEX_OK, s.moved};
    case FLEX_TOS_STAT_NPU_WAITS:
        return {FLEX_OK, s.npu_waits};
    case FLEX_TOS_STAT_NPU_INTERRUPTS:
        return {FLEX_OK, s.npu_interrupts};
    case FLEX_TOS_STAT_PROGRAM_STARTS:
        return {FLEX_OK, s.starts};
    default:
        return {FLEX_ERR_ARGUMENT};
    }
}

CallResult start(u64 shared, u64 bytes, u64 lent) {
    Locked lock;
    return {start_program(shared, bytes, lent)};
}

CallResult call(u64 function, u64 x1, u64 x2, u64 x3) {
    switch (function) {
    case FLEX_TOS_LEND:
        return lend(static_cast<u32>(x1), x2, (x3 & FLEX_LEND_NPU) != 0);
    case FLEX_TOS_VERSION:
        return {FLEX_OK, FLEX_ABI_VERSION};
    case FLEX_TOS_START:
        return start(x1, x2, x3);
    case FLEX_TOS_STOP:
        return stop();
    case FLEX_TOS_RECLAIM:
        return reclaim(x1);
    case FLEX_TOS_NPU_RECALL:
        return recall_npu(x1);
    case FLEX_TOS_STAT:
        return statistic(x1);
    case FLEX_TOS_MOVE: {
        Locked lock;
        return {move_frame(x1, x2)};
    }
    case FLEX_TOS_BOOT:
        return boot(x1, x2, x3);
    case FLEX_TOS_QUIESCE:
        quiesce();
        return {FLEX_OK};
    default:
        return {FLEX_ERR_UNKNOWN};
    }
}

} // namespace

extern "C" {

[[noreturn]] void entry_call(u64 function, u64 x1, u64 x2, u64 x3) {
    /* EL3 hands the function identifier on as a 32-bit number, extended however. */
    const CallResult result = call(function & 0xffffffff, x1, x2, x3);
    smc_return(OPTEED_RETURN_CALL_DONE, static_cast<u64>(result.status), result.x1, result.x2, result.x3);
}

/* A secure interrupt came while the normal world ran: only quiesce() and end_program() send one, to cores
 * that were in S-EL0. */
[[noreturn]] void entry_fiq() {
    acknowledge_secure_interrupt();
    smc_return(OPTEED_RETURN_FIQ_DONE, 0, 0, 0, 0);
}

[[noreturn]] void start_primary(u64 index) {
    init_core(static_cast<u32>(index));
    g_kernel_table.rebind(g_tables);
    collect_system_calls();
    load_secrets();
    print("tos: up; %lu KiB of the program's image, %lu tables free\n", program_image().size / 1024,
          g_tables.available());
    const u64 vectors = reinterpret_cast<u64>(opteed_vectors) - TOS_VIRTUAL_OFFSET;
    smc_return(OPTEED_RETURN_ENTRY_DONE, vectors, 0, 0, 0);
}

[[noreturn]] void start_secondary(u64 index) {
    init_core(static_cast<u32>(index));
    smc_return(OPTEED_RETURN_ON_DONE, 0, 0, 0, 0);
}

} // extern "C"

/* ---- Secure interrupts (GICv3): TF-A puts SGI 8..15 into secure group 1 ---- */

namespace {
constexpr u64 kWakeInterrupt = 14;
constexpr u64 kSpurious = 1020; /* from here on: no interrupt */
} // namespace

void interrupt_cores(u32 mask) {
    barrier_data(); /* what the others shall see is visible before they are interrupted */
    ICC_SGI1R_EL1::write(kWakeInterrupt << 24 | mask);
    barrier_instruction();
}

void acknowledge_secure_interrupt() {
    const u64 interrupt = ICC_IAR1_EL1::read() & 0xffffff;
    if (interrupt < kSpurious) ICC_EOIR1_EL1::write(interrupt);
}

/* ---- Time ---- */

u64 ticks_to_ns(u64 ticks) {
    const u64 frequency = CNTFRQ_EL0::read();
    constexpr u64 kSecond = 1'000'000'000;
    return ticks / frequency * kSecond + ticks % frequency * kSecond / frequency;
}

u64 ns_to_ticks(u64 ns) {
    const u64 frequency = CNTFRQ_EL0::read();
    constexpr u64 kSecond = 1'000'000'000;
    const u64 seconds = ns / kSecond;
    if (seconds >= kNever / frequency - 1) return kNever;
    return seconds * frequency + ns % kSecond * frequency / kSecond;
}

u64 deadline_after(u64 ns) {
    const u64 ticks = ns_to_ticks(ns), time = now();
    return ticks >= kNever - time ? kNever : time + ticks;
}

} // namespace flex::tos
