#include "kernel/user_memory.hpp"

#include "arch/mmu.hpp"
#include "core/memory.hpp"
#include "kernel/core.hpp"
#include "kernel/exception.hpp"
#include "kernel/memory_job.hpp"
#include "kernel/program.hpp"

namespace flex::tos {

extern "C" {
/* arch/user_copy.S; the number of bytes not copied */
u64 copy_from_user_raw(void* to, u64 from, u64 bytes);
u64 copy_to_user_raw(u64 to, const void* from, u64 bytes);
u64 load_user_u32_raw(u32* to, u64 from);
}

namespace {

/* Zero pages that a fault brings in at once when they are plenty: fewer exceptions for a growing heap. */
constexpr u64 kFaultAroundPages = 16;
constexpr u64 kPlentyFrames = 256;

/* Tables one page can need: levels 2 and 3 for the program and for the window. Looked at before a frame is
 * taken. */
constexpr u64 kTablesForAPage = 4;

void map_frame(u64 page, u64 frame, u8 protection) {
    if (!g_program.table.map(page, frame, kPageBytes, leaf::user(protection, true)))
        panic("no table for a page");
    g_program.mapped_frames++;
}

Access map_zero(const Area& area, u64 page) {
    u64 first = page, last = page + kPageBytes;
    if (g_pool.frames() >= kPlentyFrames) {
        const u64 around = align_down(page, kFaultAroundPages * kPageBytes);
        first = max(around, area.begin);
        last = min(around + kFaultAroundPages * kPageBytes, area.end);
    }
    if (g_pool.frames() == 0) return Access::NoFrames;
    for (u64 at = first; at < last; at += kPageBytes) {
        if (g_program.table.lookup(at).bytes == 0) map_frame(at, g_pool.take(), area.protection);
    }
    return Access::Good;
}

/* A page with content of the ELF that the program may change: its own copy. */
Access map_copy(const Area& area, u64 page) {
    const u64 frame = g_pool.take();
    if (frame == 0) return Access::NoFrames;
    const u64 bytes = page < area.image_end ? min(kPageBytes, area.image_end - page) : 0;
    const u32 core = this_core().index;
    u8* window = open_page_window(core, {&frame, 1});
    if (window == nullptr) panic("no table for a window");
    copy_bytes(window, program_image().data + area.image_offset + (page - area.begin), bytes);
    close_window(core);
    map_frame(page, frame, area.protection);
    return Access::Good;
}

Access map_in_place(const Area& area, u64 page) {
    const u64 frame = kernel_physical(program_image().data) + area.image_offset + (page - area.begin);
    const bool mapped = g_program.table.map(page, frame, kPageBytes, leaf::user(area.protection, false));
    return mapped ? Access::Good : Access::Fault;
}

} // namespace

Access page_in(u64 address, u8 need) {
    const Area* area = g_areas.find(address);
    if (area == nullptr || (area->protection & need) != need || area->backing == Backing::Dying)
        return Access::Fault;
    const u64 page = align_down(address, kPageBytes);
    /* Another core was faster, or this one had the old entry cached. */
    if (g_program.table.lookup(page).bytes != 0) return Access::Good;
    if (g_tables.available() < kTablesForAPage) return Access::Fault;
    want_frames();
    switch (area->backing) {
    case Backing::Zero:
        return map_zero(*area, page);
    case Backing::ImageCopy:
        return map_copy(*area, page);
    case Backing::ImageInPlace:
        return map_in_place(*area, page);
    default:
        return Access::Fault;
    }
}

Access touch(u64 address, u64 bytes, u8 need) {
    if (!user_bytes(address, bytes)) return Access::Fault;
    for (u64 at = align_down(address, kPageBytes); at < address + bytes; at += kPageBytes) {
        if (const Access access = page_in(at, need); access != Access::Good) return access;
    }
    return Access::Good;
}

/* A copy would read or write a device, in pieces of its own choice. */
static bool touches_registers(u64 address, u64 bytes) {
    return bytes != 0 && g_areas.any(address, address + bytes, Backing::Registers);
}

/* The copy itself is what decides; a fault brings the page in and goes on where it stopped. */
template <class Copy> static Access copy_user(u64 address, u64 bytes, u8 need, Copy&& copy) {
    if (!user_bytes(address, bytes) || touches_registers(address, bytes)) return Access::Fault;
    for (u64 done = 0; done < bytes;) {
        const u64 left = copy(done);
        if (left == 0) return Access::Good;
        const u64 reached = bytes - left;
        if (const Access access = page_in(address + reached, need); access != Access::Good) return access;
        /* A 32-byte step may have faulted on its second page. */
        if (const Access access = page_in(min(address + reached + 31, address + bytes - 1), need);
            access != Access::Good) {
            return access;
        }
        done = reached;
    }
    return Access::Good;
}

Access copy_from_user(void* to, u64 from, u64 bytes) {
    return copy_user(from, bytes, kProtectRead, [&](u64 done) {
        return copy_from_user_raw(static_cast<u8*>(to) + done, from + done, bytes - done);
    });
}

Access copy_to_user(u64 to, const void* from, u64 bytes) {
    return copy_user(to, bytes, kProtectWrite, [&](u64 done) {
        return copy_to_user_raw(to + done, static_cast<const u8*>(from) + done, bytes - done);
    });
}

Access load_user_word(u32& to, u64 from) {
    if (!is_aligned(from, 4) || !user_bytes(from, 4) || touches_registers(from, 4)) return Access::Fault;
    while (load_user_u32_raw(&to, from) != 0) {
        if (const Access access = page_in(from, kProtectRead); access != Access::Good) return access;
    }
    return Access::Good;
}

Access copy_string_from_user(char* to, u64 from, u64 limit, u64& length) {
    for (length = 0; length < limit; length++) {
        if (const Access access = copy_from_user(to + length, from + length, 1); access != Access::Good)
            return access;
        if (to[length] == '\0') return Access::Good;
    }
    return Access::Fault;
}

bool reached(Thread& thread, Access access) {
    if (access == Access::Good) return true;
    const bool wait = access == Access::NoFrames;
    thread.outcome = wait ? wait_and_restart(thread, WaitFor::Frames) : finish(thread, kEfault);
    return false;
}

} // namespace flex::tos
