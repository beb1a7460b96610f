/* abi/syscall.h: Flex-Mem, the device key, the secure store. */
#include "abi/syscall.h"

#include "core/memory.hpp"
#include "kernel/core.hpp"
#include "kernel/memory_job.hpp"
#include "kernel/npu.hpp"
#include "kernel/random.hpp"
#include "kernel/system_calls.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

namespace {

Next flex_mem_alloc(Thread& thread, const Arguments& a) { return system_mem_alloc(thread, a[0]); }
Next flex_mem_load(Thread& thread, const Arguments& a) { return system_mem_load(thread, a[0], a[1], a[2]); }
Next flex_mem_free(Thread& thread, const Arguments& a) { return system_mem_free(thread, a[0], a[1]); }

Next flex_device_key(Thread& thread, const Arguments& a) {
    u8 label[64];
    if (a[1] > sizeof label) return finish(thread, kEinval);
    if (!reached(thread, copy_from_user(label, a[0], a[1]))) return thread.outcome;
    if (!reached(thread, touch(a[2], sizeof(Digest), kProtectWrite))) return thread.outcome;
    Digest key = device_key({label, a[1]});
    const Access access = store_user(a[2], key);
    forget(&key, sizeof key);
    return reached(thread, access) ? finish(thread, 0) : thread.outcome;
}

Next flex_store_read(Thread& thread, const Arguments& a) {
    const Bytes data = g_store.data();
    if (a[1] > FLEX_SECURE_STORE_BYTES || a[1] < data.size) return finish(thread, kEinval);
    if (!reached(thread, copy_to_user(a[0], data.data, data.size))) return thread.outcome;
    return finish(thread, static_cast<i64>(data.size));
}

Next store_write_step(Thread& thread) {
    thread.step = store_write_step;
    const SecureStore::Progress progress = g_store.step();
    if (progress == SecureStore::Progress::More) return Next::Again;
    wake_all(WaitFor::Flash);
    return finish(thread, progress == SecureStore::Progress::Written ? 0 : i64{kEio});
}

u8 store_buffer[FLEX_SECURE_STORE_BYTES];

Next flex_store_write(Thread& thread, const Arguments& a) {
    if (a[1] > sizeof store_buffer) return finish(thread, kEinval);
    if (g_store.busy()) return wait_and_restart(thread, WaitFor::Flash);
    if (!reached(thread, copy_from_user(store_buffer, a[0], a[1]))) return thread.outcome;
    g_store.begin({store_buffer, a[1]}, g_store.boot_counter());
    forget(store_buffer, sizeof store_buffer);
    return store_write_step(thread);
}

Next reclaim_step(Thread& thread) {
    const u64 bytes = g_program.reclaim_bytes;
    g_program.reclaim_bytes = 0;
    return finish(thread, static_cast<i64>(min<u64>(bytes, kNever >> 1)));
}

Next flex_reclaim_wait(Thread& thread, const Arguments& a) {
    if (g_program.reclaim_bytes != 0) return reclaim_step(thread);
    for (const Thread& other : g_threads) {
        if (other.state == ThreadState::Waiting && other.waits_for == WaitFor::Reclaim)
            return finish(thread, kEbusy);
    }
    return wait_for(thread, WaitFor::Reclaim, reclaim_step, a[0] == kNever ? kNever : deadline_after(a[0]));
}

Next flex_memory_information(Thread& thread, const Arguments& a) {
    flex_memory_info info = {};
    {
        Unlocked unlocked; /* walks the whole table */
        for (u32 i = 0; i < FLEX_FRAME_STATES; i++)
            info.frames[i] = g_frames.count(static_cast<FrameState>(i));
    }
    info.mapped_frames = g_program.mapped_frames;
    info.pool_frames = g_pool.frames();
    info.alloc_ns = ticks_to_ns(g_program.alloc_ticks);
    info.load_ns = ticks_to_ns(g_program.load_ticks);
    if (!reached(thread, store_user(a[0], info))) return thread.outcome;
    return finish(thread, 0);
}

Next flex_npu_acquire(Thread& thread, const Arguments& a) { return system_npu_acquire(thread, a[0], a[1]); }
Next flex_npu_release(Thread& thread, const Arguments&) { return system_npu_release(thread); }
Next flex_npu_wait(Thread& thread, const Arguments& a) { return system_npu_wait(thread, a[0], a[1]); }

constexpr u64 kAddressesAStep = 128;

/* Next page: scratch[0]; from user_address, user_bytes of them. */
Next addresses_step(Thread& thread) {
    thread.step = addresses_step;
    u64& done = thread.scratch[0];
    u64 addresses[kAddressesAStep];
    const u64 count = min(kAddressesAStep, thread.user_bytes - done);
    for (u64 i = 0; i < count; i++) {
        const u64 page = thread.user_address + (done + i) * kPageBytes;
        const Area* area = g_areas.find(page);
        const PageTable::Leaf leaf = g_program.table.lookup(page);
        if (area == nullptr || area->backing != Backing::Flex || leaf.bytes == 0)
            return finish(thread, kEfault);
        g_program.table.pin(page, page + kPageBytes); /* FLEX_TOS_MOVE leaves it where it is while the NPU is held */
        addresses[i] = leaf.physical + (page - leaf.va);
    }
    const Access access = copy_to_user(thread.scratch[1] + done * sizeof(u64), addresses, count * sizeof(u64));
    if (!reached(thread, access)) return thread.outcome;
    done += count;
    return done < thread.user_bytes ? Next::Again : finish(thread, 0);
}

Next flex_memory_addresses(Thread& thread, const Arguments& a) {
    u64 end = 0;
    if (a[1] == 0) return finish(thread, 0);
    if (a[1] > kUserHigh / kPageBytes || !user_pages(a[0], a[1] * kPageBytes, end)) return finish(thread, kEfault);
    thread.user_address = a[0];
    thread.user_bytes = a[1];
    thread.scratch[0] = 0;
    thread.scratch[1] = a[2];
    return addresses_step(thread);
}

const CallEntry kFlexCallsList[] = {
    {FLEX_SYS_MEM_ALLOC, flex_mem_alloc},
    {FLEX_SYS_MEM_FREE, flex_mem_free},
    {FLEX_SYS_MEM_LOAD, flex_mem_load},
    {FLEX_SYS_DEVICE_KEY, flex_device_key},
    {FLEX_SYS_SECURE_STORE_READ, flex_store_read},
    {FLEX_SYS_SECURE_STORE_WRITE, flex_store_write},
    {FLEX_SYS_RECLAIM_WAIT, flex_reclaim_wait},
    {FLEX_SYS_MEMORY_INFO, flex_memory_information},
    {FLEX_SYS_NPU_ACQUIRE, flex_npu_acquire},
    {FLEX_SYS_NPU_RELEASE, flex_npu_release},
    {FLEX_SYS_NPU_WAIT, flex_npu_wait},
    {FLEX_SYS_MEM_ADDRESSES, flex_memory_addresses},
};
} // namespace

const Span<const CallEntry> kFlexCalls(kFlexCallsList);

} // namespace flex::tos
