/* Steps of memory work that getting and giving back share. */
#ifndef FLEX_TOS_KERNEL_MEMORY_STEPS_HPP
#define FLEX_TOS_KERNEL_MEMORY_STEPS_HPP

#include "kernel/memory_job.hpp"
#include "kernel/rpc_engine.hpp"

namespace flex::tos {

constexpr u32 kJobs = 6;
extern MemoryJob g_jobs[kJobs];

/* nullptr: all are taken, wait for WaitFor::Job. The last one is kept for the service thread. */
[[nodiscard]] MemoryJob* new_job(Thread& thread);
void end_job(Thread& thread);

/* Copies the ranges of a checked answer (for at most `bytes`) and adopts them. On false the list holds what
 * was adopted so far. */
[[nodiscard]] bool take_ranges(Thread& thread, MemoryJob& job, const RpcAnswer& answer, u64 bytes);
/* Zeroes the ranges of the list from where it stopped. False: an interrupt waits. Lets the lock go meanwhile.
 */
[[nodiscard]] bool zero_some(MemoryJob& job);
/* Zeroes and releases the list, gives it back to the normal world, then goes on with job.then (nullptr:
 * collect_step). */
Next release_step(Thread& thread);
/* Takes the next part of [front, end) from the program; at the end removes the areas and finishes the call.
 */
Next collect_step(Thread& thread);
Next refilled(Thread& service);

} // namespace flex::tos

#endif
