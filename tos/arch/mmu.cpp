#include "arch/mmu.hpp"

#include "arch/registers.hpp"

namespace flex::tos {

namespace {
/* Beyond this many pages forgetting everything is cheaper. */
constexpr u64 kInvalidateOneByOneMax = 64;

constexpr u64 window_at(u32 core) { return TOS_WINDOW_BASE + core * TOS_WINDOW_BYTES_PER_CORE; }
} // namespace

void tlb::publish() { asm volatile("dsb ishst\n\tisb" : : : "memory"); }

/* TLBI operands hold VA[55:12] (Arm ARM D8.17). */
static constexpr u64 page_number(u64 va) { return va >> 12 & 0xfff'ffff'ffff; }

/* Arm ARM D8.17: entries written, DSB, TLBI for all cores of the domain, DSB. */
void tlb::invalidate(u64 va, u64 bytes) {
    asm volatile("dsb ishst" : : : "memory");
    const u64 end = va + bytes;
    if (bytes / kPageBytes > kInvalidateOneByOneMax) {
        asm volatile("tlbi vmalle1is" : : : "memory");
    } else {
        for (u64 at = va; at < end; at += kPageBytes) {
            asm volatile("tlbi vaae1is, %0" : : "r"(page_number(at)) : "memory");
        }
    }
    asm volatile("dsb ish\n\tisb" : : : "memory");
}

void tlb::invalidate_block(u64 va) {
    asm volatile("dsb ishst\n\ttlbi vaae1is, %0\n\tdsb ish\n\tisb" : : "r"(page_number(va)) : "memory");
}

u8* map_non_secure(u64 at, u64 physical, u64 bytes) {
    const u64 attributes = leaf::kKernelData | leaf::kNonSecure;
    return g_kernel_table.map(at, physical, bytes, attributes) ? reinterpret_cast<u8*>(at) : nullptr;
}

u8* map_device(u64 at, u64 physical, u64 bytes) {
    const u64 attributes = leaf::kDevice | leaf::kNonSecure;
    return g_kernel_table.map(at, physical, bytes, attributes) ? reinterpret_cast<u8*>(at) : nullptr;
}

void unmap_non_secure(u64 at, u64 bytes) {
    bool stuck = false;
    while (g_kernel_table.take(at, at + bytes, stuck).bytes != 0) {
    }
    tlb::invalidate(at, bytes);
}

static u8* open_window(u64 base, Span<const u64> pieces, u64 bytes_each) {
    for (u64 i = 0; i < pieces.size; i++) {
        if (map_non_secure(base + i * bytes_each, pieces[i], bytes_each) == nullptr) return nullptr;
    }
    return reinterpret_cast<u8*>(base);
}

u8* open_block_window(u32 core, Span<const u64> blocks) {
    return open_window(window_at(core), blocks, kBlockBytes);
}

u8* open_page_window(u32 core, Span<const u64> frames) {
    return open_window(window_at(core) + kWindowBlocks * kBlockBytes, frames, kPageBytes);
}

void close_window(u32 core) {
    const u64 base = window_at(core), pages = base + kWindowBlocks * kBlockBytes;
    bool stuck = false;
    u64 at = base;
    while (at < pages && g_kernel_table.take(at, pages, stuck).bytes != 0) at += kBlockBytes;
    if (at == base + kBlockBytes) tlb::invalidate_block(base);
    else if (at != base) tlb::invalidate(base, at - base);
    at = pages;
    while (g_kernel_table.take(at, pages + kBlockBytes, stuck).bytes != 0) at += kPageBytes;
    if (at != pages) tlb::invalidate(pages, at - pages);
}

} // namespace flex::tos
