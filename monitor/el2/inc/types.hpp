// The few names every file of the monitor uses. No hardware here: all of this also builds for the host's
// tests.
#pragma once

#include "abi/calls.h"
#include "abi/frame.h"
#include "abi/types.h"

#include <stddef.h>

namespace flex::monitor {

using u8 = flex_u8;
using u16 = uint16_t;
using u32 = flex_u32;
using u64 = flex_u64;
using s64 = flex_s64;

constexpr u64 kFrameSize = FLEX_FRAME_SIZE;
constexpr u64 kFrameShift = FLEX_FRAME_SHIFT;
constexpr u64 kMiB = u64{1} << 20;
constexpr u64 kGiB = u64{1} << 30;

constexpr u64 round_up(u64 value, u64 unit) { return (value + unit - 1) / unit * unit; }
constexpr u64 round_down(u64 value, u64 unit) { return value / unit * unit; }

// bits(7, 4, x): x placed in bits [7:4] of a register or descriptor, cut to that field.
constexpr u64 bits(unsigned high, unsigned low, u64 value) {
    return (value & (~u64{0} >> (63 - (high - low)))) << low;
}
constexpr u64 bit(unsigned n) { return u64{1} << n; }
constexpr u64 field(u64 value, unsigned high, unsigned low) {
    return (value >> low) & (~u64{0} >> (63 - (high - low)));
}

enum class Status : s64 {
    Ok = FLEX_OK,
    Unknown = FLEX_ERR_UNKNOWN,
    Argument = FLEX_ERR_ARGUMENT,
    State = FLEX_ERR_STATE,
    Busy = FLEX_ERR_BUSY,
    NoMemory = FLEX_ERR_NO_MEMORY,
    Denied = FLEX_ERR_DENIED,
};

struct Region {
    u64 base = 0;
    u64 bytes = 0;
    constexpr u64 end() const { return base + bytes; }
};

} // namespace flex::monitor
