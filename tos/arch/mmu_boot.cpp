/*
 * Runs once, on the first core, before the MMU is on: no locks, no pointers that the linker filled in (they
 * are for the kernel's half); addresses are computed relative to the PC and so are physical.
 */
#include "arch/layout.h"
#include "arch/mmu.hpp"

extern "C" {
extern char __image_start[], __identity_end[], __rodata_start[], __data_start[], __stacks_start[],
    __stacks_end[], __tables_start[];
flex::tos::u64 identity_root, kernel_root;
}

namespace flex::tos {

constinit TablePool g_tables;
constinit PageTable g_kernel_table;

namespace {
constinit PageTable identity_table;

u64 physical(const char* symbol) { return reinterpret_cast<u64>(symbol); }

bool map_kernel(u64 from, u64 to, u64 attributes) {
    return g_kernel_table.map(from + TOS_VIRTUAL_OFFSET, from, to - from, attributes);
}

bool map_stacks() {
    u64 at = physical(__stacks_start);
    for (; at < physical(__stacks_end); at += TOS_GUARD_BYTES + TOS_STACK_BYTES) {
        const u64 stack = at + TOS_GUARD_BYTES;
        if (!map_kernel(stack, stack + TOS_STACK_BYTES, leaf::kKernelData)) return false;
    }
    return true;
}
} // namespace

extern "C" void boot_build_tables() {
    constexpr u64 kRamEnd = BOARD_BL32_BASE + BOARD_BL32_BYTES;
    constexpr u64 kStoreBegin = BOARD_SECURE_FLASH_BASE + BOARD_FLASH_ROOT_KEY_OFFSET;
    constexpr u64 kStoreEnd = BOARD_SECURE_FLASH_BASE + BOARD_SECURE_FLASH_BYTES;

    g_tables.reset(physical(__tables_start), kRamEnd - physical(__tables_start), 0);
    bool good = g_kernel_table.create(g_tables) && identity_table.create(g_tables);
    good = good && identity_table.map(physical(__image_start), physical(__image_start), kPageBytes,
                                      leaf::kKernelText | leaf::kNotGlobal);
    good = good && map_kernel(physical(__image_start), physical(__rodata_start), leaf::kKernelText);
    good = good && map_kernel(physical(__rodata_start), physical(__data_start), leaf::kKernelRead);
    good = good && map_kernel(physical(__data_start), physical(__stacks_start), leaf::kKernelData);
    good = good && map_stacks();
    good = good && map_kernel(physical(__tables_start), kRamEnd, leaf::kKernelData);
    good = good && map_kernel(BOARD_SECURE_UART_BASE, BOARD_SECURE_UART_BASE + kPageBytes, leaf::kDevice);
    good = good && map_kernel(kStoreBegin, kStoreEnd, leaf::kDevice);
    /* Tables for 15 MiB cannot run out of the 1 MiB that the linker script guarantees. */
    while (!good) asm volatile("wfi");
    kernel_root = g_kernel_table.root();
    identity_root = identity_table.root();
    g_tables.set_offset(TOS_VIRTUAL_OFFSET);
}

} // namespace flex::tos
