// Made-up requests, the same for the same seed on every machine.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/simulator.h"

namespace flex::sim {

struct TraceOptions {
    std::uint32_t requests = 1000;
    std::uint32_t models = 1;
    double zipf = 1;            ///< model k (from 0) is asked in proportion to 1 / (k + 1)^zipf; 0: all alike
    double gap_seconds = 60;    ///< mean time between bursts, exponential
    std::uint32_t burst = 1;    ///< requests of a burst, to one model
    double think_seconds = 0;   ///< mean time between those of a burst, exponential; 0: they come at once
    double prompt_median = 256; ///< tokens; log-normal
    double prompt_sigma = 0.8;  ///< of the logarithm
    std::uint32_t answer = 64;  ///< tokens
    std::uint64_t seed = 1;
};

[[nodiscard]] std::vector<Request> make_requests(const TraceOptions& options);

/// A budget that falls from `full` to `low` in even steps, stays, and comes back, within `seconds`.
[[nodiscard]] std::vector<Budget> make_pressure(std::uint64_t full, std::uint64_t low, double seconds);

} // namespace flex::sim
