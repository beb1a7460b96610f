/*
 * Stage 1 translation tables of VMSAv8-64 with a 4 KiB granule and 39-bit addresses (Arm ARM D8.2): level 1
 * is the root (1 GiB an entry, tables only), level 2 holds 2 MiB blocks or tables, level 3 holds 4 KiB pages.
 * One walker for the kernel's tree (TTBR1) and the program's (TTBR0).
 *
 * Not thread-safe: the kernel's lock is held. Addresses are those within the 39 bits of either half.
 */
#ifndef FLEX_TOS_CORE_PAGE_TABLE_HPP
#define FLEX_TOS_CORE_PAGE_TABLE_HPP

#include "core/types.hpp"

namespace flex::tos {

/* Lower and upper attributes of a leaf (Arm ARM D8.3.2). */
namespace leaf {
constexpr u64 kAttributeDevice = u64{0} << 2; /* index into MAIR, see arch/registers.hpp */
constexpr u64 kAttributeNormal = u64{1} << 2;
constexpr u64 kAttributeRegisters = u64{2} << 2; /* device memory whose writes may be acknowledged early */
constexpr u64 kNonSecure = u64{1} << 5;
constexpr u64 kUser = u64{1} << 6;
constexpr u64 kReadOnly = u64{1} << 7;
constexpr u64 kInnerShareable = u64{3} << 8;
constexpr u64 kAccessed = u64{1} << 10;
constexpr u64 kNotGlobal = u64{1} << 11;
constexpr u64 kKernelNoExecute = u64{1} << 53;
constexpr u64 kUserNoExecute = u64{1} << 54;
constexpr u64 kPinned = u64{1} << 55; /* ours (D8.3.2: ignored by hardware): a device was told the address */
constexpr u64 kAddressMask = 0x0000fffffffff000;
constexpr u64 kAttributeMask = ~kAddressMask & ~u64{3};

constexpr u64 kNormal = kAttributeNormal | kInnerShareable | kAccessed;
constexpr u64 kDevice = kAttributeDevice | kAccessed | kKernelNoExecute | kUserNoExecute;
constexpr u64 kUserRegisters = kAttributeRegisters | kNonSecure | kUser | kAccessed | kNotGlobal |
                               kKernelNoExecute | kUserNoExecute;
constexpr u64 kKernelText = kNormal | kReadOnly | kUserNoExecute;
constexpr u64 kKernelRead = kNormal | kReadOnly | kKernelNoExecute | kUserNoExecute;
constexpr u64 kKernelData = kNormal | kKernelNoExecute | kUserNoExecute;
/* protection: PROT_* bits; W^X is checked before. */
u64 user(u8 protection, bool non_secure);
} // namespace leaf

/* What the walker asks of the machine; the tests count the calls. */
namespace tlb {
/* Every core forgets [va, va + bytes) and what it cached of the tables above; complete on return. */
void invalidate(u64 va, u64 bytes);
/* The same for one level 2 entry: a block, or a table without valid entries. */
void invalidate_block(u64 va);
/* New entries are visible to the walkers of all cores. */
void publish();
} // namespace tlb

/*
 * 4 KiB frames for tables, taken from one piece of memory that only the kernel reaches.
 * `offset` is what turns a physical address into a pointer; it changes once, when the MMU goes on.
 */
class TablePool {
public:
    void reset(u64 physical, u64 bytes, u64 offset);
    void set_offset(u64 offset) { offset_ = offset; }

    [[nodiscard]] u64 allocate(); /* a zeroed frame's physical address, 0 when there is none */
    void free(u64 physical);
    [[nodiscard]] u64* at(u64 physical) const { return reinterpret_cast<u64*>(physical + offset_); }
    [[nodiscard]] u64 available() const { return available_; }

private:
    u64 next_ = 0, end_ = 0, offset_ = 0, available_ = 0;
    u64 free_ = 0; /* list through the first word of each frame */
};

class PageTable {
public:
    struct Leaf {
        u64 va = 0;
        u64 physical = 0;
        u64 bytes = 0; /* 4 KiB or 2 MiB; 0: nothing there */
        u64 attributes = 0;
    };

    [[nodiscard]] bool create(TablePool& pool);
    [[nodiscard]] u64 root() const { return root_; }
    /* The kernel's tree is built before the MMU is on, when the pool has another address. */
    void rebind(TablePool& pool) { pool_ = &pool; }

    /*
     * Maps [va, va + bytes) to [physical, ...), with blocks where both are aligned. All or nothing; false
     * when tables run out. Nothing may be mapped there.
     */
    [[nodiscard]] bool map(u64 va, u64 physical, u64 bytes, u64 attributes);
    [[nodiscard]] Leaf lookup(u64 va) const;
    /* The leaf that leads to a physical page; bytes == 0 when there is none. Reads all tables: some 10 us a GiB in blocks, 1 ms in pages. */
    [[nodiscard]] Leaf find_physical(u64 page) const;
    /* Marks what is mapped in [va, end) as known to a device. */
    void pin(u64 va, u64 end);
    /*
     * Clears the first leaf in [va, end) and returns it; bytes == 0 when there is none. A block that sticks
     * out is split first; when no table is left for that, it is `stuck`. The caller invalidates before he
     * uses the frames.
     */
    [[nodiscard]] Leaf take(u64 va, u64 end, bool& stuck);
    /* Changes the attributes of what is mapped in [va, end); invalidates. False when a split finds no table.
     */
    [[nodiscard]] bool protect(u64 va, u64 end, u64 attributes);
    /* Frees level 3 tables in [va, end) that are empty. */
    void prune(u64 va, u64 end);

private:
    [[nodiscard]] u64* entry2(u64 va, bool make);
    [[nodiscard]] u64* entry3(u64 va, bool make);
    [[nodiscard]] bool split(u64 va, u64* block);
    [[nodiscard]] Leaf first(u64 va, u64 end, u64** entry) const;

    TablePool* pool_ = nullptr;
    u64 root_ = 0;
};

} // namespace flex::tos

#endif
