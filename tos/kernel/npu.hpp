/*
 * The NPU in the secure world (abi/npu.h, abi/syscall.h). The kernel decides who may touch it and resets it;
 * what it computes is the program's affair.
 *
 * Invariant: the program's registers of it are mapped only while the control page says HELD, and RETURNED is
 * said only after the device was told to forget its queues. So a job never outlives the hold in which it was
 * given, and frames that are released afterwards are out of its reach.
 */
#ifndef FLEX_TOS_KERNEL_NPU_HPP
#define FLEX_TOS_KERNEL_NPU_HPP

#include "abi/npu.h"
#include "kernel/thread.hpp"

namespace flex::tos {

/* Once, at FLEX_TOS_BOOT: where the control page is mapped. */
void npu_boot(flex_npu_control* control);

/* FLEX_TOS_NPU_RECALL. False: it is not held. */
[[nodiscard]] bool npu_recall(u64 ms);

/* A core that is lent brings word of its interrupt. Only a hint: the program looks at the device itself. */
void npu_rang();

/* Takes it from the program when a recall is overdue, and tells the normal world what it could not be told
 * before. Returns the ticks at which to look again, kNever when there is nothing to look for. */
[[nodiscard]] u64 npu_look(u64 now);

/*
 * The program ends: the NPU is taken from it. Afterwards false as long as the device may still write to the
 * program's memory, which only happens when it does not end its reset: then the monitor's hold on its stream,
 * at the next NPU_TAKE, is waited for.
 */
[[nodiscard]] bool npu_leave();

/* The device may reach addresses that the program was told: these frames stay where they are. */
[[nodiscard]] bool npu_may_reach();

Next system_npu_acquire(Thread& thread, u64 ms, u64 grant);
Next system_npu_release(Thread& thread);
Next system_npu_wait(Thread& thread, u64 ns, u64 what);

} // namespace flex::tos

#endif
