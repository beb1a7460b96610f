/* Running threads on a lent core. */
#ifndef FLEX_TOS_KERNEL_SCHEDULER_HPP
#define FLEX_TOS_KERNEL_SCHEDULER_HPP

#include "kernel/core.hpp"
#include "kernel/program.hpp"

namespace flex::tos {

struct CallResult {
    i64 status = 0;
    u64 x1 = 0, x2 = 0, x3 = 0;
};

/* FLEX_TOS_LEND: returns when the normal world is needed or nothing is left to do. */
[[nodiscard]] CallResult lend(u32 completed, u64 tick_due, bool npu_rings);
/* FLEX_TOS_QUIESCE */
void quiesce();

} // namespace flex::tos

#endif
