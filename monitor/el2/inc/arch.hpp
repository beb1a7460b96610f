// AArch64 at EL2: typed access to system registers, barriers, cache and TLB maintenance. The only file with
// such assembly besides *.S.
#pragma once

#include "types.hpp"

namespace flex::monitor::arch {

// Usage: FLEX_READ(hcr_el2), FLEX_WRITE(hcr_el2, v). A macro because the name is part of the instruction.
#define FLEX_READ(name)                                                                                      \
    ({                                                                                                       \
        ::flex::monitor::u64 value_;                                                                         \
        asm volatile("mrs %0, " #name : "=r"(value_));                                                       \
        value_;                                                                                              \
    })
#define FLEX_WRITE(name, value)                                                                              \
    asm volatile("msr " #name ", %0" ::"r"(static_cast<::flex::monitor::u64>(value)) : "memory")

inline void isb() { asm volatile("isb" ::: "memory"); }
inline void dsb() { asm volatile("dsb sy" ::: "memory"); }
inline void dsb_ish() { asm volatile("dsb ish" ::: "memory"); }
inline void dsb_ishst() { asm volatile("dsb ishst" ::: "memory"); }
inline void dmb() { asm volatile("dmb sy" ::: "memory"); }
inline void yield() { asm volatile("yield" ::: "memory"); }
inline void wait_for_event() { asm volatile("wfe" ::: "memory"); }

inline void clean_to_memory(u64 address) { asm volatile("dc cvac, %0" ::"r"(address) : "memory"); }
inline void clean_and_invalidate(u64 address) { asm volatile("dc civac, %0" ::"r"(address) : "memory"); }
inline void zero_block(u64 address) { asm volatile("dc zva, %0" ::"r"(address) : "memory"); }

// CLIDR_EL1.LoC: without cache levels before the point of coherency (as in an emulator) there is nothing to
// clean or invalidate.
inline bool caches_hide_memory() { return field(FLEX_READ(clidr_el1), 26, 24) != 0; }
inline u64 cache_line() { return u64{4} << field(FLEX_READ(ctr_el0), 19, 16); } // DminLine, in words

// TLBI takes bits [47:12] of the input address (Arm ARM C5.5).
inline void tlbi_stage2(u64 address) { asm volatile("tlbi ipas2e1is, %0" ::"r"(address >> 12) : "memory"); }
inline void tlbi_stage1_vmid() { asm volatile("tlbi vmalle1is" ::: "memory"); }
inline void tlbi_all_vmid() { asm volatile("tlbi vmalls12e1is" ::: "memory"); }

inline u32 read8(u64 address) {
    u32 value;
    asm volatile("ldrb %w0, [%1]" : "=r"(value) : "r"(address) : "memory");
    return value;
}
inline u32 read32(u64 address) {
    u32 value;
    asm volatile("ldr %w0, [%1]" : "=r"(value) : "r"(address) : "memory");
    return value;
}
inline void write8(u64 address, u32 value) {
    asm volatile("strb %w0, [%1]" ::"r"(value), "r"(address) : "memory");
}
inline void write16(u64 address, u32 value) {
    asm volatile("strh %w0, [%1]" ::"r"(value), "r"(address) : "memory");
}
inline void write32(u64 address, u32 value) {
    asm volatile("str %w0, [%1]" ::"r"(value), "r"(address) : "memory");
}
inline void write64(u64 address, u64 value) {
    asm volatile("str %0, [%1]" ::"r"(value), "r"(address) : "memory");
}

} // namespace flex::monitor::arch
