// A machine for the monitor's logic on the host: tables are host memory at their own addresses, DRAM of the
// normal world is a map, TLB operations are recorded.
#pragma once

#include "flex_memory.hpp"

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace flex::monitor::test {

class FakeMachine {
public:
    u64 load(const u64* slot) { return *slot; }
    void store(u64* slot, u64 value) {
        *slot = value;
        note("store");
    }
    bool replaces_directly() const { return direct; }
    stage2::Attributes attributes() const { return forced ? stage2::kForced : stage2::kCombined; }
    void core_forget(u64 address) {
        core_forgotten.push_back(address);
        note("core_forget");
    }
    void core_forget_combined() { note("core_forget_combined"); }
    void core_forget_all() { note("core_forget_all"); }
    void core_wait() { note("core_wait"); }
    void device_forget(u16 vmid, u64 address, u64 bytes) {
        device_forgotten.push_back({address, bytes});
        note("device_forget " + std::to_string(vmid));
    }
    void device_forget_all(u16 vmid) { note("device_forget_all " + std::to_string(vmid)); }
    void device_wait() { note("device_wait"); }
    void settle_caches(u64 address, u64) { note("settle_caches " + std::to_string(address)); }
    u64 read_memory(u64 address) {
        reads[address]++;
        return words[address];
    }
    void relax() {}

    bool direct = true;
    bool forced = false;
    std::map<u64, u64> words;      // DRAM, by address
    std::map<u64, unsigned> reads; // how often each word was read
    std::vector<u64> core_forgotten;
    std::vector<TlbBatch::Range> device_forgotten;
    std::vector<std::string> events;
    std::function<void(const std::string&)> observer;

private:
    void note(const std::string& event) {
        if (event != "store") events.push_back(event);
        if (observer) observer(event);
    }
};

// Page-aligned host memory.
class Memory {
public:
    explicit Memory(u64 bytes)
        : memory_(std::aligned_alloc(kFrameSize, round_up(bytes, kFrameSize)), std::free) {}
    [[nodiscard]] u64 address() const { return reinterpret_cast<u64>(memory_.get()); }

private:
    std::unique_ptr<void, decltype(&std::free)> memory_;
};

// Flex memory over `gib` GiB of DRAM at 1 GiB; every frame is NORMAL and in the normal tree.
class World {
public:
    static constexpr u64 kBase = kGiB;

    explicit World(u64 pool_tables = 64, u64 gib = 1, bool forces_write_back = false)
        : pool_memory_(TablePool::bytes_for(pool_tables)),
          cells_(gib * kGiB / kFrameSize, FLEX_FRAME_NORMAL) {
        machine.forced = forces_write_back;
        pool.init(pool_memory_.address(), pool_tables);
        table = MonitorFrameTable<>(cells_.data(), kBase, cells_.size());
        tos = TrustedOsFrameTable<>(cells_.data(), kBase, cells_.size());
        ok = memory.init(machine, table, pool) &&
             memory.normal_tree().map_region({kBase, gib * kGiB}, machine.attributes().memory);
        memory.normal_tree().sync();
        pool.free_retired();
        machine.events.clear();
    }

    // A list of ranges at the last frame of DRAM's first GiB.
    static constexpr u64 kList = kBase + kGiB - kFrameSize;
    u64 list(std::initializer_list<flex_range_t> ranges) {
        u64 at = kList;
        for (const flex_range_t range : ranges) machine.words[at] = range, at += sizeof(range);
        return kList;
    }
    FlexMemory<FakeMachine>::Outcome protect(std::initializer_list<flex_range_t> ranges) {
        return memory.protect(list(ranges), ranges.size());
    }
    FlexMemory<FakeMachine>::Outcome recall(std::initializer_list<flex_range_t> ranges) {
        return memory.recall(list(ranges), ranges.size());
    }
    // What the trusted OS does with a range between protect and recall.
    bool adopt_and_release(flex_range_t range) {
        FrameRange frames;
        return table.parse(range, frames) && tos.adopt(frames) && tos.release(frames);
    }
    FrameState state(u64 address) { return table.state((address - kBase) / kFrameSize); }
    void set_state(u64 address, FrameState state) {
        cells_[(address - kBase) / kFrameSize] = static_cast<u8>(state);
    }
    unsigned normal_level(u64 address) { return memory.normal_tree().find(address).level; }
    unsigned flex_level(u64 address) { return memory.flex_tree().find(address).level; }

private:
    Memory pool_memory_;
    std::vector<u8> cells_;

public:
    FakeMachine machine;
    TablePool pool;
    MonitorFrameTable<> table;
    TrustedOsFrameTable<> tos;
    FlexMemory<FakeMachine> memory;
    bool ok = false;
};

} // namespace flex::monitor::test
