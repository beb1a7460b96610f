// Small clients for what a running device offers on the host. All throw DeviceError.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "launcher/file_descriptor.h"
#include "launcher/paths.h"

namespace flex::platform {

/// Connected stream to FOLDER/NAME. Works for folders whose path is longer than a socket address may be.
[[nodiscard]] FileDescriptor connect_unix(const std::filesystem::path& folder, const std::string& name);

/// Connected stream to 127.0.0.1:port; nothing when nobody listens there.
[[nodiscard]] std::optional<FileDescriptor> connect_local(std::uint16_t port);

/// `wanted` when it is free on 127.0.0.1, else (and for 0) some free port. Another program may still take it.
[[nodiscard]] std::uint16_t free_port(std::uint16_t wanted, std::uint16_t except = 0);

/// Sends one QMP command (without arguments) to the machine in `folder` and returns the reply's "return" as JSON text.
std::string qmp(const std::filesystem::path& folder, const std::string& command,
                std::chrono::milliseconds timeout = std::chrono::seconds(5));

/// Runs one line of shell in the guest through the agent's control port (linux/agent) and hands its output on as it comes.
/// Returns the exit code; nothing when the connection ended without one. `timeout` is for the whole command; none: no limit.
std::optional<int> agent_exec(std::uint16_t port, const std::string& line,
                              const std::function<void(std::string_view)>& output,
                              std::optional<std::chrono::milliseconds> timeout = std::nullopt);

/// GET /health over HTTPS on 127.0.0.1; true for status 200. The certificate is not judged: this asks whether anybody is
/// there, and tells nobody anything.
[[nodiscard]] bool https_healthy(std::uint16_t port, std::chrono::milliseconds timeout);

} // namespace flex::platform
