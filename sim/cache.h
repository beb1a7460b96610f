// Private to the simulator: what each strategy keeps.
#pragma once

#include <memory>
#include <vector>

#include "sim/simulator.h"

namespace flex::sim {

/// The weights of all models of a device, as one strategy keeps them.
class Cache {
public:
    virtual ~Cache() = default;
    /// Bytes of each stage that a request to `model` has to bring in.
    [[nodiscard]] virtual std::vector<std::uint64_t> missing(std::uint32_t model) const = 0;
    /// A request brought in all of the model; its first token came at `first`, its last at `end`.
    virtual void used(const Request& request, double first, double end) = 0;
    /// No more than `budget` stays, but for the models in `waiting`, which requests wait for already.
    virtual void limit(double now, std::uint64_t budget, const std::vector<bool>& waiting) = 0;
    /// Nothing runs in this time, and `budget` may be filled.
    virtual void rest(double from, double to, std::uint64_t budget) = 0;
};

/// `device` must outlive it.
[[nodiscard]] std::unique_ptr<Cache> make_cache(const Device& device, Strategy strategy,
                                                const memory::PolicyOptions& options);

} // namespace flex::sim
