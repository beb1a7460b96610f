#pragma once

#include "table_pool.hpp"

namespace flex::monitor {

// VMSAv8-64 descriptors, 4 KiB granule, 39-bit input addresses: walks start at level 1 (Arm ARM D8.3). The
// CPU's stage 2, the SMMU's stage 2 (SMMUv3 5.2, same format) and the monitor's own stage 1 differ in their
// attribute bits only.
namespace descriptor {
constexpr u64 kValid = bit(0);
constexpr u64 kTableOrPage = bit(1); // at levels 1 and 2 a table, at level 3 a page
constexpr u64 kAddress = bits(47, 12, ~u64{0});
constexpr u64 kAccessed = bit(10);
constexpr u64 kInnerShareable = bits(9, 8, 3);

constexpr bool valid(u64 d) { return (d & kValid) != 0; }
constexpr bool table(u64 d, unsigned level) {
    return level < 3 && (d & (kValid | kTableOrPage)) == (kValid | kTableOrPage);
}
constexpr u64 leaf(u64 address, unsigned level, u64 attributes) {
    return address | attributes | kValid | (level == 3 ? kTableOrPage : 0);
}
} // namespace descriptor

// Stage 2 attributes (Arm ARM D8.3.1.2, stage 2): MemAttr[5:2], S2AP[7:6], XN[54:53].
namespace stage2 {
constexpr u64 kReadWrite = bits(7, 6, 3);
constexpr u64 kReadOnly = bits(7, 6, 1);
constexpr u64 kMemory = bits(5, 2, 0xf) | kReadWrite | descriptor::kInnerShareable | descriptor::kAccessed;
// Device-GRE: the stricter of this and Linux's own stage 1 attribute holds.
constexpr u64 kDevice = bits(5, 2, 0x3) | kReadWrite | descriptor::kAccessed | bit(54);
constexpr u64 kDeviceReadOnly = bits(5, 2, 0x3) | kReadOnly | descriptor::kAccessed | bit(54);

// What a tree says of memory and of devices.
struct Attributes {
    u64 memory = 0, device = 0, device_read_only = 0;
};
constexpr Attributes kCombined{kMemory, kDevice, kDeviceReadOnly};
// MemAttr as HCR_EL2.FWB and STE.S2FWB read it (FEAT_S2FWB, Arm ARM D8.6.6): memory is write-back and devices are
// nGnRE, whatever stage 1 or the device says.
constexpr u64 with_type(u64 attributes, u64 type) { return (attributes & ~bits(5, 2, 0xf)) | bits(5, 2, type); }
constexpr Attributes kForced{with_type(kMemory, 0x6), with_type(kDevice, 0x1), with_type(kDeviceReadOnly, 0x1)};

// Does every access of the normal world go through the caches, so that these and memory never hold two versions of a
// frame? Cores must be able to force write-back, and devices' accesses must be forced too, or be coherent whatever
// their type.
constexpr bool no_access_passes_caches(bool cores_force, bool smmu_forces, bool devices_always_coherent) {
    return cores_force && (smmu_forces || devices_always_coherent);
}
} // namespace stage2

constexpr unsigned kInputBits = 39;
constexpr u64 level_bytes(unsigned level) { return u64{1} << (12 + 9 * (3 - level)); }
static_assert(level_bytes(1) == kGiB && level_bytes(2) == 2 * kMiB && level_bytes(3) == kFrameSize);

// Input addresses whose translations have to be forgotten. Cores are told of a few leaves by address and of more by "everything": each
// address is a broadcast, and whatever they hold of both stages combined goes in any case (core_forget_combined). Devices are told of
// ranges: everything of one tree is more than it seems, since QEMU's SMMU then has all devices ask for all their translations anew.
class TlbBatch final {
public:
    static constexpr unsigned kMost = 64; // ranges
    static constexpr unsigned kMostForCores = 4;
    struct Range {
        u64 address = 0, bytes = 0;
    };
    // A leaf, or the part of it that changes.
    void add(u64 address, u64 bytes) {
        if (leaves_ < kMostForCores) first_[leaves_] = address;
        leaves_++;
        if (all_) return;
        if (count_ != 0 && ranges_[count_ - 1].address + ranges_[count_ - 1].bytes == address) {
            ranges_[count_ - 1].bytes += bytes;
        } else if (count_ == kMost) {
            all_ = true;
        } else {
            ranges_[count_++] = {address, bytes};
        }
    }
    // A table and all below it.
    void add_table(u64 address, u64 bytes) {
        add(address, bytes);
        leaves_ += kMostForCores;
    }
    void add_everything() { all_ = true; }
    void clear() { count_ = 0, leaves_ = 0, all_ = false; }
    [[nodiscard]] bool empty() const { return count_ == 0 && !all_; }
    [[nodiscard]] bool everything() const { return all_; }
    [[nodiscard]] bool everything_for_cores() const { return all_ || leaves_ > kMostForCores; }
    [[nodiscard]] u64 leaves() const { return leaves_; }
    [[nodiscard]] u64 leaf(unsigned i) const { return first_[i]; } // i < leaves(), not everything_for_cores()
    [[nodiscard]] const Range* begin() const { return ranges_; }
    [[nodiscard]] const Range* end() const { return ranges_ + count_; }

private:
    Range ranges_[kMost];
    u64 first_[kMostForCores] = {};
    unsigned count_ = 0;
    u64 leaves_ = 0;
    bool all_ = false;
};

// Who walks a tree and so has to be told of a change.
struct TreeUsers {
    bool cores = false;
    bool devices = false;
    u16 vmid = 0;
};

// One translation tree. A Machine offers
//   u64 load(const u64* slot); void store(u64* slot, u64 value)     a table entry, visible to hardware
//   walkers in program order bool replaces_directly()                                        FEAT_BBM level 2
//   in cores and SMMU: no break-before-make
//   void core_forget(u64 address)    TLBI by IPA: of stage 2 alone; after all of them core_forget_combined()
//   void core_forget_all()           TLBI by VMID: of both stages
//   void core_wait()                 DSB and all it takes
//   void device_forget(vmid, address, bytes), device_forget_all(vmid), device_wait()
//
// Changes are made in three steps: prepare() may fail and changes no translation; map()/unmap() cannot fail;
// sync() makes cores and devices forget the old state. Until sync() returns, a user may still see what was.
//
// Invariant: no table is full of equal, contiguous leaves (it would be one larger leaf) and no table is
// empty, outside a change. Not thread-safe: the monitor's lock protects it.
template <class Machine> class PageTree final {
public:
    struct Leaf {
        u64 descriptor = 0;
        unsigned level = 0; // 0: nothing is mapped
    };

    PageTree() = default;
    PageTree(const PageTree&) = delete;
    PageTree& operator=(const PageTree&) = delete;

    // False: no frame for the root.
    [[nodiscard]] bool init(Machine& machine, TablePool& pool, TreeUsers users) {
        machine_ = &machine;
        pool_ = &pool;
        users_ = users;
        root_ = pool.take();
        return root_ != nullptr;
    }

    [[nodiscard]] const u64* root() const { return root_; }

    [[nodiscard]] Leaf find(u64 address) const {
        if (address >> kInputBits != 0) return {};
        const u64* table = root_;
        for (unsigned level = 1;; level++) {
            const u64 d = machine_->load(&table[index(address, level)]);
            if (!descriptor::valid(d)) return {};
            if (!descriptor::table(d, level)) return {d, level};
            table = next(d);
        }
    }

    // Makes the entry that covers `address` at `level` (1..3) exist, by splitting blocks and adding tables.
    // Afterwards map() and unmap() of it cannot fail. False: the pool is used up; what was split stays split
    // until tidy().
    [[nodiscard]] bool prepare(u64 address, unsigned level) {
        u64* table = root_;
        for (unsigned l = 1; l < level; l++) {
            u64* slot = &table[index(address, l)];
            const u64 d = machine_->load(slot);
            if (!descriptor::table(d, l)) {
                u64* added = pool_->take();
                if (added == nullptr) return false;
                if (descriptor::valid(d)) {
                    split(slot, d, l, round_down(address, level_bytes(l)), added);
                    pool_->use(table).leaves--;
                } else {
                    machine_->store(slot, reinterpret_cast<u64>(added) | kTable);
                }
                pool_->use(table).tables++;
                table = added;
            } else {
                table = next(d);
            }
        }
        return true;
    }

    // `count` entries one behind the other in one table, the first of which has been prepared. None is in use.
    void map(u64 address, unsigned level, u64 attributes, u64 count = 1) {
        set(address, level, count, descriptor::leaf(address, level, attributes));
    }

    void unmap(u64 address, unsigned level, u64 count = 1) { set(address, level, count, 0); }

    // Restores the invariant along the path to `address`: full tables become blocks, empty ones go.
    void tidy(u64 address) {
        u64* path[4] = {nullptr, root_, nullptr, nullptr};
        unsigned level = 1;
        for (; level < 3; level++) {
            const u64 d = machine_->load(&path[level][index(address, level)]);
            if (!descriptor::table(d, level)) break;
            path[level + 1] = next(d);
        }
        for (; level > 1; level--) {
            if (!absorb(path[level - 1], path[level], level, address)) break;
        }
    }

    // Cores and devices forget what was unmapped, split or merged since the last sync. Tables retired by this
    // tree may be freed after.
    void sync() {
        if (batch_.empty()) return;
        if (users_.cores) forget_in_cores();
        if (users_.devices) forget_in_devices();
        batch_.clear();
    }

    // Identity-maps [base, base + bytes), both frame-aligned, with the largest leaves. False: out of tables
    // or out of input range.
    [[nodiscard]] bool map_region(Region region, u64 attributes) {
        if (region.end() < region.base || (region.end() >> kInputBits) != 0) return false;
        u64 address = region.base;
        while (address < region.end()) {
            unsigned level = 1;
            while (address % level_bytes(level) != 0 || region.end() - address < level_bytes(level)) level++;
            if (!prepare(address, level)) return false;
            map(address, level, attributes);
            tidy(address);
            address += level_bytes(level);
        }
        return true;
    }

    // Every translation goes: used when no core may run at EL1 any more.
    void unmap_everything() {
        for (unsigned i = 0; i < TablePool::kEntries; i++) machine_->store(&root_[i], 0);
        batch_.add_everything();
        sync();
    }

private:
    static constexpr u64 kTable = descriptor::kValid | descriptor::kTableOrPage;

    static unsigned index(u64 address, unsigned level) { return (address / level_bytes(level)) % 512; }
    static u64* next(u64 d) { return reinterpret_cast<u64*>(d & descriptor::kAddress); }

    // d: the first entry, or 0 for none; leaves are contiguous.
    void set(u64 address, unsigned level, u64 count, u64 d) {
#ifdef FLEX_WITHOUT_COPY_ONCE
        if (!prepare(address, level)) return; // in that build the list may name another address by now
#endif
        u64* table = root_;
        for (unsigned l = 1; l < level; l++) table = next(machine_->load(&table[index(address, l)]));
        u64* slot = &table[index(address, level)];
        TableUse& use = pool_->use(table);
        const u64 step = level_bytes(level);
        for (u64 i = 0; i < count; i++, slot++, address += step) {
            const u64 old = machine_->load(slot);
            machine_->store(slot, d == 0 ? 0 : d + i * step);
            if (descriptor::table(old, level)) {
                retire_tree(next(old), level + 1);
                use.tables--;
                batch_.add_table(address, step);
            } else if (descriptor::valid(old)) {
                use.leaves--;
                batch_.add(address, step);
            }
        }
        if (d != 0) use.leaves = static_cast<u16>(use.leaves + count);
    }

    // Break-before-make (Arm ARM D8.16.1) unless the hardware needs none. The gap is why a stage 2 fault on a
    // mapped address is retried and not injected.
    void replace(u64* slot, u64 d, u64 address, unsigned level) {
        if (!machine_->replaces_directly()) {
            machine_->store(slot, 0);
            batch_.add(address, level_bytes(level));
            if (users_.cores) forget_in_cores();
            if (users_.devices) forget_in_devices();
        }
        machine_->store(slot, d);
    }

    void split(u64* slot, u64 block, unsigned level, u64 address, u64* table) {
        const u64 attributes = block & ~(descriptor::kAddress | kTable);
        const u64 base = block & descriptor::kAddress;
        for (unsigned i = 0; i < TablePool::kEntries; i++) {
            machine_->store(&table[i],
                            descriptor::leaf(base + i * level_bytes(level + 1), level + 1, attributes));
        }
        pool_->use(table) = {TablePool::kEntries, 0};
        address = round_down(address, level_bytes(level));
        replace(slot, reinterpret_cast<u64>(table) | kTable, address, level);
        batch_.add(address, level_bytes(level));
    }

    // Takes `table` (entries of `level`) out of its parent when it is empty or could be one leaf. False: it
    // has to stay.
    bool absorb(u64* parent, u64* table, unsigned level, u64 address) {
        u64* slot = &parent[index(address, level - 1)];
        address = round_down(address, level_bytes(level - 1));
        const TableUse use = pool_->use(table);
        TableUse& parent_use = pool_->use(parent);
        if (use.leaves == 0 && use.tables == 0) {
            machine_->store(slot, 0);
            batch_.add(address, level_bytes(level - 1));
        } else if (use.leaves == TablePool::kEntries && contiguous(table, level)) {
            const u64 first = machine_->load(&table[0]);
            const u64 attributes = first & ~(descriptor::kAddress | kTable);
            batch_.add_table(address, level_bytes(level - 1));
            replace(slot, descriptor::leaf(first & descriptor::kAddress, level - 1, attributes), address, level - 1);
            parent_use.leaves++;
        } else {
            return false;
        }
        parent_use.tables--;
        pool_->retire(table);
        return true;
    }

    [[nodiscard]] bool contiguous(const u64* table, unsigned level) const {
        const u64 first = machine_->load(&table[0]);
        if ((first & descriptor::kAddress) % level_bytes(level - 1) != 0) return false;
        for (unsigned i = 1; i < TablePool::kEntries; i++) {
            if (machine_->load(&table[i]) != first + i * level_bytes(level)) return false;
        }
        return true;
    }

    void retire_tree(u64* table, unsigned level) {
        for (unsigned i = 0; i < TablePool::kEntries; i++) {
            const u64 d = machine_->load(&table[i]);
            if (descriptor::table(d, level)) retire_tree(next(d), level + 1);
        }
        pool_->retire(table);
    }

    void forget_in_cores() {
        if (batch_.everything_for_cores()) {
            machine_->core_forget_all();
        } else {
            for (unsigned i = 0; i < batch_.leaves(); i++) machine_->core_forget(batch_.leaf(i));
            machine_->core_forget_combined();
        }
        machine_->core_wait();
    }

    void forget_in_devices() {
        if (batch_.everything()) {
            machine_->device_forget_all(users_.vmid);
        } else {
            for (const TlbBatch::Range& r : batch_) machine_->device_forget(users_.vmid, r.address, r.bytes);
        }
        machine_->device_wait();
    }

    Machine* machine_ = nullptr;
    TablePool* pool_ = nullptr;
    u64* root_ = nullptr;
    TreeUsers users_;
    TlbBatch batch_;
};

} // namespace flex::monitor
