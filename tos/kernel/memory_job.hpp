/*
 * Memory work that takes long: done by a thread in steps of some ten microseconds, so that an interrupt of
 * the normal world never waits for it. A job owns the ranges in its list: adopted, mapped nowhere. A step
 * leaves the job so that the service thread can take it over at any time.
 */
#ifndef FLEX_TOS_KERNEL_MEMORY_JOB_HPP
#define FLEX_TOS_KERNEL_MEMORY_JOB_HPP

#include "abi/frame.h"
#include "kernel/program.hpp"

namespace flex::tos {

struct MemoryJob {
    static constexpr u32 kRanges = 4096; /* what 16 MiB in single frames need */
    static constexpr u64 kRequestMax = u64{16} << 20;

    Thread* owner;   /* nullptr: the job is free */
    bool load;       /* FLEX_RPC_LOAD: content is kept, and the order */
    bool to_pool;    /* what is taken from the program stays ours, for demand paging */
    bool keep_area;  /* MADV_DONTNEED */
    u32 count;       /* ranges owned */
    u32 at;          /* next range to zero; all before it are zero */
    u64 offset;      /* within it */
    u64 begin, end;  /* area of the program */
    u64 front, back; /* getting: still to be filled; giving: next address to take apart */
    u64 file_handle, file_offset;
    i64 result;
    u64 started;  /* ticks */
    Step then;    /* after the list has been given back; nullptr: the next part of the area is collected */
    Step finally; /* after the whole area has been collected; nullptr: the call ends */
    flex_range_t list[kRanges];
};

Next system_mem_alloc(Thread& thread, u64 bytes);
Next system_mem_load(Thread& thread, u64 descriptor, u64 offset, u64 bytes);
Next system_mem_free(Thread& thread, u64 address, u64 bytes);
/* Takes [begin, end) apart; frames go to the pool. keep_area: the areas stay (MADV_DONTNEED). Ends the call
 * with `result`. */
Next unmap_pages(Thread& thread, u64 begin, u64 end, bool keep_area, i64 result);

/* For the service thread. */
Next refill_pool(Thread& service);
Next trim_pool(Thread& service);
/* Releases every frame of the ended program: jobs that were under way, late answers, its address space, the
 * pool. */
Next tear_down(Thread& service);
/* The pool has become low: have it filled, unless the normal world has just refused. */
void want_frames();

constexpr u64 kPoolLow = 192, kPoolHigh = 2048, kPoolTrimmed = 1024; /* frames */

} // namespace flex::tos

#endif
