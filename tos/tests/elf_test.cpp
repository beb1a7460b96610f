/* The loader's checks: a good file, then every way to spoil it. */
#include "core/elf.hpp"

#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <vector>

using namespace flex::tos;

namespace {

struct Header {
    u8 ident[16];
    u16 type, machine;
    u32 version;
    u64 entry, program_offset, section_offset;
    u32 flags;
    u16 header_bytes, program_entry_bytes, program_count, section_entry_bytes, section_count, name_index;
};
struct Segment {
    u32 type, flags;
    u64 offset, address, physical, file_bytes, memory_bytes, alignment;
};

struct File {
    Header header = {{0x7f, 'E', 'L', 'F', 2, 1, 1}, 2, 183, 1, 0x400100, 64, 0, 0, 64, 56, 2, 0, 0, 0};
    Segment text = {1, 5, 0, 0x400000, 0, 0x1800, 0x1800, 0x10000};
    Segment data = {1, 6, 0x1800, 0x411800, 0, 0x200, 0x5000, 0x10000};
    u8 content[0x1a00 - 64 - 2 * 56] = {};
};
static_assert(sizeof(File) == 0x1a00);

Result<ElfProgram> parse(const File& file, u64 size = sizeof(File)) {
    return parse_elf({reinterpret_cast<const u8*>(&file), size});
}

} // namespace

TEST(Elf, reads_segments_entry_and_headers_of_a_static_program) {
    const Result<ElfProgram> program = parse(File{});
    ASSERT_TRUE(program.ok());
    EXPECT_EQ(program.value.segment_count, 2u);
    EXPECT_EQ(program.value.entry, 0x400100u);
    EXPECT_EQ(program.value.headers, 0x400040u);
    EXPECT_EQ(program.value.segments[1].file_end, 0x411a00u);
    EXPECT_EQ(program.value.segments[1].memory_end, 0x416800u);
    EXPECT_EQ(program.value.segments[1].protection, kProtectRead | kProtectWrite);
    EXPECT_EQ(program.value.break_start, 0x417000u);
}

TEST(Elf, refuses_what_the_kernel_cannot_run_or_must_not) {
    const std::pair<const char*, std::function<void(File&)>> spoilers[] = {
        {"not an ELF", [](File& f) { f.header.ident[1] = 'X'; }},
        {"32 bit", [](File& f) { f.header.ident[4] = 1; }},
        {"big-endian", [](File& f) { f.header.ident[5] = 2; }},
        {"position-independent", [](File& f) { f.header.type = 3; }},
        {"another machine", [](File& f) { f.header.machine = 62; }},
        {"headers outside the file", [](File& f) { f.header.program_offset = sizeof(File) - 8; }},
        {"header offset that wraps", [](File& f) { f.header.program_offset = ~u64{0} - 40; }},
        {"no segments", [](File& f) { f.header.program_count = 0; }},
        {"absurd number of headers", [](File& f) { f.header.program_count = 65535; }},
        {"an interpreter", [](File& f) { f.data.type = 3; }},
        {"segment outside the file", [](File& f) { f.data.file_bytes = f.data.memory_bytes = 0x10000; }},
        {"file offset that wraps", [](File& f) { f.data.offset = ~u64{0} - 0x7ff; }},
        {"more in the file than in memory", [](File& f) { f.data.memory_bytes = 0x100; }},
        {"memory that wraps", [](File& f) { f.data.memory_bytes = ~u64{0} - 0x1000; }},
        {"address in the kernel's half", [](File& f) { f.data.address = 0xffffff800e101800; }},
        {"address zero", [](File& f) { f.text.address = 0; }},
        {"in the mmap region", [](File& f) { f.data.address = kAnonymousBase + 0x1800; }},
        {"overlapping segments", [](File& f) { f.data.address = 0x400800; }},
        {"sharing a page", [](File& f) { f.data.address = 0x401800; }},
        {"not congruent", [](File& f) { f.data.address += 8; }},
        {"writable and executable", [](File& f) { f.data.flags = 7; }},
        {"read-only with zeroes behind", [](File& f) { f.data.flags = 4; }},
        {"entry outside", [](File& f) { f.header.entry = 0x500000; }},
        {"entry in data", [](File& f) { f.header.entry = 0x411900; }},
    };
    for (const auto& [what, spoil] : spoilers) {
        File file;
        spoil(file);
        EXPECT_FALSE(parse(file).ok()) << what;
    }
}

TEST(Elf, every_truncation_is_refused_without_reading_beyond) {
    const File file;
    for (u64 size = 0; size < sizeof file; size += size < 256 ? 1 : 97) {
        std::vector<u8> copy(size); /* the sanitizers see a read behind its end */
        std::memcpy(copy.data(), &file, size);
        EXPECT_FALSE(parse_elf({copy.data(), size}).ok()) << size;
    }
}

TEST(Elf, whatever_it_accepts_keeps_the_loaders_rules) {
    std::mt19937_64 random(3);
    int accepted = 0;
    for (int round = 0; round < 200000; round++) {
        File file;
        u8* bytes = reinterpret_cast<u8*>(&file);
        for (u64 i = random() % 3; i < 3; i++)
            bytes[16 + random() % 160] = static_cast<u8>(random() % 4 == 0 ? random() : random() % 8);
        const Result<ElfProgram> program = parse(file);
        if (!program.ok()) continue;
        accepted++;
        u64 lowest = kUserLow;
        for (u32 i = 0; i < program.value.segment_count; i++) {
            const ElfProgram::Segment& s = program.value.segments[i];
            ASSERT_GE(align_down(s.begin, kPageBytes), lowest);
            ASSERT_LE(s.begin, s.file_end);
            ASSERT_LE(s.file_end, s.memory_end);
            ASSERT_LE(s.memory_end, kAnonymousBase);
            ASSERT_LE(s.file_offset + (s.file_end - s.begin), sizeof file);
            ASSERT_TRUE(protection_allowed(s.protection));
            lowest = align_up(s.memory_end, kPageBytes);
        }
    }
    EXPECT_GT(accepted, 1000);
}
