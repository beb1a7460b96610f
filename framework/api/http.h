// What the addresses of the server have in common. For api/ alone: it brings in all of httplib.
#pragma once

#include <httplib.h>

#include "base/result.h"

namespace flex::api {

inline constexpr const char* kJson = "application/json";

/// With the status that fits, as JSON.
void send_error(httplib::Response& response, const Error& error);

/// Whether the client of a request under way has gone. Only from the thread that serves the connection.
bool peer_has_gone(const httplib::Request& request);

} // namespace flex::api
