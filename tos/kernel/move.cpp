/*
 * Moving the content of one frame to another, because the normal world wants that very frame.
 *
 * The program notices nothing: between break and make its threads on other cores fault, wait for the lock and
 * find the new entry. Both frames are the normal world's choice. The old one must be mapped in the program or in store
 * and the new one adoptable, so neither can be anybody else's; the worst a choice can do is to cost time. Frames in store
 * (FramePool) move too, or a given frame could not be had for as long as it lies there.
 */
#include "kernel/move.hpp"

#include "abi/calls.h"

#include "arch/mmu.hpp"
#include "arch/registers.hpp"
#include "core/memory.hpp"
#include "kernel/core.hpp"
#include "kernel/exception.hpp"
#include "kernel/npu.hpp"
#include "kernel/program.hpp"

namespace flex::tos {
namespace {

enum class Place { None, Program, Pool };

/* Splitting a block, and two pages in a window, may each need a table. */
constexpr u64 kTablesForAMove = 4;

bool may_move(const PageTable::Leaf& leaf, u64 va) {
    if (leaf.bytes == 0 || (leaf.attributes & leaf::kNonSecure) == 0)
        return false; /* not mapped, or of the image */
    /* Code would have to be made visible to instruction caches; there is little of it. */
    if ((leaf.attributes & leaf::kUserNoExecute) == 0) return false;
    if ((leaf.attributes & leaf::kPinned) != 0 && npu_may_reach()) return false;
    const Area* area = g_areas.find(va);
    return area != nullptr && area->backing != Backing::Dying;
}

/* Where `from` is, if it can be taken from there; in the program: which leaf leads to it. */
Place find_place(u64 from, PageTable::Leaf& leaf) {
    if (g_pool.contains(from)) return Place::Pool;
    leaf = g_program.table.find_physical(from);
    return may_move(leaf, leaf.va + (from - leaf.physical)) ? Place::Program : Place::None;
}

void copy_and_clear(u64 from, u64 to) {
    const u32 core = this_core().index;
    const u64 frames[2] = {from, to};
    u8* window = open_page_window(core, {frames, 2});
    if (window == nullptr) panic("no table for a window");
    copy_bytes(window + kPageBytes, window, kPageBytes);
#ifndef FLEX_WITHOUT_ZERO_ON_RELEASE
    zero_memory(window, kPageBytes);
#endif
    barrier_data();
    close_window(core);
}

void move_in_program(const PageTable::Leaf& leaf, u64 from, u64 to) {
    const u64 va = leaf.va + (from - leaf.physical);
    bool stuck = false;
    const PageTable::Leaf page = g_program.table.take(va, va + kPageBytes, stuck);
    if (stuck || page.physical != from) panic("a page to be moved is gone");
    tlb::invalidate(va, kPageBytes);
    copy_and_clear(from, to);
    /* Who told a device the old address asks again before the device is used. */
    if ((page.attributes & leaf::kPinned) != 0) g_program.told_moved++;
    if (!g_program.table.map(va, to, kPageBytes, page.attributes & ~leaf::kPinned)) panic("no table for a moved page");
}

/* What is in store is zero; `to` may hold anything. */
void move_in_pool(u64 from, u64 to) {
    const u32 core = this_core().index;
    u8* window = open_page_window(core, {&to, 1});
    if (window == nullptr) panic("no table for a window");
    zero_memory(window, kPageBytes);
    barrier_data();
    close_window(core);
    if (!g_pool.replace(from, to)) panic("no room in store for a moved frame");
}

} // namespace

i64 move_frame(u64 from, u64 to) {
    FrameRange old_frame, new_frame;
    if (!is_aligned(from | to, kPageBytes) || !g_frames.parse(FLEX_RANGE(from, 0), old_frame))
        return FLEX_ERR_ARGUMENT;
    if (to != 0 && !g_frames.parse(FLEX_RANGE(to, 0), new_frame)) return FLEX_ERR_ARGUMENT;
    if (g_program.life != Life::Running || !g_frames.all(old_frame, FrameState::Adopted))
        return FLEX_ERR_STATE;
    if (g_tables.available() < kTablesForAMove) return FLEX_ERR_NO_MEMORY;
    PageTable::Leaf leaf;
    const Place place = find_place(from, leaf);
    if (place == Place::None || (place == Place::Pool && to != 0 && !g_pool.room_for(to))) return FLEX_ERR_BUSY;
    if (to == 0) return FLEX_OK;
#ifndef FLEX_WITHOUT_MOVE_CHECK
    if (!g_frames.adopt(new_frame)) return FLEX_ERR_STATE;
#endif
    place == Place::Pool ? move_in_pool(from, to) : move_in_program(leaf, from, to);
    if (!g_frames.release(old_frame)) panic("a moved frame was not adopted");
    g_statistics.adopted++;
    g_statistics.released++;
    g_statistics.moved++;
    return FLEX_OK;
}

} // namespace flex::tos
