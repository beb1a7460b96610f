#pragma once

#include "types.hpp"

namespace flex::monitor {

// Writes to a redistributor's RD_base frame (GIC architecture IHI 0069, 12.11). LPI tables live in memory
// that the GIC reads and writes past the SMMU, so the normal world must not be able to name them or to turn
// LPIs on.
struct GicrWrite {
    bool perform = false;
    bool refused = false; // count it
    u64 value = 0;
};

constexpr u64 kGicrFrameBytes = 0x10000; // RD_base, then SGI_base
constexpr u64 kGicrCoreBytes = 2 * kGicrFrameBytes;

constexpr GicrWrite filter_gicr_write(u64 offset, unsigned bytes, u64 value) {
    constexpr u64 kCtlr = 0x0, kStatus = 0x10, kWaker = 0x14;
#ifdef FLEX_WITHOUT_LPI_FILTER
    (void)kCtlr, (void)kStatus, (void)kWaker;
    return {.perform = offset % bytes == 0, .refused = false, .value = value};
#else
    constexpr u64 kEnableLpis = 1;
    if (bytes != 4) return {.refused = true};
    switch (offset) {
    case kCtlr:
        return {.perform = true, .refused = (value & kEnableLpis) != 0, .value = value & ~kEnableLpis};
    case kStatus:
    case kWaker:
        return {.perform = true, .refused = false, .value = value};
    default:
        return {.refused = true};
    }
#endif
}

} // namespace flex::monitor
