// The part of `device bench` that concerns giving weights back.
#pragma once

#include <functional>

#include <nlohmann/json.hpp>

#include "cli/client_bench_device.h"

namespace flex::cli {

inline constexpr std::uint64_t kGiveBackMiB = 64;

/// 64 MiB of weights back to Linux, from the administrator's knob to its page allocator, beside what Linux needs to free as much clean
/// page cache. load() has the model in memory when it returns. Null when that has less than 64 MiB. Throws std::runtime_error.
[[nodiscard]] nlohmann::ordered_json measure_give_back(BenchDevice& device, unsigned rounds, const std::function<void()>& load);

void print_give_back(const nlohmann::ordered_json& result);

} // namespace flex::cli
