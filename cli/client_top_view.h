// The picture of flexserve top, from figures alone.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "cli/client_metrics.h"

namespace flex::cli {

struct TopSnapshot {
    Metrics metrics;
    bool has_stats = false;                   ///< there is a monitor to ask
    std::map<std::string, std::string> stats; ///< "monitor/aborts_read": "3", …
};

/// "path:value" lines, as grep prints them.
[[nodiscard]] std::map<std::string, std::string> parse_stats(std::string_view text);

/// [####....], `width` characters between the brackets.
[[nodiscard]] std::string bar(double part, double whole, int width);

/// Lines of at most `columns` characters (at least 60 are assumed).
[[nodiscard]] std::string render_top(const TopSnapshot& snapshot, int columns);

} // namespace flex::cli
