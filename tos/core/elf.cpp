#include "core/elf.hpp"

#include "core/memory.hpp"

namespace flex::tos {

namespace {

struct FileHeader {
    u8 ident[16];
    u16 type, machine;
    u32 version;
    u64 entry, program_offset, section_offset;
    u32 flags;
    u16 header_bytes, program_entry_bytes, program_count, section_entry_bytes, section_count, name_index;
};
static_assert(sizeof(FileHeader) == 64, "Elf64_Ehdr");

struct ProgramHeader {
    u32 type, flags;
    u64 offset, address, physical, file_bytes, memory_bytes, alignment;
};
static_assert(sizeof(ProgramHeader) == 56, "Elf64_Phdr");

constexpr u16 kTypeExecutable = 2, kMachineAarch64 = 183;
constexpr u32 kLoad = 1, kInterpreter = 3, kTypeProgramHeaders = 6;
constexpr u32 kFlagExecute = 1, kFlagWrite = 2, kFlagRead = 4;
constexpr u64 kHeadersMax = 64;

bool good_header(const FileHeader& header, u64 size) {
    const u8 ident[7] = {0x7f, 'E', 'L', 'F', 2 /* 64 bit */, 1 /* little-endian */, 1};
    return same_bytes(header.ident, ident, sizeof ident) && header.type == kTypeExecutable &&
           header.machine == kMachineAarch64 && header.program_entry_bytes == sizeof(ProgramHeader) &&
           header.program_count > 0 && header.program_count <= kHeadersMax && header.program_offset <= size &&
           header.program_count * sizeof(ProgramHeader) <= size - header.program_offset;
}

Result<ElfProgram::Segment> parse_segment(const ProgramHeader& header, u64 size, u64 lowest) {
    if (header.memory_bytes == 0 || header.file_bytes > header.memory_bytes) return kEinval;
    if (header.offset > size || header.file_bytes > size - header.offset) return kEinval;
    if (!user_bytes(header.address, header.memory_bytes) ||
        header.address + header.memory_bytes > kAnonymousBase) {
        return kEinval;
    }
    if (align_down(header.address, kPageBytes) < lowest) return kEinval;
    if (!is_aligned(header.address - header.offset, kPageBytes)) return kEinval;
    ElfProgram::Segment segment;
    segment.begin = header.address;
    segment.file_end = header.address + header.file_bytes;
    segment.memory_end = header.address + header.memory_bytes;
    segment.file_offset = header.offset;
    if (header.flags & kFlagRead) segment.protection |= kProtectRead;
    if (header.flags & kFlagWrite) segment.protection |= kProtectWrite;
    if (header.flags & kFlagExecute) segment.protection |= kProtectExecute;
    if (!protection_allowed(segment.protection)) return kEacces;
    /* A segment that is kept in place cannot have zeroes behind its file content. */
    if (!(segment.protection & kProtectWrite) && header.file_bytes != header.memory_bytes) return kEinval;
    return segment;
}

} // namespace

Result<ElfProgram> parse_elf(Bytes file) {
    FileHeader header;
    if (file.size < sizeof header) return kEinval;
    copy_bytes(&header, file.data, sizeof header);
    if (!good_header(header, file.size)) return kEinval;

    ElfProgram program;
    u64 lowest = kUserLow;
    bool entry_good = false;
    for (u16 i = 0; i < header.program_count; i++) {
        ProgramHeader entry;
        copy_bytes(&entry, file.data + header.program_offset + i * sizeof entry, sizeof entry);
        if (entry.type == kInterpreter) return kEinval;
        if (entry.type == kTypeProgramHeaders) program.headers = entry.address;
        if (entry.type != kLoad) continue;
        if (program.segment_count == ElfProgram::kSegmentsMax) return kEinval;
        const Result<ElfProgram::Segment> segment = parse_segment(entry, file.size, lowest);
        if (!segment.ok()) return segment.error;
        const ElfProgram::Segment& s = segment.value;
        program.segments[program.segment_count++] = s;
        lowest = align_up(s.memory_end, kPageBytes);
        if ((s.protection & kProtectExecute) && header.entry >= s.begin && header.entry < s.file_end)
            entry_good = true;
        if (program.headers == 0 && header.program_offset >= s.file_offset &&
            header.program_offset - s.file_offset < s.file_end - s.begin) {
            program.headers = s.begin + (header.program_offset - s.file_offset);
        }
    }
    if (!entry_good) return kEinval;
    program.entry = header.entry;
    program.header_count = header.program_count;
    program.break_start = lowest;
    return program;
}

} // namespace flex::tos
