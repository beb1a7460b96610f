/* Fixed-width names that mean the same to Linux kernel C, freestanding C++ and user-space C++. */
#ifndef FLEX_ABI_TYPES_H
#define FLEX_ABI_TYPES_H

#ifdef __KERNEL__
#include <linux/types.h>
typedef __u8 flex_u8;
typedef __u16 flex_u16;
typedef __u32 flex_u32;
typedef __u64 flex_u64;
typedef __s64 flex_s64;
#else
#include <stdint.h>
typedef uint8_t flex_u8;
typedef uint16_t flex_u16;
typedef uint32_t flex_u32;
typedef uint64_t flex_u64;
typedef int64_t flex_s64;
#endif

#ifdef __ASSEMBLER__
#define FLEX_U64(x) (x)
#else
#define FLEX_U64(x) ((flex_u64)(x))
#endif

#ifdef __cplusplus
#define FLEX_STATIC_ASSERT(condition, why) static_assert(condition, why)
#else
#define FLEX_STATIC_ASSERT(condition, why) _Static_assert(condition, why)
#endif

#endif
