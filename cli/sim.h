// flexserve sim: what requests to several models wait for, with the device's memory policy and without.
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds the subcommand to `app`. Failures leave its callback as std::exception with one line for the user.
void register_sim(CLI::App& app);

} // namespace flex::cli
