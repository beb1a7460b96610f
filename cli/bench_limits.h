// What the machine can do at best: the two limits that the engine's figures are held against.
#pragma once

#include <cstddef>
#include <span>

namespace flex::engine {
class ThreadPool;
}

namespace flex::cli {

/// All threads multiplying int8 in registers.
struct Int8Limit {
    double gmac_s = 0;     ///< 0: this machine's instructions are not known
    const char* kind = ""; ///< the instructions, e.g. "maddubs + madd"
};

/// Best of several short rounds (about a quarter of a second in all). `kernels` is the name of the kernel
/// table, since tables differ in the instructions they may use.
[[nodiscard]] Int8Limit measure_int8(engine::ThreadPool& pool, const char* kernels);

/// GB/s at which all threads read `memory` (each piece a multiple of 64 bytes, aligned to 64) and do nothing
/// with it: the best of a few ways to read, each tried twice. To be taken beside what is held against it: a
/// shared machine's memory has other owners from one second to the next.
[[nodiscard]] double measure_read(engine::ThreadPool& pool,
                                  std::span<const std::span<const std::byte>> memory);

} // namespace flex::cli
