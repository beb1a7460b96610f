/* Getting frames: for the program (MEM_ALLOC, MEM_LOAD) and for the pool. */
#include "kernel/memory_job.hpp"

#include "arch/mmu.hpp"
#include "core/adoption.hpp"
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/memory_steps.hpp"
#include "kernel/rpc_engine.hpp"

namespace flex::tos {

MemoryJob g_jobs[kJobs];

MemoryJob* new_job(Thread& thread) {
    for (MemoryJob& job : g_jobs) {
        /* The last one is the service thread's, which must never wait for others. */
        if (job.owner != nullptr || (&job == &g_jobs[kJobs - 1] && thread.id != kServiceThread)) continue;
        fill_bytes(&job, 0, offsetof(MemoryJob, list));
        job.owner = &thread;
        job.started = now();
        thread.job = &job;
        return &job;
    }
    return nullptr;
}

void end_job(Thread& thread) {
    thread.job->owner = nullptr;
    thread.job = nullptr;
    wake_all(WaitFor::Job);
}

bool take_ranges(Thread& thread, MemoryJob& job, const RpcAnswer& answer, u64 bytes) {
    job.at = 0;
    job.offset = 0;
    job.count = min<u32>(static_cast<u32>(answer.result), MemoryJob::kRanges);
    copy_bytes(job.list, slot_data(thread.slot), job.count * sizeof(flex_range_t));
    Adoption adoption;
    {
        Unlocked unlocked; /* the list is the thread's own, the table needs no lock */
        adoption = adopt_ranges(g_frames, Span<const flex_range_t>(job.list, job.count), bytes / kPageBytes);
    }
    job.count = adoption.adopted;
    g_statistics.adopted += adoption.frames;
    if (!adoption.good) {
        g_statistics.adoptions_refused++;
        g_statistics.answers_refused++;
    }
    return adoption.good;
}

namespace {

constexpr u64 kRefillBytes = u64{4} << 20;
/* Without frames from the normal world for this long, while threads wait for some, the program is given up.
 */
constexpr u64 kRetryNs = 20'000'000;
constexpr u32 kRetriesMax = 250;

u64 remaining(const MemoryJob& job) { return job.back - job.front; }
u64 next_request(const MemoryJob& job) { return min(remaining(job), MemoryJob::kRequestMax); }

/* All that was got so far goes back; then the call fails. */
Next undo(Thread& thread, i64 error) {
    MemoryJob& job = *thread.job;
    job.result = error;
    job.front = job.begin;
    job.to_pool = false;
    job.keep_area = false;
    return job.count != 0 ? release_step(thread) : collect_step(thread);
}

Next request_step(Thread& thread);

bool place_range(MemoryJob& job, flex_range_t range) {
    const u64 bytes = range_bytes(range);
    /* Blocks from the front, small ranges from the back, so that blocks stay aligned; a file keeps its order.
     */
    const bool at_front = job.load || bytes >= kBlockBytes || bytes == remaining(job);
    const u64 va = at_front ? job.front : job.back - bytes;
    if (!g_program.table.map(va, range_address(range), bytes, leaf::user(kProtectRead | kProtectWrite, true)))
        return false;
    at_front ? job.front += bytes : job.back -= bytes;
    g_program.mapped_frames += bytes / kPageBytes;
    return true;
}

Next map_step(Thread& thread) {
    MemoryJob& job = *thread.job;
    for (u32 i = 0; i < job.count; i++) {
        if (place_range(job, job.list[i])) continue;
        /* What is not mapped stays in the list, to be released. */
        for (u32 k = i; k < job.count; k++) job.list[k - i] = job.list[k];
        job.count -= i;
        job.at = 0;
        job.offset = 0;
        return undo(thread, kEnomem);
    }
    job.count = 0;
    if (remaining(job) != 0) return request_step(thread);
    const u64 address = job.begin;
    (job.load ? g_program.load_ticks : g_program.alloc_ticks) += now() - job.started;
    const Error error = g_areas.set_backing(job.begin, job.end, Backing::Flex);
    if (error != kOk) return undo(thread, error);
    end_job(thread);
    return finish(thread, static_cast<i64>(address));
}

Next zero_step(Thread& thread) {
    thread.step = zero_step;
    if (!thread.job->load && !zero_some(*thread.job)) return Next::Again;
    return map_step(thread);
}

Next answer_step(Thread& thread) {
    MemoryJob& job = *thread.job;
    RpcAnswer answer;
    const u64 bytes = next_request(job);
    bool good = take_answer(thread, answer) && answer.result > 0;
    const Error error = job.load && (good || answer.result != kEnomem) ? kEio : kEnomem;
    if (good) {
        good = take_ranges(thread, job, answer, bytes);
        /* A file's part must come as a whole, since the next one follows it. */
        u64 got = 0;
        for (u32 i = 0; i < job.count; i++) got += range_bytes(job.list[i]);
        if (job.load && got != bytes) good = false;
        job.file_offset += bytes;
    }
    drop_slot(thread);
    if (!good) return undo(thread, error);
    return zero_step(thread);
}

Next request_step(Thread& thread) {
    MemoryJob& job = *thread.job;
    if (!take_slot(thread, true)) return wait_for(thread, WaitFor::Slot, request_step);
    if (job.load)
        return post(thread, {FLEX_RPC_LOAD, 0, {job.file_handle, job.file_offset, next_request(job)}},
                    answer_step);
    return post(thread, {FLEX_RPC_ALLOC, 0, {next_request(job)}}, answer_step);
}

/* A place in the Flex part of the address space, closed to the program until it is filled. */
Next start_getting(Thread& thread, u64 bytes) {
    MemoryJob& job = *thread.job;
    const Result<u64> place = g_areas.place(bytes, kBlockBytes, kFlexBase, kStackTop - kStackBytes);
    Area area;
    area.begin = place.value;
    area.end = place.value + bytes;
    area.protection = kProtectRead | kProtectWrite;
    area.backing = Backing::Dying;
    if (!place.ok() || g_areas.insert(area) != kOk) {
        end_job(thread);
        return finish(thread, kEnomem);
    }
    job.begin = job.front = area.begin;
    job.end = job.back = area.end;
    return request_step(thread);
}

bool someone_waits_for_frames() {
    for (const Thread& thread : g_threads) {
        if (thread.state == ThreadState::Waiting && thread.waits_for == WaitFor::Frames) return true;
    }
    return false;
}

Next refill_failed(Thread& service) {
    u64& retries = service.scratch[0];
    end_job(service);
    if (!someone_waits_for_frames()) {
        g_program.refill_after = deadline_after(kRetryNs);
        return wait_for(service, WaitFor::Service, service_step);
    }
    if (++retries > kRetriesMax) {
        print_both("tos: the program is stopped: the normal world gives no memory\n");
        end_program(256 + kSignalKill);
        return Next::Again;
    }
    return wait_for(service, WaitFor::Service, service_step, deadline_after(kRetryNs));
}

Next refill_zero_step(Thread& service) {
    service.step = refill_zero_step;
    MemoryJob& job = *service.job;
    if (!zero_some(job)) return Next::Again;
    for (; job.count > 0; job.count--) {
        const flex_range_t range = job.list[job.count - 1];
        for (u64 done = 0; done < range_bytes(range); done += kPageBytes) {
            if (g_pool.put(range_address(range) + done)) continue;
            /* Too scattered to keep: this and the rest go back, in single frames. */
            job.count--;
            for (u64 k = done; k < range_bytes(range) && job.count < MemoryJob::kRanges; k += kPageBytes) {
                job.list[job.count++] = FLEX_RANGE(range_address(range) + k, 0);
            }
            job.then = refilled;
            return release_step(service);
        }
    }
    return refilled(service);
}

Next refill_answer_step(Thread& service) {
    MemoryJob& job = *service.job;
    RpcAnswer answer;
    bool good = take_answer(service, answer) && answer.result > 0;
    if (good) good = take_ranges(service, job, answer, kRefillBytes);
    drop_slot(service);
    if (!good) {
        job.then = refill_failed;
        return job.count != 0 ? release_step(service) : refill_failed(service);
    }
    return refill_zero_step(service);
}

} // namespace

Next refilled(Thread& service) {
    service.scratch[0] = 0;
    g_program.alloc_ticks += now() - service.job->started;
    end_job(service);
    wake_all(WaitFor::Frames);
    service.step = service_step;
    return Next::Again;
}

Next refill_pool(Thread& service) {
    if (service.job == nullptr && new_job(service) == nullptr)
        return wait_for(service, WaitFor::Job, service_step);
    if (!take_slot(service, true)) return wait_for(service, WaitFor::Slot, service_step);
    return post(service, {FLEX_RPC_ALLOC, 0, {kRefillBytes}}, refill_answer_step);
}

void want_frames() {
    if (g_pool.frames() < kPoolLow && now() >= g_program.refill_after) kick_service();
}

Next system_mem_alloc(Thread& thread, u64 bytes) {
    if (bytes == 0 || bytes > kStackTop) return finish(thread, kEinval);
    if (bytes > g_frames.frames() * kPageBytes)
        return finish(thread, kEnomem); /* do not drain the normal world for nothing */
    if (new_job(thread) == nullptr) return wait_and_restart(thread, WaitFor::Job);
    return start_getting(thread, align_up(bytes, kPageBytes));
}

Next system_mem_load(Thread& thread, u64 descriptor, u64 offset, u64 bytes) {
    const OpenFile* file = g_files.get(descriptor);
    if (file == nullptr || file->kind != OpenFile::Kind::File) return finish(thread, kEbadf);
    if (bytes == 0 || bytes > kStackTop || offset > kFileBytesMax || !is_aligned(offset, kPageBytes))
        return finish(thread, kEinval);
    if (bytes > g_frames.frames() * kPageBytes) return finish(thread, kEnomem);
    if (new_job(thread) == nullptr) return wait_and_restart(thread, WaitFor::Job);
    thread.job->load = true;
    thread.job->file_handle = file->handle;
    thread.job->file_offset = offset;
    return start_getting(thread, align_up(bytes, kPageBytes));
}

} // namespace flex::tos
