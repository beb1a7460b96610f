/* Reads a static arm64 Linux ELF (System V gABI; ELF for the Arm 64-bit Architecture). Pure: looks at the
 * bytes, changes nothing. */
#ifndef FLEX_TOS_CORE_ELF_HPP
#define FLEX_TOS_CORE_ELF_HPP

#include "core/areas.hpp"
#include "core/types.hpp"

namespace flex::tos {

struct ElfProgram {
    static constexpr u32 kSegmentsMax = 8;

    struct Segment {
        u64 begin = 0;      /* first byte, not page-aligned */
        u64 file_end = 0;   /* behind the last byte that comes from the file */
        u64 memory_end = 0; /* behind the last byte */
        u64 file_offset = 0;
        u8 protection = 0;
    };

    Segment segments[kSegmentsMax];
    u32 segment_count = 0;
    u64 entry = 0;
    u64 headers = 0; /* address of the program headers in the program (AT_PHDR) */
    u16 header_count = 0;
    u64 break_start = 0; /* page behind the last segment */
};

/*
 * Accepts only what the kernel can run: ET_EXEC for AArch64, loadable segments ascending, apart by pages,
 * within the file and the program's addresses, congruent modulo the page size, none writable and executable,
 * entry in an executable one, no interpreter.
 */
[[nodiscard]] Result<ElfProgram> parse_elf(Bytes file);

} // namespace flex::tos

#endif
