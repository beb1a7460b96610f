// Private to the engine: whether a pass is likely to be faster on the NPU or on the CPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/forward.h"
#include "npu/driver/npu.h"

namespace flex::engine {

/// What a pass has to do.
struct PassWork {
    double macs = 0;  ///< multiplications with weights
    double bytes = 0; ///< of weights that pass by
    bool few = false; ///< so few tokens that the weights' bytes decide, not the multiplications
};

/// What passes of this work take. Few tokens are counted by the bytes of weights, many by multiplications;
/// what else there is (attention, launching jobs) is in the times that were measured.
class NpuCost {
public:
    enum Side : std::uint8_t { kCpu, kNpu };

    /// First estimates: the CPU's from a short run of its matrix kernel.
    explicit NpuCost(BatchState& state);
    /// What the NPU says of itself, until passes have been measured; where it says nothing the first pass
    /// tries it.
    void advertise(const npu::Info& info);

    [[nodiscard]] bool npu_is_faster(const PassWork& work);
    void measured(Side side, const PassWork& work, std::uint64_t nanoseconds);
    /// Nanoseconds a unit; 0: not known.
    [[nodiscard]] double rate(Side side, bool few) const { return rates_[side][few ? 1 : 0]; }

private:
    static double units(const PassWork& work) { return work.few ? work.bytes : work.macs; }

    using Rates = std::array<double, 2>; // by `few`
    std::array<Rates, 2> rates_{};       // by side
    std::array<std::array<bool, 2>, 2> measured_{}; // by side and `few`
};

} // namespace flex::engine
