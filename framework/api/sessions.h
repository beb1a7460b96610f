// GET and DELETE /flexserve/sessions: what is kept of a caller's conversations, for that caller.
#pragma once

#include <httplib.h>

#include "api/caller.h"
#include "pipeline/registry.h"

namespace flex::api {

/// Names the conversation's key of a caller without an API key (prompt_cache_key of its requests).
inline constexpr const char* kCacheKeyHeader = "Prompt-Cache-Key";

/// `models` and `callers` must outlive the server.
void route_sessions(httplib::Server& server, pipeline::Registry& models, const Callers& callers);

} // namespace flex::api
