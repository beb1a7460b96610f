/* Byte operations. Secrets are cleared by `forget`, which the compiler may not drop. */
#ifndef FLEX_TOS_CORE_MEMORY_HPP
#define FLEX_TOS_CORE_MEMORY_HPP

#include "core/types.hpp"

namespace flex::tos {

inline void copy_bytes(void* to, const void* from, u64 bytes) { __builtin_memcpy(to, from, bytes); }
inline void fill_bytes(void* to, u8 value, u64 bytes) { __builtin_memset(to, value, bytes); }
inline bool same_bytes(const void* a, const void* b, u64 bytes) { return __builtin_memcmp(a, b, bytes) == 0; }

inline void forget(void* at, u64 bytes) {
    __builtin_memset(at, 0, bytes);
    asm volatile("" : : "r"(at) : "memory");
}

/* Time does not depend on where they differ: for authentication tags. */
inline bool same_secret(const u8* a, const u8* b, u64 bytes) {
    u8 difference = 0;
    for (u64 i = 0; i < bytes; i++) difference |= static_cast<u8>(a[i] ^ b[i]);
    return difference == 0;
}

} // namespace flex::tos

#endif
