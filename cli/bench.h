// flexserve bench: how fast the engine is, beside what the machine could do.
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds the subcommand to `app`. Failures leave its callback as std::exception with one line for the user.
void register_bench(CLI::App& app);

} // namespace flex::cli
