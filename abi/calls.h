/*
 * Calls between the worlds (Arm SMC Calling Convention, DEN0028; all are SMC64).
 *
 * Registers: x0 the function, x1..x6 arguments; on return x0 a status (>= 0 good, < 0 enum flex_status), x1..x3 results.
 * x4..x17 may be clobbered by a call that reaches the trusted OS.
 */
#ifndef FLEX_ABI_CALLS_H
#define FLEX_ABI_CALLS_H

#include "abi/types.h"

#define FLEX_ABI_VERSION FLEX_U64(2)

/* Status in x0. Values below -15 so that they never collide with the PSCI and SMCCC error codes. */
enum flex_status {
    FLEX_OK = 0,
    FLEX_ERR_UNKNOWN = -1,       /* SMCCC "not supported": no such call, or not allowed for this caller */
    FLEX_ERR_ARGUMENT = -16,     /* malformed: misaligned, wraps, out of DRAM, count zero or above the limit */
    FLEX_ERR_STATE = -17,        /* well-formed, but some frame or object is not in the state the call needs */
    FLEX_ERR_BUSY = -18,         /* try again */
    FLEX_ERR_NO_MEMORY = -19,    /* page-table pool or another fixed resource is used up */
    FLEX_ERR_DENIED = -20        /* never allowed */
};

/*
 * ---- Flex-Monitor: HVC #0 from normal-world EL1 (owner 6, vendor-specific hypervisor service) ----
 */
/* () -> x1 = FLEX_ABI_VERSION, x2 = DRAM base, x3 = DRAM bytes covered by the frame table. */
#define FLEX_HVC_VERSION FLEX_U64(0xC6000F00)
/*
 * PROTECT(x1 = physical address of a list of flex_range_t, x2 = count 1..FLEX_LIST_MAX): every frame NORMAL -> FLEX, or none.
 * The list lies within one NORMAL or SHARED frame and is copied once. On error x1 = index of the first range refused.
 * RECALL: the same, RELEASED -> NORMAL.
 */
#define FLEX_HVC_PROTECT FLEX_U64(0xC6000F01)
#define FLEX_HVC_RECALL FLEX_U64(0xC6000F02)
/* STAT(x1 = enum flex_monitor_stat) -> x1 = value. */
#define FLEX_HVC_STAT FLEX_U64(0xC6000F03)
/*
 * NPU_GIVE(): NORMAL -> GIVEN (abi/npu.h). The driver has stopped its jobs and touches the device no more. FLEX_ERR_STATE: not NORMAL;
 * FLEX_ERR_ARGUMENT: its windows are off or not well placed; FLEX_ERR_BUSY: it does not end its reset (then it is NORMAL again).
 * NPU_TAKE(): RETURNED or GIVEN -> NORMAL; FLEX_ERR_STATE otherwise. NPU_STATE() -> x1 = enum flex_npu_state.
 */
#define FLEX_HVC_NPU_GIVE FLEX_U64(0xC6000F04)
#define FLEX_HVC_NPU_TAKE FLEX_U64(0xC6000F05)
#define FLEX_HVC_NPU_STATE FLEX_U64(0xC6000F06)
/*
 * NPU_INTERRUPT() -> x1 = 1: the NPU, which is not the normal world's, had raised its interrupt line, and has lowered it now (its
 * interrupt status was read). Then FLEX_LEND_NPU goes with the next LEND. Callable in an interrupt handler; x1 = 0 in NORMAL.
 */
#define FLEX_HVC_NPU_INTERRUPT FLEX_U64(0xC6000F07)

enum flex_monitor_stat {
    FLEX_STAT_FRAMES_BASE = 0, /* + enum flex_frame_state: frames in that state (counted by walking the table) */
    FLEX_STAT_PROTECT_CALLS = 16,
    FLEX_STAT_RECALL_CALLS = 17,
    FLEX_STAT_FRAMES_PROTECTED = 18, /* total ever */
    FLEX_STAT_FRAMES_RECALLED = 19,
    FLEX_STAT_ABORTS_READ = 20,  /* normal-world data reads stopped by stage 2 */
    FLEX_STAT_ABORTS_WRITE = 21,
    FLEX_STAT_ABORTS_FETCH = 22,
    FLEX_STAT_DMA_FAULTS = 23,   /* SMMU event records: accesses by devices that were refused */
    FLEX_STAT_CALLS_DENIED = 24, /* SMCs and HVCs not on the allow-list */
    FLEX_STAT_LISTS_REFUSED = 25,
    FLEX_STAT_LAST_ABORT_IPA = 26,
    FLEX_STAT_REGISTERS_DENIED = 27, /* trapped system-register and GIC register writes refused */
    FLEX_STAT_STAGE2_TABLES = 28,    /* page-table frames in use in the two trees */
    FLEX_STAT_MONITOR_BYTES = 29,    /* DRAM the monitor keeps for itself */
    FLEX_STAT_NPU_SWITCHES = 30,     /* completed, both ways */
    FLEX_STAT_NPU_DENIED = 31        /* accesses to its registers or configuration while it is not the normal world's */
};

/*
 * ---- Trusted OS: SMC, owner 50 (trusted OS), carried by TF-A's opteed ----
 * Fast calls never run S-EL0 code and return within microseconds. Yielding calls lend the core.
 */
/* () -> x1 = FLEX_ABI_VERSION. */
#define FLEX_TOS_VERSION FLEX_U64(0xF2000000)
/*
 * START(x1 = physical address of the shared area, x2 = bytes = FLEX_RPC_AREA_BYTES, x3 = number of cores that will lend):
 * pins the area (NORMAL -> SHARED, every frame or none) and creates the program. FLEX_ERR_STATE when one is running.
 */
