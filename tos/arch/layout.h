/* Addresses and offsets that C++, assembly and the linker script share. Plain numbers. */
#ifndef FLEX_TOS_ARCH_LAYOUT_H
#define FLEX_TOS_ARCH_LAYOUT_H

#include "board.h"

/* The kernel's half of the address space (TTBR1, 39 bits): physical addresses below 1 GiB appear at this
 * offset. */
#define TOS_VIRTUAL_OFFSET 0xffffff8000000000
/* Its second GiB holds what comes and goes. */
#define TOS_DYNAMIC_BASE 0xffffff8040000000
#define TOS_WINDOW_BASE TOS_DYNAMIC_BASE /* per core: 16 MiB for blocks, 2 MiB for pages */
#define TOS_WINDOW_BLOCKS 8
#define TOS_WINDOW_BYTES_PER_CORE 0x1200000
#define TOS_SHARED_BASE 0xffffff8046000000 /* the RPC area */
#define TOS_FRAME_TABLE_BASE 0xffffff8048000000 /* and the page of the NPU behind it */
#define TOS_NPU_BASE 0xffffff8050000000 /* its registers, while the program holds it */

#define TOS_STACK_BYTES 0x4000
#define TOS_GUARD_BYTES 0x1000
/* Per core: guard, stack, guard, panic stack. */
#define TOS_STACK_STRIDE (2 * TOS_GUARD_BYTES + 2 * TOS_STACK_BYTES)

/* struct Core, checked by static_assert in kernel/core.hpp */
#define CORE_THREAD 0
#define CORE_KERNEL_SP 8
#define CORE_STACK_TOP 16
#define CORE_PANIC_STACK_TOP 24
#define CORE_SCRATCH 32
#define CORE_TTBR0_IDENTITY 48

/* struct Registers (at the start of struct Thread) */
#define REGISTERS_X 0
#define REGISTERS_SP 248
#define REGISTERS_PC 256
#define REGISTERS_PSTATE 264
#define REGISTERS_TLS 272
#define REGISTERS_ESR 280
#define REGISTERS_FAR 288
#define REGISTERS_BYTES 304

/* TF-A services/spd/opteed/teesmc_opteed.h: how BL32 returns to EL3 (SMC32, fast, owner 62). */
#define OPTEED_RETURN_ENTRY_DONE 0xbe000000
#define OPTEED_RETURN_ON_DONE 0xbe000001
#define OPTEED_RETURN_OFF_DONE 0xbe000002
#define OPTEED_RETURN_SUSPEND_DONE 0xbe000003
#define OPTEED_RETURN_RESUME_DONE 0xbe000004
#define OPTEED_RETURN_CALL_DONE 0xbe000005
#define OPTEED_RETURN_FIQ_DONE 0xbe000006
#define OPTEED_RETURN_SYSTEM_OFF_DONE 0xbe000007
#define OPTEED_RETURN_SYSTEM_RESET_DONE 0xbe000008

/*
 * MAIR_EL1: 0 Device-nGnRnE, 1 Normal write-back, 2 Device-nGnRE (Arm ARM D17.2.97).
 * TCR_EL1: 39 bits and 4 KiB granule in both halves, walks write-back inner-shareable, ASID from TTBR0,
 * 40-bit physical addresses. SCTLR_EL1: M C I, SA SA0, WXN (writable means not executable), nTWE nTWI, UCT
 * DZE UCI (as Linux gives its programs), SPAN = 0 (PAN is set on every exception), EOS EIS, LSMAOE nTLSMD.
 */
#define TOS_MAIR 0x04ff00
#define TOS_TCR                                                                                              \
    (25 | (25 << 16) | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 24) | (1 << 26) | (3 << 28) | (2 << 30) |    \
     (2 << 32))
#define TOS_SCTLR 0x345dd81d

#endif
