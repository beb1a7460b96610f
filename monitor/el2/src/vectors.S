// Exceptions taken to EL2. From a lower exception level: handle and return. From EL2 itself: the monitor is broken, panic.
#include "stacks.hpp"

    .macro save_general
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    .endm

    .macro save_exception
    mrs     x1, elr_el2
    mrs     x2, spsr_el2
    mrs     x3, esr_el2
    mrs     x4, far_el2
    stp     x1, x2, [sp, #FRAME_ELR]
    stp     x3, x4, [sp, #FRAME_ESR]
    .endm

    .macro entry target
    .balign 128
    b       \target
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .globl  monitor_vectors
monitor_vectors:
    .rept   8 // current EL, SP_EL0 and SP_EL2
    entry   own_exception
    .endr
    entry   lower_exception // synchronous, AArch64
    entry   lower_unexpected
    entry   lower_unexpected
    entry   lower_unexpected
    entry   lower_exception // synchronous, AArch32
    entry   lower_unexpected
    entry   lower_unexpected
    entry   lower_unexpected
    .balign 128

lower_exception:
    sub     sp, sp, #FRAME_BYTES
    save_general
    save_exception
    mrs     x0, sp_el0
    str     x0, [sp, #FRAME_SP]
    mov     x0, sp
    mov     x29, xzr
    bl      handle_lower_exception
    ldp     x1, x2, [sp, #FRAME_ELR]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp, #0]
    add     sp, sp, #FRAME_BYTES
    eret
    dsb     nsh // no speculation past ERET
    isb

lower_unexpected:
own_exception:
    // The stack may be the reason: go to the panic stack. Nothing returns from here, so the normal world's thread registers may go.
    msr     SPSel, #1
    msr     tpidr_el0, x0
    msr     tpidrro_el0, x1
    mov     x1, sp
    mrs     x0, tpidr_el2
    sub     x0, x0, #FRAME_BYTES
    mov     sp, x0
    str     x1, [sp, #FRAME_SP]
    mrs     x0, tpidr_el0
    mrs     x1, tpidrro_el0
    save_general
    save_exception
    mov     x0, sp
    bl      panic_on_exception
    b       .
