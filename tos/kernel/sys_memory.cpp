/* The address space: brk, mmap and relatives. Only anonymous private memory; files come by read or
 * FLEX_SYS_MEM_LOAD. */
#include "arch/mmu.hpp"
#include "kernel/memory_job.hpp"
#include "kernel/system_calls.hpp"

namespace flex::tos {

namespace {

constexpr u64 kMapShared = 1, kMapFixed = 0x10, kMapAnonymous = 0x20, kMapFixedNoReplace = 0x100000;

Next system_brk(Thread& thread, const Arguments& a) {
    Program& p = g_program;
    const u64 old_end = align_up(p.break_end, kPageBytes), new_end = align_up(a[0], kPageBytes);
    if (a[0] < p.break_start || a[0] > kAnonymousBase) return finish(thread, static_cast<i64>(p.break_end));
    if (new_end > old_end) {
        Area area;
        area.begin = old_end;
        area.end = new_end;
        area.protection = kProtectRead | kProtectWrite;
        if (g_areas.insert(area) != kOk) return finish(thread, static_cast<i64>(p.break_end));
    }
    p.break_end = a[0];
    if (new_end < old_end) return unmap_pages(thread, new_end, old_end, false, static_cast<i64>(a[0]));
    return finish(thread, static_cast<i64>(a[0]));
}

Next system_mmap(Thread& thread, const Arguments& a) {
    const u64 flags = a[3];
    u64 end = 0;
    if ((flags & kMapAnonymous) == 0) return finish(thread, kEnodev);
    if ((flags & kMapShared) != 0) return finish(thread, kEinval);
    if (a[1] == 0 || a[1] > kUserHigh) return finish(thread, kEinval);
    if (!protection_allowed(a[2])) return finish(thread, kEacces);
    Area area;
    area.protection = static_cast<u8>(a[2]);
    if ((flags & (kMapFixed | kMapFixedNoReplace)) != 0) {
        /* Replacing what is there would have to be atomic; glibc does not need it. */
        if (!user_pages(a[0], a[1], end)) return finish(thread, kEinval);
        area.begin = a[0];
        area.end = end;
    } else {
        const u64 bytes = align_up(a[1], kPageBytes);
        const Result<u64> place = g_areas.place(bytes, kPageBytes, kAnonymousBase, kFlexBase);
        if (!place.ok()) return finish(thread, place.error);
        area.begin = place.value;
        area.end = place.value + bytes;
    }
    const Error error = g_areas.insert(area);
    return finish(thread, error == kOk ? static_cast<i64>(area.begin) : i64{error});
}

bool any_special(u64 begin, u64 end) {
    return g_areas.any(begin, end, Backing::Flex) || g_areas.any(begin, end, Backing::Dying) ||
           g_areas.any(begin, end, Backing::Registers);
}

Next system_munmap(Thread& thread, const Arguments& a) {
    u64 end = 0;
    if (!user_pages(a[0], a[1], end) || any_special(a[0], end)) return finish(thread, kEinval);
    return unmap_pages(thread, a[0], end, false, 0);
}

Next system_mprotect(Thread& thread, const Arguments& a) {
    u64 end = 0;
    if (a[1] == 0) return finish(thread, 0);
    if (!user_pages(a[0], a[1], end)) return finish(thread, kEinval);
    if (!g_areas.covered(a[0], end)) return finish(thread, kEnomem);
    if (!protection_allowed(a[2]) || any_special(a[0], end)) return finish(thread, kEacces);
    const u8 protection = static_cast<u8>(a[2]);
    if ((protection & kProtectWrite) && g_areas.any(a[0], end, Backing::ImageInPlace))
        return finish(thread, kEacces);
    /* Memory that was writable never becomes executable: code is only what the image brought. */
    if ((protection & kProtectExecute) &&
        (g_areas.any(a[0], end, Backing::Zero) || g_areas.any(a[0], end, Backing::ImageCopy))) {
        return finish(thread, kEacces);
    }
    const Error error = g_areas.protect(a[0], end, protection);
    if (error != kOk) return finish(thread, error);
    return finish(thread,
                  g_program.table.protect(a[0], end, leaf::user(protection, true)) ? 0 : i64{kEnomem});
}

Next system_madvise(Thread& thread, const Arguments& a) {
    constexpr u64 kDontNeed = 4, kFree = 8;
    u64 end = 0;
    if (a[2] != kDontNeed && a[2] != kFree) return finish(thread, 0);
    if (a[1] == 0) return finish(thread, 0);
    if (!user_pages(a[0], a[1], end) || any_special(a[0], end)) return finish(thread, kEinval);
    if (!g_areas.covered(a[0], end)) return finish(thread, kEnomem);
    return unmap_pages(thread, a[0], end, true, 0);
}

/* Grows and shrinks where it is. glibc allocates and copies when that cannot be done. */
Next system_mremap(Thread& thread, const Arguments& a) {
    constexpr u64 kFixed = 2;
    u64 old_end = 0, new_end = 0;
    if ((a[3] & kFixed) != 0 || !user_pages(a[0], a[1], old_end) || !user_pages(a[0], a[2], new_end))
        return finish(thread, kEinval);
    const Area* area = g_areas.find(a[0]);
    if (area == nullptr || area->end < old_end || area->backing != Backing::Zero)
        return finish(thread, kEfault);
    if (new_end < old_end) return unmap_pages(thread, new_end, old_end, false, static_cast<i64>(a[0]));
    if (new_end > old_end) {
        Area more = *area;
        more.begin = old_end;
        more.end = new_end;
        if (g_areas.insert(more) != kOk) return finish(thread, kEnomem);
    }
    return finish(thread, static_cast<i64>(a[0]));
}

const CallEntry kMemoryCallsList[] = {
    {214, system_brk},     {215, system_munmap},   {216, system_mremap},
    {222, system_mmap},    {226, system_mprotect}, {228, answer<0>}, /* mlock: nothing is ever swapped */
    {229, answer<0>},                                                /* munlock */
    {233, system_madvise},
};
} // namespace

const Span<const CallEntry> kMemoryCalls(kMemoryCallsList);

} // namespace flex::tos
