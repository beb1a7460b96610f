// flexserve synth: models of true shapes with random weights, for benchmarks where no real model may be had.
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds the subcommand to `app`. Failures leave its callback as std::exception with one line for the user.
void register_synth(CLI::App& app);

} // namespace flex::cli
