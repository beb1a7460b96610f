/* The program's memory as the kernel sees it: through checked copies only. */
#ifndef FLEX_TOS_KERNEL_USER_MEMORY_HPP
#define FLEX_TOS_KERNEL_USER_MEMORY_HPP

#include "core/areas.hpp"
#include "kernel/thread.hpp"

namespace flex::tos {

enum class Access : u8 {
    Good,
    NoFrames, /* the pool is empty: wait for frames, then try again */
    Fault,
};

/* Makes the page of `address` present if the program may access it so (kProtectRead, -Write or -Execute). */
[[nodiscard]] Access page_in(u64 address, u8 need);
/* page_in for all of [address, address + bytes) */
[[nodiscard]] Access touch(u64 address, u64 bytes, u8 need);

[[nodiscard]] Access copy_from_user(void* to, u64 from, u64 bytes);
[[nodiscard]] Access copy_to_user(u64 to, const void* from, u64 bytes);
[[nodiscard]] Access load_user_word(u32& to, u64 from);
/* At most `limit` - 1 bytes and a NUL; Fault when it is longer. */
[[nodiscard]] Access copy_string_from_user(char* to, u64 from, u64 limit, u64& length);
template <class T> [[nodiscard]] Access load_user(T& to, u64 from) {
    return copy_from_user(&to, from, sizeof to);
}
template <class T> [[nodiscard]] Access store_user(u64 to, const T& from) {
    return copy_to_user(to, &from, sizeof from);
}

/* Was the access good? If not, the call has ended with -EFAULT, or waits for frames to be made again: return
 * thread.outcome. */
[[nodiscard]] bool reached(Thread& thread, Access access);

} // namespace flex::tos

#endif
