#include "world.hpp"

#include <cstdlib>
#include <cstring>
#include <new>

namespace flex::explore {

using monitor::Status;
using monitor::TablePool;
namespace descriptor = monitor::descriptor;

World* g_world = nullptr;

// ---- Frame table accesses

flex_u8 WatchedAccess::load(const flex_u8* cell) {
    g_world->explorer().give_way();
    g_world->explorer().observe(*cell);
    return *cell;
}
flex_u64 WatchedAccess::load(const flex_u64* cells) {
    g_world->explorer().give_way();
    g_world->explorer().observe(*cells);
    return *cells;
}
bool WatchedAccess::swap(flex_u8* cell, flex_u8 from, flex_u8 to) {
    World& world = *g_world;
    world.explorer().give_way();
    const bool good = *cell == from;
    world.explorer().observe(good);
    if (good) {
        world.note_swap(static_cast<u64>(cell - world.state_->cells), static_cast<FrameState>(from),
                        static_cast<FrameState>(to));
        *cell = to;
    }
    return good;
}
bool WatchedAccess::swap(flex_u64* cells, flex_u64 from, flex_u64 to) {
    World& world = *g_world;
    world.explorer().give_way();
    const u64 compared = ~u64{0} >> (64 - 8 * world.cells_compared);
    const bool good = (*cells & compared) == (from & compared);
    world.explorer().observe(good);
    if (good) {
        const u64 first = static_cast<u64>(reinterpret_cast<u8*>(cells) - world.state_->cells);
        for (u64 i = 0; i < 8; i++) {
            world.note_swap(first + i, static_cast<FrameState>(from & 0xff),
                            static_cast<FrameState>(to & 0xff));
        }
        *cells = to;
    }
    return good;
}

// ---- Hardware

void WatchedMachine::store(u64* slot, u64 value) {
    World& world = *g_world;
    if (!world.visible(slot)) { // a table that no walker can come to yet
        *slot = value;
        return;
    }
    world.explorer().give_way();
    const World::Levels before = world.levels();
    *slot = value;
    const World::Levels after = world.levels();
    for (unsigned f = 0; f < kWatched; f++) {
        if (before.normal[f] != 0 && before.normal[f] != after.normal[f]) {
            world.state_->core.by_level[before.normal[f]] |= u64{1} << f;
            world.state_->device.by_level[before.normal[f]] |= u64{1} << f;
        }
        if (before.flex[f] != 0 && before.flex[f] != after.flex[f]) {
            world.state_->flex_device.by_level[before.flex[f]] |= u64{1} << f;
        }
    }
}

void WatchedMachine::core_forget(u64 address) {
    World& world = *g_world;
    world.explorer().give_way();
    if (world.state_->pending_cores == world.state_->pending_core.size()) {
        world.state_->pending_core_all = true; // more than the model counts; never in these configurations
        return;
    }
    world.state_->pending_core[world.state_->pending_cores++] = address;
}

void WatchedMachine::core_forget_combined() {
    g_world->explorer().give_way();
    g_world->state_->pending_core_combined = true;
}

void WatchedMachine::core_forget_all() {
    g_world->explorer().give_way();
    g_world->state_->pending_core_all = true;
}

void WatchedMachine::core_wait() {
    World& world = *g_world;
    world.explorer().give_way();
    World::State& s = *world.state_;
    for (unsigned i = 0; i < s.pending_cores; i++) {
        // What holds both stages in one is still there when only stage 2 was told.
        if (s.pending_core_combined) s.core.forget(s.pending_core[i]);
        s.pending_core[i] = 0;
    }
    if (s.pending_core_all) s.core = {};
    s.pending_cores = 0, s.pending_core_combined = s.pending_core_all = false;
}

// A remembered range: the frame's address; bit 0 tells the VMID, 1 for the flex tree; from bit 40 on, how many frames.
void WatchedMachine::device_forget(uint16_t vmid, u64 address, u64 bytes) {
    World& world = *g_world;
    world.explorer().give_way();
    if (world.state_->pending_devices == world.state_->pending_device.size()) {
        (vmid == World::Memory::kFlexVmid ? world.state_->pending_flex_all : world.state_->pending_device_all) = true;
        return;
    }
    world.state_->pending_device[world.state_->pending_devices++] =
        address | (vmid == World::Memory::kFlexVmid ? 1 : 0) | bytes / monitor::kFrameSize << 40;
}

void WatchedMachine::device_forget_all(uint16_t vmid) {
    g_world->explorer().give_way();
    (vmid == World::Memory::kFlexVmid ? g_world->state_->pending_flex_all
                                      : g_world->state_->pending_device_all) = true;
}

void WatchedMachine::device_wait() {
    World& world = *g_world;
    world.explorer().give_way();
    World::State& s = *world.state_;
    for (unsigned i = 0; i < s.pending_devices; i++) {
        Remembered& device = s.pending_device[i] & 1 ? s.flex_device : s.device;
        const u64 first = s.pending_device[i] & ((u64{1} << 40) - monitor::kFrameSize);
        for (u64 frame = 0; frame < s.pending_device[i] >> 40; frame++) device.forget(first + frame * monitor::kFrameSize);
        s.pending_device[i] = 0;
    }
    if (s.pending_device_all) s.device = {};
    if (s.pending_flex_all) s.flex_device = {};
    s.pending_devices = 0, s.pending_device_all = false, s.pending_flex_all = false;
}

u64 WatchedMachine::read_memory(u64 address) {
    World& world = *g_world;
    world.explorer().give_way();
    const u64 word = world.state_->list.at((address - kListAddress) / sizeof(flex_range_t));
    world.explorer().observe(word);
    return word;
}

void WatchedMachine::relax() { g_world->explorer().spin(); }

bool Remembered::reaches(unsigned frame) const {
    return ((by_level[1] | by_level[2] | by_level[3]) >> frame & 1) != 0;
}

// TLBI by address drops the entry that translates this address, whatever its size (Arm ARM D8.14).
void Remembered::forget(u64 address) {
    for (unsigned level = 1; level <= 3; level++) {
        for (unsigned f = 0; f < kWatched; f++) {
            const u64 bytes = monitor::level_bytes(level);
            if (address / bytes == frame_address(f) / bytes) by_level[level] &= ~(u64{1} << f);
        }
    }
}

// ---- The world

World::World(bool direct)
    : direct_(direct), pool_(static_cast<u8*>(std::aligned_alloc(4096, TablePool::bytes_for(kPoolTables))),
                             [](void* p) { std::free(p); }),
      storage_(static_cast<u8*>(std::aligned_alloc(4096, (sizeof(State) + 4095) / 4096 * 4096)),
               [](void* p) { std::free(p); }) {
    g_world = this;
}

World::~World() { g_world = nullptr; }

void World::restart() {
    std::memset(pool_.get(), 0, TablePool::bytes_for(kPoolTables));
    std::memset(storage_.get(), 0, sizeof(State));
    state_ = new (storage_.get()) State;
    state_->machine.direct = direct_;
    std::memset(state_->cells, FLEX_FRAME_NORMAL, kFrames);
    state_->list = initial_list;
    for (auto& states : state_->first_state) states.fill(0xff);
    for (auto& states : state_->last_state) states.fill(0xff);
    state_->pool.init(reinterpret_cast<u64>(pool_.get()), kPoolTables);
    building_ = true;
    const bool ready =
        state_->memory.init(state_->machine, {state_->cells, kBase, kFrames}, state_->pool) &&
        state_->memory.normal_tree().map_region({kBase, kFrames * FLEX_FRAME_SIZE}, monitor::stage2::kMemory);
    if (!ready) std::abort();
    building_ = false;
}

u64 World::fingerprint() const {
    u64 hash = 0;
    const auto add = [&](const u8* bytes, u64 count) {
        for (u64 i = 0; i + 8 <= count; i += 8) {
            u64 word;
            std::memcpy(&word, bytes + i, 8);
            hash = mix(hash, word);
        }
    };
    add(storage_.get(), sizeof(State));
    // Tables that were never taken are zero.
    add(pool_.get(), TablePool::bytes_for(kPoolTables));
    return hash;
}

bool World::visible(const u64* slot) const {
    if (building_) return false;
    const u64 page = reinterpret_cast<u64>(slot) & ~u64{4095};
    const auto in_tree = [&](auto&& self, const u64* table, unsigned level) -> bool {
        if (reinterpret_cast<u64>(table) == page) return true;
        for (unsigned i = 0; level < 3 && i < TablePool::kEntries; i++) {
            const u64 d = table[i];
            if (descriptor::table(d, level) &&
                self(self, reinterpret_cast<const u64*>(d & descriptor::kAddress), level + 1))
                return true;
        }
        return false;
    };
    const u64* normal = state_->memory.normal_tree().root();
    const u64* flex = state_->memory.flex_tree().root();
    return in_tree(in_tree, normal, 1) || in_tree(in_tree, flex, 1);
}

World::Levels World::levels() const {
    Levels levels{};
    for (unsigned f = 0; f < kWatched; f++) {
        levels.normal[f] = static_cast<u8>(state_->memory.normal_tree().find(frame_address(f)).level);
        levels.flex[f] = static_cast<u8>(state_->memory.flex_tree().find(frame_address(f)).level);
    }
    return levels;
}

std::string World::check() const {
    const State& s = *state_;
    const Levels now = levels();
    for (unsigned f = 0; f < kWatched; f++) {
        const FrameState is = state(f);
        const bool mapped_normal = now.normal[f] != 0;
        const bool mapped_flex = now.flex[f] != 0;
        const bool normal_reaches = mapped_normal || s.core.reaches(f) || s.device.reaches(f);
        const bool flex_reaches = mapped_flex || s.flex_device.reaches(f);
        const bool secure = is == FrameState::Flex || is == FrameState::Adopted || is == FrameState::Released;
        const bool normal = is == FrameState::Normal || is == FrameState::Shared;
        const auto bit = [f](u64 set) { return (set >> f & 1) != 0; };
        const auto wrong = [f](const std::string& what) {
            return "frame " + std::to_string(f) + ": " + what;
        };
        if (mapped_normal && mapped_flex) return wrong("in both trees");
        if (secure && normal_reaches) return wrong("not NORMAL, yet the normal world may reach it");
        if (normal && flex_reaches) return wrong("NORMAL, yet the flex tree may reach it");
        if (normal && direct_ && !mapped_normal) return wrong("NORMAL, yet the normal world lost it");
        if (bit(s.secret) && normal_reaches) return wrong("holds a secret that the normal world may reach");
        if (bit(s.secret) && is != FrameState::Adopted) return wrong("holds a secret and is not ADOPTED");
        if (bit(s.mapped) && is != FrameState::Adopted)
            return wrong("mapped in the secure world and not ADOPTED");
        if (bit(s.pinned) && is != FrameState::Shared) return wrong("used as a shared buffer and not SHARED");
    }
    if (state(kWatched - 1) != FrameState::Normal) return "the bystander changed its state";
    return {};
}

std::string World::check_end() const {
    bool all_normal = true;
    for (unsigned f = 0; f < kWatched; f++) {
        if (state(f) == FrameState::Claimed) return "frame " + std::to_string(f) + " stays CLAIMED";
        all_normal = all_normal && state(f) == FrameState::Normal;
    }
    if (all_normal && levels().normal[0] != 2)
        return "everything is NORMAL, yet the normal tree is not at its largest blocks";
    if (all_normal && state_->pool.in_use() != 3) return "page-table frames were lost";
    return {};
}

// ---- Actors

void World::begin_noting() {
    state_->first_state[explorer_->current()].fill(0xff);
    state_->last_state[explorer_->current()].fill(0xff);
}

void World::note_swap(u64 cell, FrameState from, FrameState to) {
    if (cell >= kWatched) return;
    u8& first = state_->first_state[explorer_->current()][cell];
    if (first == 0xff) first = static_cast<u8>(from);
    state_->last_state[explorer_->current()][cell] = static_cast<u8>(to);
}

void World::call(std::initializer_list<flex_range_t> ranges, bool protect) {
    // Each core has its own place in the list page.
    const u64 place = explorer_->current() * 2;
    u64 frames = 0;
    u64 i = 0;
    for (const flex_range_t range : ranges) {
        state_->list.at(place + i++) = range;
        const u64 count = u64{1} << (range & FLEX_RANGE_ORDER_MASK);
        for (u64 f = 0; f < count; f++)
            frames |= u64{1} << ((range >> FLEX_FRAME_SHIFT) - (kBase >> FLEX_FRAME_SHIFT) + f);
    }
    begin_noting();
    const u64 list = kListAddress + place * sizeof(flex_range_t);
    const auto outcome =
        protect ? state_->memory.protect(list, ranges.size()) : state_->memory.recall(list, ranges.size());
    check_outcome(outcome.status == Status::Ok, frames, protect);
}

void World::protect_list(u64 count) {
    begin_noting();
    (void)state_->memory.protect(kListAddress, count);
}

// All of the list or none of it, whatever the others did meanwhile.
void World::check_outcome(bool good, u64 frames, bool protect) {
    const u8 from = protect ? FLEX_FRAME_NORMAL : FLEX_FRAME_RELEASED;
    const u8 to = protect ? FLEX_FRAME_FLEX : FLEX_FRAME_NORMAL;
    for (unsigned f = 0; f < kWatched; f++) {
        const u8 first = state_->first_state[explorer_->current()][f];
        const u8 last = state_->last_state[explorer_->current()][f];
        const bool listed = (frames >> f & 1) != 0;
        if (good && listed && (first != from || last != to))
            explorer_->fail("a call said OK and left out a frame");
        if (!listed && first != 0xff) explorer_->fail("a call changed a frame that was not listed");
        if (!good && first != last) explorer_->fail("a call failed and changed a frame");
    }
}

void World::use_and_release(std::initializer_list<flex_range_t> ranges) {
    const tos::Span<const flex_range_t> list{ranges.begin(), ranges.size()};
    const tos::Adoption adoption = tos::adopt_ranges(tos(), list, 64);
    const auto each_frame = [&](auto action) {
        for (tos::u32 i = 0; i < adoption.adopted; i++) {
            FrameRange range;
            if (!tos().parse(list[i], range)) explorer_->fail("adopted a range that does not parse");
            for (u64 f = range.first; f < range.first + range.count; f++) action(u64{1} << f);
        }
    };
    explorer_->give_way();
    each_frame([&](u64 bit) {
        if ((state_->mapped & bit) != 0) explorer_->fail("a frame is mapped twice");
        state_->mapped |= bit;
    });
    explorer_->give_way();
    each_frame([&](u64 bit) { state_->secret |= bit; });
    explorer_->give_way();
    each_frame([&](u64 bit) { state_->mapped &= ~bit; });
    explorer_->give_way();
    each_frame([&](u64 bit) { state_->secret &= ~bit; });
    for (tos::u32 i = 0; i < adoption.adopted; i++) {
        FrameRange range;
        if (!tos().parse(list[i], range) || !tos().release(range))
            explorer_->fail("an adopted range could not be released");
    }
}

void World::adopt_and_keep(std::initializer_list<flex_range_t> ranges) {
    const tos::Span<const flex_range_t> list{ranges.begin(), ranges.size()};
    const tos::Adoption adoption = tos::adopt_ranges(tos(), list, 64);
    explorer_->give_way();
    for (tos::u32 i = 0; i < adoption.adopted; i++) {
        FrameRange range;
        if (!tos().parse(list[i], range)) explorer_->fail("adopted a range that does not parse");
        for (u64 f = range.first; f < range.first + range.count; f++) {
            state_->mapped |= u64{1} << f;
            state_->secret |= u64{1} << f;
        }
    }
}

void World::pin_and_unpin(u64 frame) {
    if (!tos().pin_shared({frame, 1})) return;
    state_->pinned |= u64{1} << frame;
    explorer_->give_way();
    explorer_->give_way();
    state_->pinned &= ~(u64{1} << frame);
    if (!tos().unpin_shared({frame, 1})) explorer_->fail("a pinned frame could not be unpinned");
}

void World::write_list(u64 index, flex_range_t range) {
    explorer_->give_way();
    state_->list.at(index) = range;
}

} // namespace flex::explore
