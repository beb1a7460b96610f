// flexserve doctor
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds `doctor`: what is missing on this machine, and how to mend it. Exit code 1 when something is.
void register_doctor(CLI::App& app);

} // namespace flex::cli
