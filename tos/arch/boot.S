/*
 * Entry from EL3. Everything in .text.identity lies in one page that is mapped at its physical address (TTBR0 between calls), since
 * opteed enters the same vector table with the MMU on (calls) and off (a core that was just switched on).
 */
#include "arch/layout.h"

    .section .text.identity, "ax"

    .global _start
_start: /* x0..x3: nothing we need */
    adrp x0, __bss_start
    add x0, x0, :lo12:__bss_start
    adrp x1, __bss_end
    add x1, x1, :lo12:__bss_end
1:  stp xzr, xzr, [x0], #16
    cmp x0, x1
    b.lo 1b
    adrp x0, __stack0_top
    add x0, x0, :lo12:__stack0_top
    mov sp, x0
    mov x29, xzr
    bl boot_build_tables
    /* Written with the cache off: drop what the loader left in it for the same lines. */
    adrp x0, __data_start
    add x0, x0, :lo12:__data_start
    ldr x1, =BOARD_BL32_BASE + BOARD_BL32_BYTES
    dsb sy
2:  dc ivac, x0
    add x0, x0, #16
    cmp x0, x1
    b.lo 2b
    dsb sy
    mov x19, #0
    ldr x20, =start_primary
    b enter_virtual

/* The vector table that opteed keeps (TF-A services/spd/opteed/opteed_private.h, optee_vectors_t): one branch each. */
    .balign 64
    .global opteed_vectors
opteed_vectors:
    b vector_call /* yielding */
    b vector_call /* fast */
    b vector_cpu_on
    b vector_cpu_off
    b vector_cpu_resume
    b vector_cpu_suspend
    b vector_fiq
    b vector_system_off
    b vector_system_reset

    .macro onto_stack_and_to target
    mrs x9, tpidr_el1
    ldr x10, [x9, #CORE_STACK_TOP]
    mov sp, x10
    mov x29, xzr
    ldr x10, =\target
    br x10
    .endm

vector_call:
    onto_stack_and_to entry_call
vector_fiq:
    onto_stack_and_to entry_fiq

/* Nothing to do for these: EL3 keeps the registers of this world, and a core that leaves runs no thread. */
vector_cpu_off:
    ldr x0, =OPTEED_RETURN_OFF_DONE
    b return_zero
vector_cpu_suspend:
    ldr x0, =OPTEED_RETURN_SUSPEND_DONE
    b return_zero
vector_cpu_resume:
    ldr x0, =OPTEED_RETURN_RESUME_DONE
    b return_zero
vector_system_off:
    ldr x0, =OPTEED_RETURN_SYSTEM_OFF_DONE
    b return_zero
vector_system_reset:
    ldr x0, =OPTEED_RETURN_SYSTEM_RESET_DONE
return_zero:
    mov x1, xzr
    smc #0
    b .

vector_cpu_on: /* MMU off, nothing set up */
    mrs x19, mpidr_el1
    and x19, x19, #0xff
    cmp x19, #BOARD_CORES_MAX
    b.lo 1f
    ldr x0, =OPTEED_RETURN_ON_DONE /* a core we have no stack for stays out of the secure world */
    mov x1, #-1
    smc #0
1:  ldr x20, =start_secondary

/* x19: core, x20: where to go in the kernel's half, with the core's number in x0. */
enter_virtual:
    ldr x0, =TOS_MAIR
    msr mair_el1, x0
    ldr x0, =TOS_TCR
    msr tcr_el1, x0
    adrp x0, identity_root
    ldr x0, [x0, :lo12:identity_root]
    msr ttbr0_el1, x0
    adrp x0, kernel_root
    ldr x0, [x0, :lo12:kernel_root]
    msr ttbr1_el1, x0
    isb
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
    ldr x0, =TOS_SCTLR
    msr sctlr_el1, x0
    isb
    ldr x0, =vectors
    msr vbar_el1, x0
    mov x0, #(3 << 20) /* CPACR_EL1.FPEN: the kernel itself uses no FP registers */
    msr cpacr_el1, x0
    msr mdscr_el1, xzr
    msr pan, #1 /* as every exception will set it (SCTLR_EL1.SPAN) */
    ldr x0, =cores
    ldr x1, =core_bytes
    ldr x1, [x1]
    madd x0, x19, x1, x0
    msr tpidr_el1, x0
    msr tpidrro_el0, xzr
    /* struct Core is not filled in yet when the first core comes here: the stacks lie a fixed stride apart. */
    ldr x1, =__stack0_top
    ldr x2, =TOS_STACK_STRIDE
    madd x1, x19, x2, x1
    mov sp, x1
    mov x29, xzr
    mov x0, x19
    isb
    br x20
    .ltorg

    .text
    .global smc_return
/* [[noreturn]] smc_return(function, x1, x2, x3, x4): back to EL3, leaving only the identity page in TTBR0. */
smc_return:
    mrs x9, tpidr_el1
    ldr x9, [x9, #CORE_TTBR0_IDENTITY]
    msr ttbr0_el1, x9
    isb
    smc #0
    b .
