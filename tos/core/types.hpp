/* Words every part of the trusted OS uses. Freestanding; also builds natively for the tests. */
#ifndef FLEX_TOS_CORE_TYPES_HPP
#define FLEX_TOS_CORE_TYPES_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace flex::tos {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

constexpr u64 kPageBytes = 4096;
constexpr u64 kBlockBytes = u64{2} << 20;
constexpr u64 kPagesPerBlock = kBlockBytes / kPageBytes;

/* Linux error numbers (asm-generic), negative as a system call returns them. */
enum Error : i32 {
    kOk = 0,
    kEperm = -1,
    kEnoent = -2,
    kEintr = -4,
    kEio = -5,
    kEbadf = -9,
    kEagain = -11,
    kEnomem = -12,
    kEacces = -13,
    kEfault = -14,
    kEbusy = -16,
    kEexist = -17,
    kEnodev = -19,
    kEnotdir = -20,
    kEisdir = -21,
    kEinval = -22,
    kEmfile = -24,
    kEnotty = -25,
    kEspipe = -29,
    kErofs = -30,
    kEpipe = -32,
    kErange = -34,
    kEnametoolong = -36,
    kEnosys = -38,
    kEnotsock = -88,
    kEprotonosupport = -93,
    kEopnotsupp = -95,
    kEafnosupport = -97,
    kEnotconn = -107,
    kEtimedout = -110,
    kEconnrefused = -111,
};
constexpr i64 kErrorLowest = -4095; /* Linux: results in [-4095, -1] are error numbers */

template <class T> struct Result {
    T value{};
    Error error = kOk;

    Result(T v) : value(v) {}
    Result(Error e) : error(e) {}
    [[nodiscard]] bool ok() const { return error == kOk; }
};

/* A piece of memory: no ownership. */
template <class T> struct Span {
    T* data = nullptr;
    u64 size = 0;

    constexpr Span() = default;
    constexpr Span(T* d, u64 n) : data(d), size(n) {}
    template <u64 N> constexpr Span(T (&array)[N]) : data(array), size(N) {}
    constexpr T& operator[](u64 i) const { return data[i]; }
    constexpr T* begin() const { return data; }
    constexpr T* end() const { return data + size; }
};
using Bytes = Span<const u8>;

constexpr u64 align_down(u64 x, u64 to) { return x & ~(to - 1); }
constexpr u64 align_up(u64 x, u64 to) { return (x + to - 1) & ~(to - 1); }
constexpr bool is_aligned(u64 x, u64 to) { return (x & (to - 1)) == 0; }
/* Not __builtin_popcount: libgcc's uses FP registers, which are the lower level's or the other world's. */
constexpr u32 ones_in(u32 x) {
    u32 count = 0;
    for (; x != 0; x &= x - 1) count++;
    return count;
}
template <class T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> constexpr T max(T a, T b) { return a < b ? b : a; }

} // namespace flex::tos

#endif
