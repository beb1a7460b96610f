// The devices that `flexserve sim` knows.
#pragma once

#include <string>
#include <vector>

#include "sim/simulator.h"

namespace flex::cli {

/// How fast a device is; the rest is interpolated between its smallest and its largest published model.
struct DeviceProfile {
    std::string name;
    double load_bandwidth = 0;    ///< bytes/s from storage
    double decrypt_bandwidth = 0; ///< bytes/s
};

[[nodiscard]] std::vector<DeviceProfile> known_profiles();

/// A model of a shape that `flexserve synth` knows, in Q8_0, on an RK3588. Error: std::runtime_error.
[[nodiscard]] sim::Model rk3588_model(const std::string& shape);

} // namespace flex::cli
