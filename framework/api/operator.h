// Who operates a device, as opposed to who uses it: what tells of all callers, or would give a model away, is
// the operator's. The token: port::operator_token.
#pragma once

#include <string_view>

#include "port/port.h"

namespace flex::api {

/// Carries the token where Authorization is taken by an API key.
inline constexpr const char* kOperatorHeader = "Flexserve-Operator";

/// Whether a request brings the token: as "Authorization: Bearer TOKEN", or as the value of kOperatorHeader
/// ("" when the request has no such header).
[[nodiscard]] bool is_operator(port::Port& port, std::string_view authorization,
                               std::string_view operator_header);

} // namespace flex::api
