// The part of `device bench` that concerns the NPU.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "cli/client_bench_device.h"

namespace flex::cli {

struct NpuBenchOptions {
    std::string model; ///< a GGUF
    unsigned rounds = 5;
    bool in_linux = true; ///< also in the device's Linux, without protection
    bool on_cpu = true;   ///< also without the NPU
};

/// Cost of changing hands and of an empty job, and inference in the secure world and in Linux. Boots `device`
/// as it needs it; what was in it is gone. Throws std::runtime_error.
[[nodiscard]] nlohmann::ordered_json measure_npu(BenchDevice& device, const NpuBenchOptions& options);

void print_npu(const nlohmann::ordered_json& result);

} // namespace flex::cli
