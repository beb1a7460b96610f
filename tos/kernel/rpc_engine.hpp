/* Requests to the normal world and their answers, over the shared area. */
#ifndef FLEX_TOS_KERNEL_RPC_ENGINE_HPP
#define FLEX_TOS_KERNEL_RPC_ENGINE_HPP

#include "core/rpc.hpp"
#include "kernel/program.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

/* Data of a slot, in shared memory: write what is not secret, read each byte once. */
[[nodiscard]] u8* slot_data(u32 slot);

/*
 * One request of a thread: takes a slot (false: none is free, wait for WaitFor::Slot), and posts. Fill
 * slot_data(thread.slot) between. `step` runs when the answer is there.
 */
[[nodiscard]] bool take_slot(Thread& thread, bool for_memory = false);
Next post(Thread& thread, const RpcRequest& request, Step step);
/* The checked answer, copied out of shared memory. False: it broke the rules (counted). The data stays
 * readable until drop_slot. */
[[nodiscard]] bool take_answer(Thread& thread, RpcAnswer& answer);
void drop_slot(Thread& thread);
/* A notice whose answer nobody looks at. kNone: no slot is free, it has not been sent. */
[[nodiscard]] u32 post_and_forget(const RpcRequest& request);

/* Bits of a LEND call. */
void complete_slots(u32 mask);
/* Its thread has ended before or after the answer came. An answer that hands over frames is left to the
 * service thread. */
void abandon_slot(u32 slot, bool answered);
/* Slots of requests for frames whose thread has ended: out, or answered. */
extern u32 g_orphans_out, g_orphans_done;

/*
 * Sends text to the device's log without waiting: it is kept until the request before has been answered, so
 * that lines arrive in order and the log never takes more than one slot. What does not fit is dropped from
 * the log (the UART has it).
 */
void post_log(const char* text, u64 bytes);
void clear_log();

} // namespace flex::tos

#endif
