// flexserve attack
#pragma once

#include <vector>

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds `attack`: what a hostile normal world tries against the running device. Exit code 1 when an attack got through, could not
/// be carried out, or left the device unwell.
void register_attack(CLI::App& app);

} // namespace flex::cli
