// The part of `device bench` that concerns the NPU.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "cli/client_bench_device.h"

namespace flex::cli {

/// Cost of changing hands and of an empty job, and inference with `model` (a GGUF) in the secure world and in
/// the device's Linux, with the NPU and without. Boots `device` as it needs it; what was in it is gone.
/// Throws std::runtime_error.
[[nodiscard]] nlohmann::ordered_json measure_npu(BenchDevice& device, const std::string& model,
                                                 unsigned rounds,
                                         bool in_linux);

void print_npu(const nlohmann::ordered_json& result);

} // namespace flex::cli
