/*
 * Stacks of the cores: [guard | stack | guard | panic stack], the guards unmapped. Included by assembly too.
 */
#ifndef FLEX_MONITOR_STACKS_HPP
#define FLEX_MONITOR_STACKS_HPP

#define STACKS_CORES 8
#define STACK_GUARD_BYTES 0x1000
#define STACK_BYTES 0x4000
#define PANIC_STACK_BYTES 0x2000
#define STACK_SLOT_BYTES (2 * STACK_GUARD_BYTES + STACK_BYTES + PANIC_STACK_BYTES)
#define STACK_TOP_OFFSET (STACK_GUARD_BYTES + STACK_BYTES)

/* Saved registers of an exception: x0..x30, SP, ELR, SPSR, ESR, FAR (struct Frame). */
#define FRAME_BYTES 288
#define FRAME_SP 248
#define FRAME_ELR 256
#define FRAME_ESR 272

#endif
