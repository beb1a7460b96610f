// The part of `device bench` that looks at how long a first token takes by what of the models is in memory,
// and while Linux runs short of it.
#pragma once

#include <nlohmann/json.hpp>

#include "cli/client_bench_device.h"

namespace flex::cli {

/// Boots `device`, which must not run, and makes two synthetic models for it. Medians over `rounds`. Throws
/// std::runtime_error.
[[nodiscard]] nlohmann::ordered_json measure_cache(BenchDevice& device, unsigned rounds);
void print_cache(const nlohmann::ordered_json& result);

} // namespace flex::cli
