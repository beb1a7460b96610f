// GET /metrics: what goes on, as counters, for whoever operates the device. docs/metrics.md has every name.
#pragma once

#include <map>
#include <string>

#include "api/openai.h"
#include "api/workflows.h"

namespace flex::api {

/// Prometheus text, version 0.0.4. Numbers and models' names only.
[[nodiscard]] std::string format_metrics(const ServerStatus& status,
                                         const std::map<std::string, ModelCounters>& models,
                                         const FlowCounters& flows);

} // namespace flex::api
