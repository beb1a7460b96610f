// A reset keeps DRAM. What was protected must be gone before the normal world of the next life can read it.
#include "console.hpp"
#include "monitor.hpp"

namespace flex::monitor {
namespace {

// Left in the monitor's region for the next life, which finds the frame table of this one at its fixed place.
// The normal world of neither life can write it. It is there from before anything is protected until power is
// lost, so a start without it is the first since power-on: then DRAM is as the board gives it.
struct LifeRecord {
    static constexpr u64 kMagic = 0x31454649'4c584c46; // "FLXLIFE1"
    u64 magic;
    u64 dram_base;
    u64 frames;
    u64 check;

    [[nodiscard]] u64 checksum() const { return ~(magic ^ (dram_base << 1) ^ (frames << 17)); }
};

LifeRecord& record() { return *reinterpret_cast<LifeRecord*>(Layout::kRecord); }

[[maybe_unused]] bool holds_secrets(FrameState state) {
    return state != FrameState::Normal && state != FrameState::Shared && state != FrameState::Reserved;
}

// Zeroes `whole` except what lies in `kept` (loaded for this life already). Returns the bytes zeroed.
[[maybe_unused]] u64 zero_all_but(Region whole, const Region* kept, unsigned count) {
    u64 zeroed = 0;
    u64 address = whole.base;
    while (address < whole.end()) {
        u64 end = whole.end();
        u64 skip_to = end;
        for (unsigned i = 0; i < count; i++) {
            if (kept[i].bytes == 0 || kept[i].end() <= address) continue;
            if (kept[i].base <= address) {
                end = address, skip_to = kept[i].end();
                break;
            }
            if (kept[i].base < end) end = kept[i].base, skip_to = kept[i].base;
        }
        zero_memory({address, end - address});
        zeroed += end - address;
        address = skip_to;
    }
    return zeroed;
}

// Zeroes the frames that `table` says may hold protected content, in runs, except what lies in `kept`.
// Returns how many.
[[maybe_unused]] u64 zero_protected(const FrameTable<>& table, const Region* kept, unsigned count) {
    u64 zeroed = 0;
    for (u64 i = 0; i < table.frames(); i++) {
        const u64 first = i;
        while (i < table.frames() && holds_secrets(table.state(i))) i++;
        if (i == first) continue;
        zero_all_but({table.address(first), (i - first) * kFrameSize}, kept, count);
        zeroed += i - first;
    }
    return zeroed;
}

[[maybe_unused]] u64 milliseconds_since(u64 start) {
    return (FLEX_READ(cntpct_el0) - start) * 1000 / FLEX_READ(cntfrq_el0);
}

} // namespace

void zero_memory(Region region) {
    const u64 block = u64{4} << field(FLEX_READ(dczid_el0), 3, 0);
    u64 address = region.base;
    const u64 end = region.end();
    auto zero_bytes = [&](u64 to) {
        for (; address < to; address++) *reinterpret_cast<volatile u8*>(address) = 0;
    };
    const u64 first_block = round_up(address, block);
    zero_bytes(first_block < end ? first_block : end);
    for (; address + block <= end; address += block) arch::zero_block(address);
    zero_bytes(end);
    const u64 line = arch::cache_line();
    for (u64 a = round_down(region.base, line); arch::caches_hide_memory() && a < end; a += line)
        arch::clean_to_memory(a);
    arch::dsb();
}

void scrub_at_start(const Region* kept, unsigned count) {
#ifndef FLEX_WITHOUT_RESET_SCRUB
    const u64 start = FLEX_READ(cntpct_el0);
    const Layout& layout = the_monitor.layout;
    const LifeRecord& last = record();
    if (last.magic == LifeRecord::kMagic && last.check == last.checksum() &&
        last.dram_base == layout.dram.base && last.frames == layout.frames) {
        const FrameTable<> table(reinterpret_cast<u8*>(Layout::kFrameTable), layout.dram.base, layout.frames);
        const u64 frames = zero_protected(table, kept, count);
        print("monitor: warm start: %u frames of the last life zeroed in %u ms\n", frames,
              milliseconds_since(start));
    } else if (BOARD_DRAM_IS_ZERO_AT_POWER_ON == 0) {
        const u64 bytes = zero_all_but(layout.dram, kept, count);
        print("monitor: cold start: %u MiB of DRAM zeroed in %u ms\n", bytes / kMiB,
              milliseconds_since(start));
    }
#else
    (void)kept, (void)count;
#endif
}

void record_this_life() {
    LifeRecord& life = record();
    life.magic = LifeRecord::kMagic;
    life.dram_base = the_monitor.layout.dram.base;
    life.frames = the_monitor.layout.frames;
    life.check = life.checksum();
    arch::clean_to_memory(reinterpret_cast<u64>(&life));
    arch::dsb();
}

void scrub_protected_frames() {
#ifndef FLEX_WITHOUT_RESET_SCRUB
    const u64 frames = zero_protected(the_monitor.memory.table(), nullptr, 0);
    print("monitor: %u protected frames zeroed\n", frames);
#endif
}

} // namespace flex::monitor
