// flexserve device up|down|status|console|logs|exec|reset
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds `device` and its subcommands to `app`. Failures leave as flex::platform::DeviceError.
void register_device(CLI::App& app);

} // namespace flex::cli
