// flexserve test
#pragma once

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds `test`: runs the unit and system tests and ends with the line "N passed, N failed, N skipped".
void register_test(CLI::App& app);

} // namespace flex::cli
