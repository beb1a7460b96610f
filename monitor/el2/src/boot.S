// Entry of the first core (from BL31) and of every further core (from PSCI CPU_ON), both at EL2 with the MMU off.
#include "stacks.hpp"

    .macro load_address register, symbol
    adrp    \register, \symbol
    add     \register, \register, :lo12:\symbol
    .endm

    // sp = top of the stack of core \index (a register; clobbers x9, x10). TPIDR_EL2 = top of its panic stack.
    .macro set_stacks index
    load_address x9, monitor_stacks
    mov     x10, #STACK_SLOT_BYTES
    madd    x9, \index, x10, x9
    mov     x10, #STACK_TOP_OFFSET
    add     x10, x9, x10
    mov     sp, x10
    mov     x10, #STACK_SLOT_BYTES
    add     x9, x9, x10
    msr     tpidr_el2, x9
    .endm

    .section .text.entry, "ax"
    .globl  monitor_entry
monitor_entry:
    msr     DAIFSet, #15
    msr     SPSel, #1
    load_address x0, monitor_vectors
    msr     vbar_el2, x0
    isb
    // What TF-A's loader left dirty in the caches must not later overwrite what is written here with the MMU off.
    load_address x0, monitor_text_begin
    load_address x1, monitor_bss_end
0:  dc      civac, x0
    add     x0, x0, #64
    cmp     x0, x1
    b.lo    0b
    dsb     sy
    load_address x0, monitor_bss_begin
    load_address x1, monitor_data_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b
    set_stacks xzr
    mov     x29, xzr
    mov     x30, xzr
    bl      monitor_main
    b       .

    .globl  secondary_entry
secondary_entry: // x0 = index of the core
    msr     DAIFSet, #15
    msr     SPSel, #1
    mov     x19, x0
    load_address x0, monitor_vectors
    msr     vbar_el2, x0
    isb
    set_stacks x19
    bl      enable_own_stage1
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    bl      secondary_main
    b       .

    .text
// Turns the monitor's own stage 1 and the caches on with the values in own_stage1 (MAIR, TCR, TTBR0, SCTLR).
    .globl  enable_own_stage1
enable_own_stage1:
    load_address x9, own_stage1
    ldp     x10, x11, [x9]
    ldp     x12, x13, [x9, #16]
    msr     mair_el2, x10
    msr     tcr_el2, x11
    msr     ttbr0_el2, x12
    isb
    tlbi    alle2
    dsb     nsh
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el2, x13
    isb
    ret

// Leaves to EL1 for the first time: x0 = entry point, x1 = its x0. Everything else is zero.
    .globl  enter_el1
enter_el1:
    msr     elr_el2, x0
    mov     x2, #0x3c5 // EL1h, DAIF masked
    msr     spsr_el2, x2
    mov     x0, x1
    .irp    r, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    mov     x\r, xzr
    .endr
    mrs     x1, tpidr_el2 // the next exception finds the whole stack empty
    sub     x1, x1, #(PANIC_STACK_BYTES + STACK_GUARD_BYTES)
    mov     sp, x1
    mov     x1, xzr
    eret
    dsb     nsh
    isb

// u64 regs[8] in x0: SMC with x0..x7 = regs[0..7]; x0..x3 of the answer go to regs[0..3]. x4..x17 do not survive (DEN0028).
    .globl  secure_monitor_call
secure_monitor_call:
    stp     x29, x30, [sp, #-32]!
    mov     x29, sp
    str     x0, [sp, #16]
    mov     x9, x0
    ldp     x0, x1, [x9]
    ldp     x2, x3, [x9, #16]
    ldp     x4, x5, [x9, #32]
    ldp     x6, x7, [x9, #48]
    smc     #0
    ldr     x9, [sp, #16]
    stp     x0, x1, [x9]
    stp     x2, x3, [x9, #16]
    ldp     x29, x30, [sp], #32
    ret

    .section .stacks, "aw", @nobits
    .balign 4096
    .globl  monitor_stacks
monitor_stacks:
    .space  STACKS_CORES * STACK_SLOT_BYTES
