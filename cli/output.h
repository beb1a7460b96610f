// How every subcommand talks: results on stdout, progress and errors on stderr.
#pragma once

#include <string>

namespace flex::cli {

/// The command line's --json: results, and errors, as one JSON object on stdout.
[[nodiscard]] bool json_wanted();
void set_json_wanted(bool wanted);

/// Thrown out of a subcommand's callback to end the program with this exit code and without a message.
struct Exit {
    int code = 0;
};

} // namespace flex::cli
