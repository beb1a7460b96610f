// A process that may outlive the program that started it, recognised again by pid and start time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/paths.h"

namespace flex::platform {

struct ProcessId {
    pid_t pid = 0;
    std::uint64_t start_time = 0; ///< clock ticks since the host's boot: tells a reused pid apart
};

/// True while that very process runs (a zombie does not).
[[nodiscard]] bool is_running(const ProcessId& id);

/// Starts arguments[0] (found in PATH) in a session of its own, with working directory `folder`, no input, and output to
/// FOLDER/LOG. Throws DeviceError when it cannot be executed; `missing` is the message when there is no such program.
/// kEndsWithUs: it is killed when the calling thread ends, however that comes about.
enum class Lifetime : bool { kOutlivesUs, kEndsWithUs };
[[nodiscard]] ProcessId spawn_detached(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                                       const std::string& log, const std::string& missing,
                                       Lifetime lifetime = Lifetime::kOutlivesUs);

/// The process has a unix socket that takes connections.
[[nodiscard]] bool is_listening(const ProcessId& id);

/// False when it still runs after `patience`.
bool wait_for_end(const ProcessId& id, std::chrono::milliseconds patience);

/// Asks it to end (SIGTERM), and ends it when it does not within `patience`. No-op when it does not run.
void end_process(const ProcessId& id, std::chrono::milliseconds patience);

} // namespace flex::platform
