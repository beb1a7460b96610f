// flexserve synth: models of true shapes with random weights, for benchmarks where no real model may be had.
#pragma once

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds the subcommand to `app`. Failures leave its callback as std::exception with one line for the user.
void register_synth(CLI::App& app);

/// Writes a model of that shape with random weights. Throws std::runtime_error.
void write_synth_model(const std::string& shape, const std::string& output, std::uint64_t seed);

} // namespace flex::cli
