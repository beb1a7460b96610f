/*
 * The areas of the program's address space: what may be there, not what is mapped at the moment.
 *
 * Invariants: areas are sorted, never overlap, begin and end on pages, lie within [kUserLow, kUserHigh); none
 * is both writable and executable. Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_AREAS_HPP
#define FLEX_TOS_CORE_AREAS_HPP

#include "core/types.hpp"

namespace flex::tos {

/* Linux PROT_* bits. */
constexpr u8 kProtectRead = 1, kProtectWrite = 2, kProtectExecute = 4;

constexpr u64 kUserLow = 0x10000;              /* null pointers fault */
constexpr u64 kUserHigh = 0x7f'ffff'f000;      /* the last page of the 39 bits stays empty */
constexpr u64 kAnonymousBase = 0x10'0000'0000; /* mmap */
constexpr u64 kFlexBase = 0x20'0000'0000;      /* FLEX_SYS_MEM_ALLOC, FLEX_SYS_MEM_LOAD */
constexpr u64 kStackTop = 0x7f'fff0'0000;
constexpr u64 kStackBytes = u64{8} << 20;

enum class Backing : u8 {
    Zero,         /* a zeroed frame from the pool on first touch */
    ImageInPlace, /* the frames of the embedded ELF themselves: read-only or executable */
    ImageCopy,    /* a copy of the ELF's page on first touch */
    Flex,         /* mapped by whoever made the area; never on demand */
    Registers,    /* the NPU's; the kernel never reads or writes there for the program */
    Dying,        /* being taken apart by a thread: nobody else may touch or reuse it */
};

struct Area {
    u64 begin = 0, end = 0;
    u8 protection = 0;
    Backing backing = Backing::Zero;
    u64 image_offset = 0; /* of `begin` in the ELF */
    u64 image_end = 0;    /* first address without content of the ELF: zero from there */
};

class Areas {
public:
    static constexpr u32 kMax = 1024;

    void clear() { count_ = 0; }
    [[nodiscard]] u32 count() const { return count_; }
    [[nodiscard]] const Area& operator[](u32 i) const { return areas_[i]; }
    [[nodiscard]] const Area* find(u64 address) const;
    /* Every byte of [begin, end) lies in some area. */
    [[nodiscard]] bool covered(u64 begin, u64 end) const;
    [[nodiscard]] bool any(u64 begin, u64 end, Backing backing) const;

    /* Lowest free place in [low, high). */
    [[nodiscard]] Result<u64> place(u64 bytes, u64 alignment, u64 low, u64 high) const;
    /* kEexist when it overlaps, kEnomem when there are too many areas. Merges with equal neighbours. */
    [[nodiscard]] Error insert(const Area& area);
    /* Removes what lies in [begin, end). kEnomem: nothing was done. */
    [[nodiscard]] Error remove(u64 begin, u64 end);
    [[nodiscard]] Error protect(u64 begin, u64 end, u8 protection);
    [[nodiscard]] Error set_backing(u64 begin, u64 end, Backing backing);

private:
    [[nodiscard]] u32 lower(u64 address) const; /* index of the first area that ends behind `address` */
    [[nodiscard]] Error isolate(u64 begin, u64 end);
    void merge(u64 begin, u64 end);
    void erase(u32 i);

    Area areas_[kMax];
    u32 count_ = 0;
};

/* A page-aligned range from untrusted words: no wrap, not empty, within the program's half. */
[[nodiscard]] bool user_pages(u64 address, u64 bytes, u64& end);
/* Any bytes within the program's half; empty is fine. */
[[nodiscard]] bool user_bytes(u64 address, u64 bytes);
[[nodiscard]] bool protection_allowed(u64 protection);

} // namespace flex::tos

#endif
