// What the machine can do at best: the two limits that the engine's figures are held against.
#pragma once

namespace flex::engine {
class ThreadPool;
}

namespace flex::cli {

struct Limits {
    double read_gb_s = 0;   ///< all threads reading memory, each its own part, far more than the caches hold
    double int8_gmac_s = 0; ///< all threads multiplying int8 in registers, with the instructions named below
    const char* int8_kind = ""; ///< e.g. "maddubs + madd"
};

/// Best of several short rounds (about half a second in all). `kernels` is the name of the kernel table,
/// since tables differ in the instructions they may use.
[[nodiscard]] Limits measure_limits(engine::ThreadPool& pool, const char* kernels);

} // namespace flex::cli
