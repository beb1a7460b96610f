/* The secure UART. Lines of different cores do not mix. */
#ifndef FLEX_TOS_KERNEL_CONSOLE_HPP
#define FLEX_TOS_KERNEL_CONSOLE_HPP

#include "core/types.hpp"

namespace flex::tos {

/* %s %c %d %u %x %% with width (zeroes in front) and l (64 bits); 256 bytes at most. One call is one piece on
 * the UART. */
[[gnu::format(printf, 1, 2)]] void print(const char* format, ...);
/* To the device's log as well, which the normal world reads. With the kernel's lock held. */
[[gnu::format(printf, 1, 2)]] void print_both(const char* format, ...);
/* For a panic: does not wait for other cores. */
[[gnu::format(printf, 1, 2)]] void print_now(const char* format, ...);
/* Text of the program (descriptors 1 and 2), to both. With the kernel's lock held. */
void print_program(const char* text, u64 bytes);

} // namespace flex::tos

#endif
