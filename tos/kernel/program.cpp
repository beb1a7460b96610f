#include "kernel/program.hpp"

#include "abi/calls.h"
#include "arch/mmu.hpp"
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/exec.hpp"
#include "kernel/memory_job.hpp"
#include "kernel/rpc_engine.hpp"

extern "C" {
extern const flex::tos::u8 flex_program_begin[], flex_program_end[];
}

namespace flex::tos {

Program g_program;
Areas g_areas;
FramePool g_pool;
Files g_files;
FutexQueue<kThreads> g_futexes;
TrustedOsFrameTable<> g_frames;

Bytes program_image() {
    return {flex_program_begin, static_cast<u64>(flex_program_end - flex_program_begin)};
}

namespace {

bool pin_shared_area(u64 shared) {
    FrameRange range;
    if (!is_aligned(shared, kPageBytes) || !g_frames.covering(shared, FLEX_RPC_AREA_BYTES, range))
        return false;
#ifdef FLEX_WITHOUT_SHARED_CHECK
    /* The defence-removed build: whatever lies there is used as a buffer. */
    return true;
#else
    return g_frames.pin_shared(range);
#endif
}

void unpin_shared_area(u64 shared) {
    FrameRange range;
    if (g_frames.covering(shared, FLEX_RPC_AREA_BYTES, range)) (void)g_frames.unpin_shared(range);
}

bool add_image_area(const ElfProgram::Segment& segment) {
    Area area;
    area.begin = align_down(segment.begin, kPageBytes);
    area.protection = segment.protection;
    area.image_offset = segment.file_offset - (segment.begin - area.begin);
    area.image_end = segment.file_end;
    const bool writable = (segment.protection & kProtectWrite) != 0;
    area.backing = writable ? Backing::ImageCopy : Backing::ImageInPlace;
    area.end = align_up(segment.file_end, kPageBytes);
    if (area.end > area.begin && g_areas.insert(area) != kOk) return false;
    Area rest;
    rest.begin = max(area.begin, area.end);
    rest.end = align_up(segment.memory_end, kPageBytes);
    rest.protection = segment.protection;
    return rest.end <= rest.begin || g_areas.insert(rest) == kOk;
}

bool build_areas(const ElfProgram& elf) {
    g_areas.clear();
    for (u32 i = 0; i < elf.segment_count; i++) {
        if (!add_image_area(elf.segments[i])) return false;
    }
    Area stack;
    stack.begin = kStackTop - kStackBytes;
    stack.end = kStackTop;
    stack.protection = kProtectRead | kProtectWrite;
    return g_areas.insert(stack) == kOk;
}

void clear_thread(Thread& thread, u32 id) {
    fill_bytes(&thread, 0, sizeof thread);
    thread.id = id;
    thread.core = -1;
    thread.deadline = kNever;
    thread.slot = RpcSlots::kNone;
}

} // namespace

i64 start_program(u64 shared, u64 bytes, u64 lent) {
    if (bytes != FLEX_RPC_AREA_BYTES || lent == 0 || lent > kCores) return FLEX_ERR_ARGUMENT;
    if (g_frames.frames() == 0 || g_quiesced) return FLEX_ERR_STATE;
    if (g_program.life != Life::None && g_program.life != Life::Ended) return FLEX_ERR_STATE;
    const Result<ElfProgram> elf = parse_elf(program_image());
    if (!elf.ok()) {
        print("tos: the program in this image is not a static arm64 ELF (%d)\n", elf.error);
        return FLEX_ERR_DENIED;
    }
    if (g_program.table.root() == 0 && !g_program.table.create(g_tables)) return FLEX_ERR_NO_MEMORY;
    if (!build_areas(elf.value)) return FLEX_ERR_NO_MEMORY;
    if (!pin_shared_area(shared)) return FLEX_ERR_STATE;
    if (map_non_secure(TOS_SHARED_BASE, shared, FLEX_RPC_AREA_BYTES) == nullptr) {
        unpin_shared_area(shared);
        return FLEX_ERR_NO_MEMORY;
    }
    const PageTable table = g_program.table; /* kept from program to program: it is empty */
    g_program = {};
    g_program.table = table;
    g_program.elf = elf.value;
    g_program.break_start = g_program.break_end = elf.value.break_start;
    g_program.shared_physical = shared;
    g_program.cores_lent = static_cast<u32>(lent);
    g_program.started = now();
    g_slots.clear();
    clear_log();
    g_pool.clear();
    g_futexes.clear();
    g_files.reset();
    g_store.cancel();
    g_orphans_out = g_orphans_done = 0;
    for (u32 i = 0; i < kThreads; i++) clear_thread(g_threads[i], i);
    g_threads[kServiceThread].step = service_step;
    make_ready(g_threads[kServiceThread]);
    Thread* first = new_thread();
    first->step = exec_step;
    g_program.life = Life::Running;
    make_ready(*first);
    g_statistics.starts++;
    return FLEX_OK;
}

void finish_program() {
    unmap_non_secure(TOS_SHARED_BASE, FLEX_RPC_AREA_BYTES);
    unpin_shared_area(g_program.shared_physical);
    g_areas.clear();
    g_program.life = Life::Ended;
    const u32 code = g_program.exit_code;
    print("tos: the program has ended, %s %u\n", code < 256 ? "code" : "signal", code & 255);
}

Thread* new_thread() {
    for (u32 i = kServiceThread + 1; i < kThreads; i++) {
        if (g_threads[i].state != ThreadState::Free) continue;
        clear_thread(g_threads[i], i);
        g_program.threads++;
        return &g_threads[i];
    }
    return nullptr;
}

/* The thread is not ready any more and never runs again. A job it had is left to the service thread. */
void end_thread(Thread& thread) {
    if (thread.slot != RpcSlots::kNone) abandon_slot(thread.slot, thread.waits_for != WaitFor::Answer);
    thread.slot = RpcSlots::kNone;
    g_futexes.remove(thread.id);
    thread.state = ThreadState::Free;
    thread.step = nullptr;
    g_program.threads--;
    if (g_program.threads == 0 && g_program.life == Life::Running) end_program(0);
}

void end_program(u32 exit_code) {
    if (g_program.life != Life::Running) return;
    g_program.life = Life::Dying;
    g_program.exit_code = exit_code;
    u32 others = 0;
    for (Core& core : cores) {
        if (core.in_user) others |= 1u << core.index;
    }
    for (u32 i = kServiceThread + 1; i < kThreads; i++) {
        Thread& thread = g_threads[i];
        if (thread.state == ThreadState::Ready) forget_ready(thread);
        /* Those on a core end there, at their next turn. */
        if (thread.state == ThreadState::Ready || thread.state == ThreadState::Waiting) end_thread(thread);
    }
    if (others != 0) interrupt_cores(others);
    if (g_program.running == 0) kick_service();
}

Next service_step(Thread& service) {
    if (g_program.life == Life::Dying) {
        if (g_program.running != 0) return wait_for(service, WaitFor::Service, service_step);
        return tear_down(service);
    }
    if (g_pool.frames() > (g_program.trim ? kPoolLow * 2 : kPoolHigh)) return trim_pool(service);
    g_program.trim = false;
    if (g_pool.frames() >= kPoolLow) {
        wake_all(WaitFor::Frames);
        return wait_for(service, WaitFor::Service, service_step);
    }
    return refill_pool(service);
}

} // namespace flex::tos
