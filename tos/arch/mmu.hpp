/* The kernel's own translation tables, and windows through which it reaches frames that it owns but does not
 * map for good. */
#ifndef FLEX_TOS_ARCH_MMU_HPP
#define FLEX_TOS_ARCH_MMU_HPP

#include "abi/frame.h"
#include "arch/layout.h"
#include "core/page_table.hpp"

namespace flex::tos {

extern TablePool g_tables; /* what is left of secure RAM: all tables come from it */
extern PageTable g_kernel_table;

template <class T> T* kernel_pointer(u64 physical) {
    return reinterpret_cast<T*>(physical + TOS_VIRTUAL_OFFSET);
}
inline u64 kernel_physical(const void* pointer) {
    return reinterpret_cast<u64>(pointer) - TOS_VIRTUAL_OFFSET;
}

/* Maps non-secure frames for good (frame table) or until unmap_shared; page-aligned. Nullptr: no tables left.
 */
[[nodiscard]] u8* map_non_secure(u64 at, u64 physical, u64 bytes);
void unmap_non_secure(u64 at, u64 bytes);
/* Registers of a device of the normal world's bus; unmap_non_secure() takes them away. */
[[nodiscard]] u8* map_device(u64 at, u64 physical, u64 bytes);

/*
 * A window of this core onto frames of Flex-Mem, one behind the other, in any order: up to kWindowBlocks aligned
 * blocks of 2 MiB, or up to kWindowPages frames. close_window() before the frames may be released: no core can
 * reach them through it afterwards. With the kernel's lock.
 */
constexpr u32 kWindowBlocks = TOS_WINDOW_BLOCKS, kWindowPages = kPagesPerBlock;
[[nodiscard]] u8* open_block_window(u32 core, Span<const u64> blocks);
[[nodiscard]] u8* open_page_window(u32 core, Span<const u64> frames);
void close_window(u32 core);

/* zeroes [at, at + bytes), multiples of 4 KiB, by the fastest means the core has */
extern "C" void zero_memory(void* at, u64 bytes);

} // namespace flex::tos

#endif
