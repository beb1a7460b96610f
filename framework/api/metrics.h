// GET /metrics: what goes on, as counters, for whoever operates the device. docs/metrics.md has every name.
#pragma once

#include <map>
#include <string>

#include "api/openai.h"
#include "api/workflows.h"
#include "port/port.h"

namespace flex::api {

/// Derives the operator's token from the device's root key (Port::device_key), in hexadecimal. Who has the
/// device's flash can do the same; its clients cannot.
inline constexpr std::string_view kOperatorKeyLabel = "flexserve/operator/v1";

/// Whether a request comes from the operator: "Authorization: Bearer TOKEN".
[[nodiscard]] bool is_operator(port::Port& port, std::string_view authorization);

/// Prometheus text, version 0.0.4. Numbers and models' names only.
[[nodiscard]] std::string format_metrics(const ServerStatus& status,
                                         const std::map<std::string, ModelCounters>& models,
                                         const FlowCounters& flows);

} // namespace flex::api
