/* The first thread's way into the program: random numbers, the initial stack (System V gABI; Linux auxiliary
 * vector). */
#ifndef FLEX_TOS_KERNEL_EXEC_HPP
#define FLEX_TOS_KERNEL_EXEC_HPP

#include "kernel/thread.hpp"

namespace flex::tos {

Next exec_step(Thread& thread);

} // namespace flex::tos

#endif
