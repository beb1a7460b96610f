#pragma once

#include "counters.hpp"
#include "lock.hpp"
#include "page_tree.hpp"
#include "range_list.hpp"

namespace flex::monitor {

// Who owns which frame, and the two trees that enforce it.
//
// Invariants (design section 4), outside the lock:
//   1. A frame is in at most one tree; the normal tree holds exactly the NORMAL and SHARED frames, the flex
//   tree exactly the FLEX,
//      ADOPTED and RELEASED ones.
//   2. protect() and recall() change all frames of a list, or none.
//   3. When a frame says FLEX, no core and no device of the normal world has a translation to it, cached or
//   not.
//   4. A frame that becomes NORMAL by recall() was RELEASED before: all zero.
//
// When a frame changes hands, caches and memory agree on it: a normal world that maps it non-cacheable must find
// zeros and not what was there before, and the secure world must not authenticate one copy (cached) and use
// another (memory). Where stage 2 can force every access to be cacheable (stage2::kForced), they always agree;
// elsewhere the frame is cleaned and invalidated on the way.
//
// Besides what PageTree needs, the Machine offers
//   void settle_caches(u64 address, u64 bytes)   caches and memory agree: to the point of coherency
//   stage2::Attributes attributes()              of all leaves
//   u64 read_memory(u64 address)   one word of DRAM through the monitor's own mapping
//   void relax()                   what a core does while it waits for the lock
template <class Machine, class Access = AtomicAccess> class FlexMemory final {
public:
    static constexpr u16 kNormalVmid = 1;
    static constexpr u16 kFlexVmid = 2;

    struct Outcome {
        Status status = Status::Ok;
        u64 index = 0; // of the first range refused
    };

    FlexMemory() = default;
    FlexMemory(const FlexMemory&) = delete;
    FlexMemory& operator=(const FlexMemory&) = delete;

    // The trees are empty at first: the caller maps what the normal world may reach before any core or device
    // uses them.
    [[nodiscard]] bool init(Machine& machine, MonitorFrameTable<Access> table, TablePool& pool) {
        machine_ = &machine;
        table_ = table;
        pool_ = &pool;
        return normal_.init(machine, pool, {.cores = true, .devices = true, .vmid = kNormalVmid}) &&
               flex_.init(machine, pool, {.cores = false, .devices = true, .vmid = kFlexVmid});
    }

    [[nodiscard]] PageTree<Machine>& normal_tree() { return normal_; }
    [[nodiscard]] PageTree<Machine>& flex_tree() { return flex_; }
    [[nodiscard]] const MonitorFrameTable<Access>& table() const { return table_; }
    [[nodiscard]] TicketLock<Machine>& lock() { return lock_; }
    [[nodiscard]] Counters& counters() { return counters_; }

    // NORMAL -> FLEX for all frames of the list, or for none. list: physical address of `count` ranges; both
    // untrusted.
    Outcome protect(u64 list, u64 count) {
        counters_.add(FLEX_STAT_PROTECT_CALLS);
        return run(list, count, kProtect, FLEX_STAT_FRAMES_PROTECTED);
    }

    // RELEASED -> NORMAL for all frames of the list, or for none.
    Outcome recall(u64 list, u64 count) {
        counters_.add(FLEX_STAT_RECALL_CALLS);
        return run(list, count, kRecall, FLEX_STAT_FRAMES_RECALLED);
    }

    // What the normal tree says of an address right now, with no change under way.
    [[nodiscard]] typename PageTree<Machine>::Leaf find_normal(u64 address) {
        Guard<Machine> guard(lock_, *machine_);
        return normal_.find(address);
    }

private:
    enum Direction { kProtect, kRecall };

    Outcome run(u64 list, u64 count, Direction direction, flex_monitor_stat moved) {
        Guard<Machine> guard(lock_, *machine_);
        Outcome outcome = take_list(list, count);
        if (outcome.status == Status::Ok) outcome = claim_list(direction);
        if (outcome.status == Status::Ok) {
            outcome = prepare_list();
            if (outcome.status != Status::Ok) {
                undo_prepare();
                unclaim(list_.count(), direction);
            }
        }
        if (outcome.status != Status::Ok) {
            counters_.add(FLEX_STAT_LISTS_REFUSED);
            return outcome;
        }
        const u64 frames = direction == kProtect ? commit_protect() : commit_recall();
        counters_.add(moved, frames);
        return outcome;
    }

    // The list itself must be memory of the normal world: else the monitor would read for it what it must not
    // reach.
    Outcome take_list(u64 list, u64 count) {
        FrameRange holder;
        if (count == 0 || count > FLEX_LIST_MAX || list % sizeof(flex_range_t) != 0 ||
            !table_.covering(list, count * sizeof(flex_range_t), holder) || holder.count != 1) {
            return {Status::Argument, 0};
        }
        const FrameState state = table_.state(holder.first);
        if (state != FrameState::Normal && state != FrameState::Shared) return {Status::State, 0};
        list_.copy(*machine_, list, count);
        for (u64 i = 0; i < count; i++) {
            FrameRange range;
            if (!table_.parse(list_[i], range)) return {Status::Argument, i};
        }
        return {};
    }

    // A range twice in one list, or an overlap, fails here: the second claim finds the frame CLAIMED.
    Outcome claim_list(Direction direction) {
        for (u64 i = 0; i < list_.count(); i++) {
            const bool claimed = direction == kProtect ? table_.claim_for_protect(range(i))
                                                       : table_.claim_for_recall(range(i));
            if (!claimed) {
                unclaim(i, direction);
                return {Status::State, i};
            }
        }
        return {};
    }

    void unclaim(u64 count, Direction direction) {
        for (u64 i = 0; i < count; i++) {
            (void)(direction == kProtect ? table_.settle_normal(range(i))
                                         : table_.unclaim_released(range(i)));
        }
    }

    // All page-table frames that the commit needs are taken here, in both trees.
    Outcome prepare_list() {
        for (u64 i = 0; i < list_.count(); i++) {
            const Leaves leaves = leaves_of(i);
            if (!normal_.prepare(leaves.address, leaves.level) || !flex_.prepare(leaves.address, leaves.level))
                return {Status::NoMemory, i};
        }
        return {};
    }

    void tidy(PageTree<Machine>& tree) {
        for (u64 i = 0; i < list_.count(); i++) tree.tidy(table_.address(range(i).first));
    }

    void undo_prepare() {
        tidy(normal_);
        tidy(flex_);
        normal_.sync();
        flex_.sync();
        pool_->free_retired();
    }

    // Nothing below this line can fail.

    u64 commit_protect() {
#ifndef FLEX_WITHOUT_STAGE2_UNMAP
        unmap_from(normal_);
#endif
        // From here on neither a core nor a device of the normal world reaches any of the frames.
        settle_caches();
        map_into(flex_);
        return settle(FrameState::Flex);
    }

    u64 commit_recall() {
        unmap_from(flex_);
        settle_caches();
        map_into(normal_);
        return settle(FrameState::Normal);
    }

    // First the cores forget, then the devices (PageTree::sync).
    void unmap_from(PageTree<Machine>& tree) {
        for (u64 i = 0; i < list_.count(); i++) {
            const Leaves leaves = leaves_of(i);
            tree.unmap(leaves.address, leaves.level, leaves.count);
        }
        tidy(tree);
        tree.sync();
    }

    void settle_caches() {
        for (u64 i = 0; i < list_.count(); i++) {
            machine_->settle_caches(table_.address(range(i).first), range(i).count * kFrameSize);
        }
    }

    void map_into(PageTree<Machine>& tree) {
        const u64 attributes = machine_->attributes().memory;
        for (u64 i = 0; i < list_.count(); i++) {
            const Leaves leaves = leaves_of(i);
            tree.map(leaves.address, leaves.level, attributes, leaves.count);
        }
        tidy(tree);
        tree.sync();
        pool_->free_retired();
    }

    u64 settle(FrameState state) {
        u64 frames = 0;
        for (u64 i = 0; i < list_.count(); i++) {
            (void)(state == FrameState::Flex ? table_.settle_flex(range(i)) : table_.settle_normal(range(i)));
            frames += range(i).count;
        }
        return frames;
    }

    [[nodiscard]] FrameRange range(u64 i) const {
        FrameRange range;
        (void)table_.parse(list_[i], range); // checked by take_list
        return range;
    }

    // The largest entries that make up a range: one of 1 GiB, n of 2 MiB, or n of 4 KiB, all in one table.
    struct Leaves {
        u64 address = 0;
        unsigned level = 1;
        u64 count = 0;
    };
    [[nodiscard]] Leaves leaves_of(u64 i) const {
        const FrameRange range = this->range(i);
        const u64 bytes = range.count * kFrameSize;
        Leaves leaves{.address = table_.address(range.first)};
        while (leaves.level < 3 && bytes < level_bytes(leaves.level)) leaves.level++;
        leaves.count = bytes / level_bytes(leaves.level);
        return leaves;
    }

    Machine* machine_ = nullptr;
    MonitorFrameTable<Access> table_;
    TablePool* pool_ = nullptr;
    PageTree<Machine> normal_;
    PageTree<Machine> flex_;
    TicketLock<Machine> lock_;
    Counters counters_;
    RangeList<Machine> list_;
};

} // namespace flex::monitor
