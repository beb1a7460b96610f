#pragma once

#include "abi/npu_control.hpp"
#include "board.h"
#include "table_pool.hpp"
#include "types.hpp"

namespace flex::monitor {

// Who lies where in the monitor's region. Everything the trusted OS and a next life look for has a fixed
// place or follows from the size of DRAM:
//   +0        image, variables, stacks (monitor.ld)
//   +1 MiB-4K record of this life (LifeRecord)
//   +1 MiB    frame table, one byte a frame
//   then      a page that says who has the NPU (struct flex_npu_control)
//   then      page-table pool
struct Layout {
    static constexpr u64 kBase = BOARD_MONITOR_BASE;
    static constexpr u64 kRecord = kBase + kMiB - kFrameSize;
    static constexpr u64 kFrameTable = kBase + kMiB;

    Region dram;
    Region region; // the monitor's own, RESERVED, hidden from Linux
    u64 frames = 0;
    u64 npu_control = 0;
    u64 pool = 0;
    u64 pool_tables = 0;

    // The worst case: every 2 MiB split, in both trees, as it comes to be when memory in use is in small pieces; and
    // a fixed number for roots, devices, the monitor's own stage 1 and what a list may need for a moment.
    static constexpr u64 kFixedTables = 128;
    [[nodiscard]] static constexpr u64 tables_for(u64 dram_bytes) {
        return 2 * (dram_bytes / (2 * kMiB)) + kFixedTables;
    }

    // False: DRAM of this base and size cannot be handled.
    [[nodiscard]] static constexpr bool plan(Region dram, Layout& out) {
        if (dram.base != BOARD_DRAM_BASE || dram.bytes > BOARD_DRAM_BYTES_MAX ||
            dram.bytes % (2 * kMiB) != 0) {
            return false;
        }
        out.dram = dram;
        out.frames = dram.bytes / kFrameSize;
        out.npu_control = kFrameTable + npu_control_offset(out.frames);
        out.pool = out.npu_control + kFrameSize;
        out.pool_tables = tables_for(dram.bytes);
        const u64 end = round_up(out.pool + TablePool::bytes_for(out.pool_tables), 2 * kMiB);
        out.region = {kBase, end - kBase};
        return out.region.bytes <= BOARD_MONITOR_REGION_BYTES_MAX && out.region.end() <= dram.end();
    }
};

} // namespace flex::monitor
