// Watches how much Linux waits for memory (PSI, Documentation/accounting/psi.rst) and asks the secure world
// for some before the shrinker, which runs only when there is none left, has to.
#ifndef FLEX_LINUX_AGENT_PRESSURE_H
#define FLEX_LINUX_AGENT_PRESSURE_H

#include "linux/agent/log.h"

#include <chrono>
#include <cstdint>
#include <string>

namespace flex::agent {

// How much to ask for: little at first, twice as much each time the pressure lasts.
class ReclaimSteps {
public:
    using Time = std::chrono::steady_clock::time_point;
    static constexpr std::uint64_t kFirst = 16u << 20, kMost = 256u << 20; // bytes
    static constexpr std::chrono::seconds kLasts{4}; // signs of pressure this close belong together

    [[nodiscard]] std::uint64_t next(Time now) {
        bytes_ = bytes_ != 0 && now - last_ <= kLasts ? (bytes_ < kMost ? 2 * bytes_ : kMost) : kFirst;
        last_ = now;
        return bytes_;
    }

private:
    Time last_{};
    std::uint64_t bytes_ = 0;
};

// Returns only when there is no PSI here; logs that. `driver`: the folder with the driver's knobs.
void watch_pressure(const std::string& pressure, const std::string& driver, Log& log);

} // namespace flex::agent

#endif
