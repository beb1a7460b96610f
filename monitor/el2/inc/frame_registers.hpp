#pragma once

#include "stacks.hpp"
#include "types.hpp"

namespace flex::monitor {

// What vectors.S saves on an exception taken to EL2. x, elr and spsr are restored on the way back.
struct Frame {
    u64 x[31];
    u64 sp;
    u64 elr;
    u64 spsr;
    u64 esr;
    u64 far;
};
static_assert(sizeof(Frame) == FRAME_BYTES && offsetof(Frame, sp) == FRAME_SP &&
              offsetof(Frame, elr) == FRAME_ELR && offsetof(Frame, esr) == FRAME_ESR);

} // namespace flex::monitor
