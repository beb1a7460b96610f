#ifndef FLEX_TOS_KERNEL_EXCEPTION_HPP
#define FLEX_TOS_KERNEL_EXCEPTION_HPP

#include "kernel/thread.hpp"

namespace flex::tos {

/* What enter_user returns (arch/vectors.S). */
constexpr int kExceptionSynchronous = 0, kExceptionIrq = 1, kExceptionFiq = 2, kExceptionError = 3;
extern "C" int enter_user(Registers* registers);

/* Everything but an FIQ: system call, page fault, secure interrupt, or the end of the program. */
Next handle_user_exception(Thread& thread, int kind);

/* Prints what is known and stops this core for good. */
[[noreturn]] void panic(const char* why);

} // namespace flex::tos

#endif