#define FLEX_TOS_START FLEX_U64(0xF2000001)
/* STOP(): end the program as by an uncatchable signal. Keep lending until FLEX_LEND_EXITED: all its memory comes back first. */
#define FLEX_TOS_STOP FLEX_U64(0xF2000002)
/* RECLAIM(x1 = bytes): asks the framework to give back that much; frames come as FLEX_RPC_GIVE_BACK when it has. */
#define FLEX_TOS_RECLAIM FLEX_U64(0xF2000003)
/*
 * NPU_RECALL(x1 = ms): the normal world wants the NPU back. The program is told; when it still holds it after x1 ms (at least
 * FLEX_NPU_RECALL_MS_MIN are granted) it is taken from it. FLEX_RPC_NPU_RETURN follows. FLEX_ERR_STATE when it is not held.
 */
#define FLEX_TOS_NPU_RECALL FLEX_U64(0xF2000005)
#define FLEX_NPU_RECALL_MS_MIN 100
/*
 * MOVE(x1 = address of an ADOPTED frame, x2 = address of a FLEX frame): content and place of the first go over to the second, which
 * is ADOPTED then; the first is RELEASED. So that Linux can have one given frame back (compaction, contiguous allocation, offlining).
 * FLEX_ERR_BUSY: it cannot be moved at the moment (being given or taken, known to the NPU while
 * the program has that, code); FLEX_ERR_STATE, FLEX_ERR_ARGUMENT,
 * FLEX_ERR_NO_MEMORY: not moved either; x2 stays FLEX in every case of failure. x2 = 0: nothing is moved, only asked whether it could be.
 */
#define FLEX_TOS_MOVE FLEX_U64(0xF2000006)
/* STAT(x1 = enum flex_tos_stat) -> x1 = value. */
#define FLEX_TOS_STAT FLEX_U64(0xF2000004)
/*
 * LEND(x1 = bit mask of RPC slots completed since this core's last call, x2 = value of the virtual counter at which the normal
 * world's timer of this core expires, all ones when it is off, 0 when unknown): lends this core to the secure world.
 * EL3 switches the timers with the worlds (TF-A: opteed sets NS_TIMER_SWITCH), so the trusted OS sets the timer for x2 itself; when it
 * is unknown it returns after 1 ms. x3 = FLEX_LEND_NPU: the NPU's interrupt has come (FLEX_HVC_NPU_INTERRUPT); it is only a hint to look.
 */
#define FLEX_TOS_LEND FLEX_U64(0x72000001)
#define FLEX_LEND_NPU FLEX_U64(1)

/* Result of LEND. x0 = reason, x1 = mask of RPC slots posted for the driver, x2 = further cores that could do work, x3 below. */
enum flex_lend_reason {
    FLEX_LEND_INTERRUPTED = 0, /* a normal-world interrupt is pending: take it and call again */
    FLEX_LEND_IDLE = 1,        /* nothing to run (after what x1 says has been served, call when that is done); x3 = ns until the next S-EL0 timeout, all ones when there is none */
    FLEX_LEND_WORK = 2,        /* x1 or x2 are new, and there is more to run: serve them and call again */
    FLEX_LEND_EXITED = 3       /* the program has ended and all frames are back; x3 = exit code, or 256 + signal */
};

/* Only for Flex-Monitor at EL2, which refuses them to EL1: */
/* BOOT(x1 = address of the frame table, x2 = DRAM base, x3 = number of frames). Accepted once. */
#define FLEX_TOS_BOOT FLEX_U64(0xF2000010)
/* QUIESCE(): no core executes S-EL0 code from the return of this call on, for ever: a reset or power-off follows. */
#define FLEX_TOS_QUIESCE FLEX_U64(0xF2000011)

enum flex_tos_stat {
    FLEX_TOS_STAT_LENDS = 0,
    FLEX_TOS_STAT_INTERRUPTED = 1,
    FLEX_TOS_STAT_RPCS = 2,
    FLEX_TOS_STAT_RPC_ANSWERS_REFUSED = 3,
    FLEX_TOS_STAT_FRAMES_ADOPTED = 4, /* total ever */
    FLEX_TOS_STAT_FRAMES_RELEASED = 5,
    FLEX_TOS_STAT_ADOPTIONS_REFUSED = 6,
    FLEX_TOS_STAT_POOL_FRAMES = 7, /* adopted but not mapped at the moment */
    FLEX_TOS_STAT_SYSCALLS = 8,
    FLEX_TOS_STAT_PAGE_FAULTS = 9,
    FLEX_TOS_STAT_THREADS = 10,
    FLEX_TOS_STAT_SWITCH_MAX_NS = 11, /* longest time from a foreign interrupt taken in S-EL0 to the return to Linux */
    FLEX_TOS_STAT_PROGRAM_STARTS = 12,
    FLEX_TOS_STAT_SWITCHES = 13,          /* foreign interrupts taken in S-EL0 that returned to Linux */
    FLEX_TOS_STAT_SWITCH_TOTAL_NS = 14,   /* time they took to, in all */
    FLEX_TOS_STAT_SWITCHES_OVER_100US = 15,
    FLEX_TOS_STAT_NPU_HELD = 16,   /* times the program got the NPU */
    FLEX_TOS_STAT_NPU_REVOKED = 17, /* times it was taken from the program because a recall was not honoured */
    FLEX_TOS_STAT_FRAMES_MOVED = 18, /* by MOVE */
    FLEX_TOS_STAT_NPU_WAITS = 19,      /* times a thread waited for the NPU */
    FLEX_TOS_STAT_NPU_INTERRUPTS = 20  /* LENDs that told of its interrupt */
};

#endif
