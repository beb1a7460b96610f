/* FLEX_TOS_MOVE. */
#ifndef FLEX_TOS_KERNEL_MOVE_HPP
#define FLEX_TOS_KERNEL_MOVE_HPP

#include "core/types.hpp"

namespace flex::tos {

/* With the kernel's lock held. Returns enum flex_status. */
[[nodiscard]] i64 move_frame(u64 from, u64 to);

} // namespace flex::tos

#endif
