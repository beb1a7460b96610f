/*
 * Exceptions. From S-EL0 the registers go into the thread that runs, and control returns from enter_user() with the kind of
 * exception. In the kernel itself only a fault of a user-copy instruction is expected; everything else is a panic.
 */
#include "arch/layout.h"

    .macro entry label
    .balign 0x80
    b \label
    .endm

    .text
    .balign 0x800
    .global vectors
vectors:
    entry kernel_exception /* current EL, SP_EL0: never used */
    entry kernel_exception
    entry kernel_exception
    entry kernel_exception
    entry kernel_exception /* current EL, SP_EL1 */
    entry kernel_exception
    entry kernel_exception
    entry kernel_exception
    .balign 0x80           /* lower EL, AArch64: synchronous, IRQ, FIQ, SError */
    stp x0, x1, [sp, #-16]!
    mov x0, #0
    b leave_user
    .balign 0x80
    stp x0, x1, [sp, #-16]!
    mov x0, #1
    b leave_user
    .balign 0x80
    stp x0, x1, [sp, #-16]!
    mov x0, #2
    b leave_user
    .balign 0x80
    stp x0, x1, [sp, #-16]!
    mov x0, #3
    b leave_user
    entry kernel_exception /* lower EL, AArch32: SPSR never says so */
    entry kernel_exception
    entry kernel_exception
    entry kernel_exception

    .macro each_pair operation, base
    \operation x2, x3, [\base, #16]
    \operation x4, x5, [\base, #32]
    \operation x6, x7, [\base, #48]
    \operation x8, x9, [\base, #64]
    \operation x10, x11, [\base, #80]
    \operation x12, x13, [\base, #96]
    \operation x14, x15, [\base, #112]
    \operation x16, x17, [\base, #128]
    \operation x18, x19, [\base, #144]
    \operation x20, x21, [\base, #160]
    \operation x22, x23, [\base, #176]
    \operation x24, x25, [\base, #192]
    \operation x26, x27, [\base, #208]
    \operation x28, x29, [\base, #224]
    .endm

/* x0: kind; the thread's x0 and x1 are on the kernel's stack, which is as enter_user left it. */
leave_user:
    mrs x1, tpidr_el1
    ldr x1, [x1, #CORE_THREAD]
    each_pair stp, x1
    str x30, [x1, #240]
    ldp x2, x3, [sp], #16
    stp x2, x3, [x1]
    mrs x2, sp_el0
    mrs x3, elr_el1
    mrs x4, spsr_el1
    mrs x5, tpidr_el0
    mrs x6, esr_el1
    mrs x7, far_el1
    stp x2, x3, [x1, #REGISTERS_SP]
    stp x4, x5, [x1, #REGISTERS_PSTATE]
    stp x6, x7, [x1, #REGISTERS_ESR]
    ldp x19, x20, [sp], #16
    ldp x21, x22, [sp], #16
    ldp x23, x24, [sp], #16
    ldp x25, x26, [sp], #16
    ldp x27, x28, [sp], #16
    ldp x29, x30, [sp], #16
    ret

/* int enter_user(Registers*): runs the thread whose registers these are until its next exception; returns the kind. */
    .global enter_user
enter_user:
    stp x29, x30, [sp, #-16]!
    stp x27, x28, [sp, #-16]!
    stp x25, x26, [sp, #-16]!
    stp x23, x24, [sp, #-16]!
    stp x21, x22, [sp, #-16]!
    stp x19, x20, [sp, #-16]!
    ldp x2, x3, [x0, #REGISTERS_SP]
    ldp x4, x5, [x0, #REGISTERS_PSTATE]
    msr sp_el0, x2
    msr elr_el1, x3
    msr spsr_el1, x4
    msr tpidr_el0, x5
    each_pair ldp, x0
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret

/*
 * An exception in the kernel. It may be a stack overflow, so the panic stack is used at once. TPIDRRO_EL0 is free for one
 * register; S-EL0 does not run on this core meanwhile, and it is cleared again.
 */
kernel_exception:
    msr tpidrro_el0, x0
    mrs x0, tpidr_el1
    stp x1, x2, [x0, #CORE_SCRATCH]
    mov x1, sp
    ldr x2, [x0, #CORE_PANIC_STACK_TOP]
    sub x2, x2, #REGISTERS_BYTES
    mov sp, x2
    str x1, [sp, #REGISTERS_SP]
    ldp x1, x2, [x0, #CORE_SCRATCH]
    mrs x0, tpidrro_el0
    msr tpidrro_el0, xzr
    stp x0, x1, [sp]
    each_pair stp, sp
    str x30, [sp, #240]
    mrs x1, elr_el1
    mrs x2, spsr_el1
    mrs x3, esr_el1
    mrs x4, far_el1
    str x1, [sp, #REGISTERS_PC]
    str x2, [sp, #REGISTERS_PSTATE]
    stp x3, x4, [sp, #REGISTERS_ESR]
    mov x0, sp
    bl handle_kernel_exception /* changes only the PC, or does not return */
    ldr x1, [sp, #REGISTERS_PC]
    msr elr_el1, x1
    ldr x2, [sp, #REGISTERS_PSTATE]
    msr spsr_el1, x2
    each_pair ldp, sp
    ldr x30, [sp, #240]
    ldr x0, [sp, #REGISTERS_SP]
    msr tpidrro_el0, x0
    ldp x0, x1, [sp]
    /* SP last; x16 is free across a call of the copy routine (AAPCS64, IP0). */
    mrs x16, tpidrro_el0
    mov sp, x16
    msr tpidrro_el0, xzr
    eret
