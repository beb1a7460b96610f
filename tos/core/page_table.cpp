#include "core/page_table.hpp"

namespace flex::tos {

namespace {
constexpr u64 kValid = 1;
constexpr u64 kTable = 3; /* levels 1 and 2 */
constexpr u64 kBlock = 1; /* level 2 */
constexpr u64 kPage = 3;  /* level 3 */
constexpr u64 kEntries = 512;
constexpr u64 kGigabyte = u64{1} << 30;

constexpr u64 index1(u64 va) { return (va >> 30) & (kEntries - 1); }
constexpr u64 index2(u64 va) { return (va >> 21) & (kEntries - 1); }
constexpr u64 index3(u64 va) { return (va >> 12) & (kEntries - 1); }
constexpr bool is_table(u64 entry) { return (entry & 3) == kTable; }
constexpr bool is_block(u64 entry) { return (entry & 3) == kBlock; }
constexpr u64 address_of(u64 entry) { return entry & leaf::kAddressMask; }

/* The table walker of another core may read an entry at any moment: it is written in one piece. */
void write_entry(u64* entry, u64 value) { __atomic_store_n(entry, value, __ATOMIC_RELEASE); }
} // namespace

u64 leaf::user(u8 protection, bool non_secure) {
    constexpr u8 kWrite = 2, kExecute = 4;
    u64 bits = kNormal | kNotGlobal | kKernelNoExecute;
    if (protection != 0) bits |= kUser; /* PROT_NONE keeps the content, out of reach */
    if (!(protection & kWrite)) bits |= kReadOnly;
    if (!(protection & kExecute)) bits |= kUserNoExecute;
    if (non_secure) bits |= kNonSecure;
    return bits;
}

void TablePool::reset(u64 physical, u64 bytes, u64 offset) {
    next_ = align_up(physical, kPageBytes);
    end_ = align_down(physical + bytes, kPageBytes);
    offset_ = offset;
    available_ = (end_ - next_) / kPageBytes;
    free_ = 0;
}

u64 TablePool::allocate() {
    if (available_ == 0) return 0;
    available_--;
    u64 frame = free_;
    if (frame != 0) {
        free_ = *at(frame);
    } else {
        frame = next_;
        next_ += kPageBytes;
    }
    u64* words = at(frame);
    for (u64 i = 0; i < kEntries; i++) words[i] = 0;
    return frame;
}

void TablePool::free(u64 physical) {
    *at(physical) = free_;
    free_ = physical;
    available_++;
}

bool PageTable::create(TablePool& pool) {
    pool_ = &pool;
    root_ = pool.allocate();
    return root_ != 0;
}

u64* PageTable::entry2(u64 va, bool make) {
    u64* entry = &pool_->at(root_)[index1(va)];
    if (!is_table(*entry)) {
        const u64 table = make ? pool_->allocate() : 0;
        if (table == 0) return nullptr;
        tlb::publish(); /* the zeroes of the table before the entry that leads to it */
        write_entry(entry, table | kTable);
    }
    return &pool_->at(address_of(*entry))[index2(va)];
}

u64* PageTable::entry3(u64 va, bool make) {
    u64* entry = entry2(va, make);
    if (entry == nullptr) return nullptr;
    if (!is_table(*entry)) {
        const u64 table = make ? pool_->allocate() : 0;
        if (table == 0) return nullptr;
        tlb::publish();
        write_entry(entry, table | kTable);
    }
    return &pool_->at(address_of(*entry))[index3(va)];
}

bool PageTable::map(u64 va, u64 physical, u64 bytes, u64 attributes) {
    for (u64 done = 0; done < bytes;) {
        const u64 at = va + done;
        if (is_aligned(at | (physical + done), kBlockBytes) && bytes - done >= kBlockBytes) {
            u64* entry = entry2(at, true);
            /* An empty table left from earlier pages is kept; walkers may have cached it. */
            if (entry != nullptr && !is_table(*entry)) {
                write_entry(entry, (physical + done) | attributes | kBlock);
                done += kBlockBytes;
                continue;
            }
        }
        u64* entry = entry3(at, true);
        if (entry == nullptr) {
            bool stuck = false;
            while (take(va, va + done, stuck).bytes != 0) {
            }
            tlb::invalidate(va, done);
            return false;
        }
        write_entry(entry, (physical + done) | attributes | kPage);
        done += kPageBytes;
    }
    tlb::publish();
    return true;
}

PageTable::Leaf PageTable::first(u64 va, u64 end, u64** found) const {
    while (va < end) {
        const u64 entry1 = pool_->at(root_)[index1(va)];
        if (!is_table(entry1)) {
            va = align_down(va, kGigabyte) + kGigabyte;
            continue;
        }
        u64* entry = &pool_->at(address_of(entry1))[index2(va)];
        if (is_block(*entry)) {
            *found = entry;
            return {align_down(va, kBlockBytes), address_of(*entry), kBlockBytes,
                    *entry & leaf::kAttributeMask};
        }
        if (!is_table(*entry)) {
            va = align_down(va, kBlockBytes) + kBlockBytes;
            continue;
        }
        entry = &pool_->at(address_of(*entry))[index3(va)];
        if ((*entry & kValid) != 0) {
            *found = entry;
            return {align_down(va, kPageBytes), address_of(*entry), kPageBytes,
                    *entry & leaf::kAttributeMask};
        }
        va = align_down(va, kPageBytes) + kPageBytes;
    }
    return {};
}

PageTable::Leaf PageTable::lookup(u64 va) const {
    u64* entry = nullptr;
    return first(va, va + 1, &entry);
}

PageTable::Leaf PageTable::find_physical(u64 page) const {
    const u64* entries1 = pool_->at(root_);
    for (u64 i = 0; i < kEntries; i++) {
        if (!is_table(entries1[i])) continue;
        const u64* entries2 = pool_->at(address_of(entries1[i]));
        for (u64 k = 0; k < kEntries; k++) {
            const u64 va = i * kGigabyte + k * kBlockBytes, entry = entries2[k];
            if (is_block(entry) && page - address_of(entry) < kBlockBytes)
                return {va, address_of(entry), kBlockBytes, entry & leaf::kAttributeMask};
            if (!is_table(entry)) continue;
            const u64* entries3 = pool_->at(address_of(entry));
            for (u64 j = 0; j < kEntries; j++) {
                if ((entries3[j] & kValid) != 0 && address_of(entries3[j]) == page)
                    return {va + j * kPageBytes, page, kPageBytes, entries3[j] & leaf::kAttributeMask};
            }
        }
    }
    return {};
}

void PageTable::pin(u64 va, u64 end) {
    u64* entry = nullptr;
    for (Leaf leaf = first(va, end, &entry); leaf.bytes != 0; leaf = first(leaf.va + leaf.bytes, end, &entry))
        write_entry(entry, *entry | leaf::kPinned);
}

/* Break before make (Arm ARM D8.16): a thread that runs into the gap faults and finds the entry on its retry.
 */
bool PageTable::split(u64 va, u64* block) {
    const u64 table = pool_->allocate();
    if (table == 0) return false;
    const u64 old = *block;
    u64* entries = pool_->at(table);
    for (u64 i = 0; i < kEntries; i++) {
        entries[i] = (address_of(old) + i * kPageBytes) | (old & leaf::kAttributeMask) | kPage;
    }
    write_entry(block, 0);
    tlb::invalidate_block(va);
    write_entry(block, table | kTable);
    tlb::publish();
    return true;
}

PageTable::Leaf PageTable::take(u64 va, u64 end, bool& stuck) {
    u64* entry = nullptr;
    Leaf leaf = first(va, end, &entry);
    if (leaf.bytes == kBlockBytes && (leaf.va < va || leaf.va + leaf.bytes > end)) {
        if (!split(leaf.va, entry)) {
            stuck = true;
            return {};
        }
        leaf = first(va, end, &entry);
    }
    if (leaf.bytes != 0) write_entry(entry, 0);
    return leaf;
}

bool PageTable::protect(u64 va, u64 end, u64 attributes) {
    bool good = true, changed = false;
    for (u64 at = va; at < end;) {
        u64* entry = nullptr;
        Leaf leaf = first(at, end, &entry);
        if (leaf.bytes == 0) break;
        if (leaf.bytes == kBlockBytes && (leaf.va < at || leaf.va + leaf.bytes > end)) {
            if (!split(leaf.va, entry)) {
                good = false;
                break;
            }
            continue;
        }
        /* Only permissions change, so no break is needed (D8.16.1). Which world a frame is in never changes.
         */
        constexpr u64 kKept = leaf::kNonSecure | leaf::kPinned;
        const u64 bits = (attributes & ~kKept) | (leaf.attributes & kKept);
        write_entry(entry, leaf.physical | bits | (leaf.bytes == kBlockBytes ? kBlock : kPage));
        changed = true;
        at = leaf.va + leaf.bytes;
    }
    if (changed) tlb::invalidate(va, end - va);
    return good;
}

void PageTable::prune(u64 va, u64 end) {
    for (u64 at = align_down(va, kBlockBytes); at < end; at += kBlockBytes) {
        u64* entry = entry2(at, false);
        if (entry == nullptr) {
            at = align_down(at, kGigabyte) + kGigabyte - kBlockBytes;
            continue;
        }
        if (!is_table(*entry)) continue;
        const u64 table = address_of(*entry);
        const u64* entries = pool_->at(table);
        bool used = false;
        for (u64 i = 0; i < kEntries && !used; i++) used = (entries[i] & kValid) != 0;
        if (used) continue;
        write_entry(entry, 0);
        tlb::invalidate_block(at);
        pool_->free(table);
    }
}

} // namespace flex::tos
