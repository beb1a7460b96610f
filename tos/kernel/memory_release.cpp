/* Giving frames back: unmapped everywhere, zeroed, released, and only then offered to the normal world. */
#include "arch/mmu.hpp"
#include "core/adoption.hpp"
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/exception.hpp"
#include "kernel/memory_steps.hpp"
#include "kernel/npu.hpp"

namespace flex::tos {

namespace {

constexpr u64 kZeroStepBytes = 32768; /* some 10 us */
constexpr u32 kCollectLeaves = 512; /* taken under one lock */
/* As much is collected before it is given back: each time costs a way to the normal world and back. */
constexpr u64 kGiveBackBytes = u64{64} << 20;
constexpr u32 kBlockOrder = 9;
constexpr u64 kNpuLookNs = 10'000'000;

/* Zeroes memory behind a window until it is done or an interrupt waits; returns how far it came. */
u64 zero_window(u8* window, u64 bytes) {
    u64 done = 0;
    while (done < bytes) {
        const u64 part = min(kZeroStepBytes, bytes - done);
        zero_memory(window + done, part);
        done += part;
        if (interrupt_pending()) break;
    }
    barrier_data(); /* done before anyone is told */
    return done;
}

void advance(MemoryJob& job, u64 bytes) {
    while (bytes > 0) {
        const u64 part = min(bytes, range_bytes(job.list[job.at]) - job.offset);
        job.offset += part;
        bytes -= part;
        if (job.offset < range_bytes(job.list[job.at])) continue;
        job.at++;
        job.offset = 0;
    }
}

/* What lies behind the job's position, in pieces of `bytes_each`, as long as the ranges are alike: blocks, or smaller. */
u32 next_pieces(const MemoryJob& job, Span<u64> pieces, u64 bytes_each) {
    const auto is_block = [&](u32 i) { return range_order(job.list[i]) >= kBlockOrder; };
    const bool blocks = is_block(job.at);
    u32 count = 0;
    u64 offset = align_down(job.offset, bytes_each);
    for (u32 i = job.at; i < job.count && is_block(i) == blocks; i++, offset = 0) {
        for (; offset < range_bytes(job.list[i]); offset += bytes_each) {
            if (count == pieces.size) return count;
            pieces[count++] = range_address(job.list[i]) + offset;
        }
    }
    return count;
}

} // namespace

bool zero_some(MemoryJob& job) {
    const u32 core = this_core().index;
    while (job.at < job.count) {
        u64 pieces[kWindowPages];
        const bool blocks = range_order(job.list[job.at]) >= kBlockOrder;
        const u64 each = blocks ? kBlockBytes : kPageBytes;
        const u32 count = next_pieces(job, {pieces, blocks ? kWindowBlocks : kWindowPages}, each);
        const u64 skip = job.offset % each, bytes = count * each - skip;
        u8* window = blocks ? open_block_window(core, {pieces, count}) : open_page_window(core, {pieces, count});
        if (window == nullptr) panic("no table for a window");
        u64 done;
        {
            Unlocked unlocked;
            done = zero_window(window + skip, bytes);
        }
        close_window(core);
        advance(job, done);
        if (done < bytes) return false;
    }
    return true;
}

namespace {

Next given_step(Thread& thread) {
    RpcAnswer answer;
    (void)take_answer(thread, answer); /* whatever it says: the frames are the normal world's now */
    drop_slot(thread);
    MemoryJob& job = *thread.job;
    return job.then != nullptr ? job.then(thread) : collect_step(thread);
}

Next give_back_step(Thread& thread) {
    MemoryJob& job = *thread.job;
    if (!take_slot(thread, true)) return wait_for(thread, WaitFor::Slot, give_back_step);
    const u32 bytes = job.count * static_cast<u32>(sizeof(flex_range_t));
    copy_bytes(slot_data(thread.slot), job.list, bytes);
    const u64 ranges = job.count;
    job.count = 0;
    return post(thread, {FLEX_RPC_GIVE_BACK, bytes, {ranges}}, given_step);
}

void release_all(MemoryJob& job) {
    for (u32 i = 0; i < job.count; i++) {
        FrameRange range;
        if (!g_frames.parse(job.list[i], range) || !g_frames.release(range)) {
            /* Only a defence-removed build has frames it never adopted. */
            print("tos: frames at %lx were not adopted\n", range_address(job.list[i]));
            continue;
        }
        g_statistics.released += range.count;
    }
}

/* Frames that demand paging may use again. What the pool has no room for stays in the list. */
void put_into_pool(MemoryJob& job) {
    u32 left = 0;
    for (u32 i = 0; i < job.count; i++) {
        if (range_order(job.list[i]) != 0 || !g_pool.put(range_address(job.list[i])))
            job.list[left++] = job.list[i];
    }
    job.count = left;
    if (g_pool.frames() > kPoolHigh) kick_service();
}

/* The list has no room for another step, or is worth a way to the normal world. */
bool enough_collected(const MemoryJob& job) {
    if (job.count + kCollectLeaves > MemoryJob::kRanges) return true;
    u64 bytes = 0;
    for (u32 i = 0; i < job.count; i++) bytes += range_bytes(job.list[i]);
    return bytes >= kGiveBackBytes;
}

} // namespace

Next release_step(Thread& thread) {
    MemoryJob& job = *thread.job;
    thread.step = release_step;
#ifdef FLEX_WITHOUT_ZERO_ON_RELEASE
    /* What stays with the program is zeroed in that build, too: it counts on it. */
    if (job.to_pool && !zero_some(job)) return Next::Again;
#else
    if (!zero_some(job)) return Next::Again;
#endif
    if (job.to_pool) {
        put_into_pool(job);
        if (job.count == 0) return collect_step(thread);
    }
    release_all(job);
    return give_back_step(thread);
}

Next collect_step(Thread& thread) {
    MemoryJob& job = *thread.job;
    thread.step = collect_step;
    job.at = 0; /* nothing of the list is zero yet */
    job.offset = 0;
    const u64 from = job.front;
    bool stuck = false;
    u32 taken = 0;
    while (taken < kCollectLeaves) {
        const PageTable::Leaf leaf = g_program.table.take(job.front, job.end, stuck);
        if (leaf.bytes == 0) break;
        taken++;
        job.front = leaf.va + leaf.bytes;
        if ((leaf.attributes & leaf::kNonSecure) == 0) continue; /* a page of the image itself */
        g_program.mapped_frames -= leaf.bytes / kPageBytes;
        const u32 order = leaf.bytes == kBlockBytes ? kBlockOrder : 0;
        /* The store takes single frames; the normal world gets back as large ranges as there are. */
        if (job.to_pool) job.list[job.count++] = FLEX_RANGE(leaf.physical, order);
        else append_range(Span<flex_range_t>(job.list), job.count, leaf.physical, order);
    }
    if (taken != 0) {
        tlb::invalidate(from, job.front - from);
        g_program.table.prune(from, job.front);
        if (job.count == 0 || (!job.to_pool && !enough_collected(job))) return Next::Again;
    }
    if (job.count != 0) return release_step(thread);
    /* Nothing is left; or a block could not be split, which happens only when no table is left: then it
     * stays. */
    if (job.finally != nullptr) return job.finally(thread);
    if (stuck) job.result = kEnomem;
    const i64 result = job.result;
    const bool removed = job.keep_area || stuck || g_areas.remove(job.begin, job.end) == kOk;
    end_job(thread);
    return finish(thread, removed ? result : i64{kEnomem});
}

namespace {

Next start_giving(Thread& thread, u64 begin, u64 end, bool to_pool, bool keep_area, i64 result) {
    if (new_job(thread) == nullptr) return wait_and_restart(thread, WaitFor::Job);
    MemoryJob& job = *thread.job;
    job.begin = job.front = begin;
    job.end = job.back = end;
    job.to_pool = to_pool;
    job.keep_area = keep_area;
    job.result = result;
    return collect_step(thread);
}

} // namespace

Next system_mem_free(Thread& thread, u64 address, u64 bytes) {
    u64 end = 0;
    if (!user_pages(address, bytes, end) || !g_areas.covered(address, end)) return finish(thread, kEinval);
    for (const Backing other :
         {Backing::Zero, Backing::ImageCopy, Backing::ImageInPlace, Backing::Registers, Backing::Dying}) {
        if (g_areas.any(address, end, other)) return finish(thread, kEinval);
    }
    if (const Error error = g_areas.set_backing(address, end, Backing::Dying); error != kOk)
        return finish(thread, error);
    return start_giving(thread, address, end, false, false, 0);
}

Next unmap_pages(Thread& thread, u64 begin, u64 end, bool keep_area, i64 result) {
    if (!keep_area) {
        if (const Error error = g_areas.set_backing(begin, end, Backing::Dying); error != kOk)
            return finish(thread, error);
    }
    return start_giving(thread, begin, end, true, keep_area, result);
}

namespace {

Next job_done(Thread& service) {
    end_job(service);
    service.step = service_step;
    return Next::Again;
}

/* Frames of the pool are zero already. */
Next release_from_pool(Thread& service, u64 frames) {
    MemoryJob& job = *service.job;
    job.count = g_pool.drain(Span<flex_range_t>(job.list), frames);
    job.at = job.count;
    job.then = job_done;
    return release_step(service);
}

/* A job whose thread has ended while it owned frames. */
MemoryJob* orphaned_job(const Thread& service) {
    for (MemoryJob& job : g_jobs) {
        if (job.owner == nullptr || job.owner == &service) continue;
        if (job.count != 0) return &job;
        job.owner = nullptr;
    }
    return nullptr;
}

Next release_late_answer(Thread& service) {
    service.slot = static_cast<u32>(__builtin_ctz(g_orphans_done));
    g_orphans_done &= g_orphans_done - 1;
    const RpcRequest& request = g_slots.request(service.slot);
    RpcAnswer answer;
    if (take_answer(service, answer) && answer.result > 0) {
        (void)take_ranges(service, *service.job, answer,
                          request.op == FLEX_RPC_LOAD ? request.arg[2] : request.arg[0]);
    }
    drop_slot(service);
    service.job->then = job_done;
    return service.job->count != 0 ? release_step(service) : job_done(service);
}

Next pool_and_end(Thread& service) {
    if (g_pool.frames() != 0) return release_from_pool(service, g_pool.frames());
    end_job(service);
    finish_program();
    return wait_for(service, WaitFor::Service, service_step);
}

} // namespace

Next trim_pool(Thread& service) {
    if (service.job == nullptr && new_job(service) == nullptr)
        return wait_for(service, WaitFor::Job, service_step);
    return release_from_pool(service, g_pool.frames() - (g_program.trim ? kPoolLow * 2 : kPoolTrimmed));
}

Next tear_down(Thread& service) {
    if (service.job != nullptr) end_job(service);
    /* Before the first frame is released. */
    if (!npu_leave()) return wait_for(service, WaitFor::Service, service_step, deadline_after(kNpuLookNs));
    if (MemoryJob* job = orphaned_job(service); job != nullptr) {
        job->owner = &service;
        job->to_pool = false;
        job->then = job_done;
        service.job = job;
        return release_step(service);
    }
    if (new_job(service) == nullptr) panic("no job to take the program apart");
    if (g_orphans_done != 0) return release_late_answer(service);
    if (g_orphans_out != 0) {
        end_job(service);
        return wait_for(service, WaitFor::Service, service_step);
    }
    MemoryJob& job = *service.job;
    job.begin = job.front = kUserLow;
    job.end = job.back = kUserHigh;
    job.finally = pool_and_end;
    return collect_step(service);
}

} // namespace flex::tos
