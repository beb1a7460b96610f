// The world that the exploration watches: a few frames of DRAM, the real frame table, trees and calls of the
// monitor, the real adoption of the trusted OS, and a model of what hardware is allowed to remember: a core
// or the SMMU may hold every translation that was ever valid, until it was told to forget it and the telling
// was waited for.
#pragma once

#include "core/adoption.hpp" // the trusted OS's
#include "explorer.hpp"
#include "flex_memory.hpp" // the monitor's

#include <array>
#include <memory>

namespace flex::explore {

constexpr u64 kBase = u64{1} << 30;
constexpr u64 kFrames = 512; // 2 MiB: one block, so that splitting and merging are part of it
constexpr unsigned kWatched =
    20; // frames 0..19; the last is in no list: a bystander that must never lose its mapping
constexpr u64 kListFrame = 256;
constexpr u64 kListAddress = kBase + kListFrame * FLEX_FRAME_SIZE;
constexpr u64 frame_address(u64 frame) { return kBase + frame * FLEX_FRAME_SIZE; }
constexpr flex_range_t one(u64 frame, u64 order = 0) { return FLEX_RANGE(frame_address(frame), order); }

class World;
extern World* g_world;

// Every look at and change of a frame's state is a step of its own.
struct WatchedAccess {
    static flex_u8 load(const flex_u8* cell);
    static flex_u64 load(const flex_u64* cells);
    static bool swap(flex_u8* cell, flex_u8 from, flex_u8 to);
    static bool swap(flex_u64* cells, flex_u64 from, flex_u64 to);
};

class WatchedMachine {
public:
    u64 load(const u64* slot) { return *slot; }
    void store(u64* slot, u64 value);
    [[nodiscard]] bool replaces_directly() const { return direct; }
    [[nodiscard]] monitor::stage2::Attributes attributes() const { return monitor::stage2::kCombined; }
    void core_forget(u64 address);
    void core_forget_combined();
    void core_forget_all();
    void core_wait();
    void device_forget(uint16_t vmid, u64 address, u64 bytes);
    void device_forget_all(uint16_t vmid);
    void device_wait();
    void settle_caches(u64, u64) {}
    u64 read_memory(u64 address);
    void relax();
    bool direct = true;
};

// Translations that somebody may still hold: bit f of [level] stands for frame f, reached through a leaf of
// that level.
struct Remembered {
    std::array<u64, 4> by_level{};
    [[nodiscard]] bool reaches(unsigned frame) const;
    void forget(u64 address);
};

class World final : public Subject {
public:
    using Memory = monitor::FlexMemory<WatchedMachine, WatchedAccess>;
    using TosTable = TrustedOsFrameTable<WatchedAccess>;

    explicit World(bool direct);
    ~World() override;

    void set_explorer(Explorer* explorer) { explorer_ = explorer; }
    Explorer& explorer() { return *explorer_; }

    void restart() override;
    [[nodiscard]] u64 fingerprint() const override;
    [[nodiscard]] std::string check() const override;
    [[nodiscard]] std::string check_end() const override;

    // ---- What actors do. Calls check what they promise on return.
    void protect(std::initializer_list<flex_range_t> ranges) { call(ranges, true); }
    void recall(std::initializer_list<flex_range_t> ranges) { call(ranges, false); }
    void protect_list(u64 count);
    // The trusted OS: adopts, maps, uses, unmaps, zeroes and releases the ranges, or does nothing.
    void use_and_release(std::initializer_list<flex_range_t> ranges);
    void adopt_and_keep(std::initializer_list<flex_range_t> ranges);
    void pin_and_unpin(u64 frame);
    // The normal world writes into its list.
    void write_list(u64 index, flex_range_t range);

    // A frame table that is wrong: a swap of eight cells looks at so many of them only.
    unsigned cells_compared = 8;

    // The list page's words for those who set a list up themselves; before restart's end only.
    std::array<flex_range_t, 4> initial_list{};

private:
    friend struct WatchedAccess;
    friend class WatchedMachine;

    static constexpr u64 kPoolTables = 12;

    // Everything that changes lies in here, at a fixed place, and is zeroed first, so that equal bytes mean
    // equal worlds.
    struct State {
        alignas(8) u8 cells[kFrames];
        WatchedMachine machine;
        monitor::TablePool pool;
        Memory memory;
        std::array<flex_range_t, 4> list;
        Remembered core, device, flex_device;
        std::array<u64, 16> pending_core, pending_device; // told to forget, not yet waited for
        unsigned pending_cores, pending_devices;
        bool pending_core_combined, pending_core_all, pending_device_all, pending_flex_all;
        u64 secret; // bit f: frame f holds content of the secure world
        u64 mapped; // bit f: mapped in S-EL0
        u64 pinned; // bit f: the trusted OS uses it as a shared buffer
        u64 calls;  // lists handed in so far
        std::array<u8, kWatched> first_state[4],
            last_state[4]; // by actor, of the frames it changed; 0xff: none
    };

    void call(std::initializer_list<flex_range_t> ranges, bool protect);
    void check_outcome(bool good, u64 frames, bool protect);
    void note_swap(u64 cell, FrameState from, FrameState to);
    void begin_noting();
    [[nodiscard]] bool visible(const u64* slot) const;
    struct Levels {
        std::array<u8, kWatched> normal, flex;
    };
    [[nodiscard]] Levels levels() const;
    [[nodiscard]] TosTable tos() const { return {state_->cells, kBase, kFrames}; }
    [[nodiscard]] FrameState state(u64 frame) const { return static_cast<FrameState>(state_->cells[frame]); }

    bool direct_;
    Explorer* explorer_ = nullptr;
    bool building_ = false; // no other actor runs yet: no steps
    std::unique_ptr<u8, void (*)(void*)> pool_;
    std::unique_ptr<u8, void (*)(void*)> storage_;
    State* state_ = nullptr;
};

} // namespace flex::explore
