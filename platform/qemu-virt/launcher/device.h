// One emulated device: its folder, its QEMU, and whether it answers. Used by the flexserve command and by the system tests.
//
// Thread-safety: one Device object per thread; two programs may look at the same folder, and only one can start it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "launcher/file_descriptor.h"
#include "launcher/flash.h"
#include "launcher/machine.h"
#include "launcher/process.h"

namespace flex::platform {

/// What is known of a device that was started (FOLDER/run.json).
struct RunState {
    ProcessId process;                ///< QEMU
    std::optional<NpuOptions> npu;    ///< nothing: the device has none
    ProcessId npu_process;            ///< when it has one
    std::uint16_t https_port = 0; ///< on 127.0.0.1
    std::uint16_t agent_port = 0; ///< on 127.0.0.1: the agent's control port
    int cores = 0;
    std::uint64_t memory = 0; ///< bytes
    bool attack_devices = false;
    std::int64_t started_at = 0; ///< seconds since 1970
};

/// Told once per stage reached while booting, in order.
using Progress = std::function<void(std::string_view stage, std::chrono::milliseconds since_start)>;

class Device {
public:
    /// `folder` need not exist yet.
    explicit Device(std::filesystem::path folder);

    [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
    [[nodiscard]] bool exists() const;

    /// The manufacturer's step: flash with a new root key, public identity, empty store and data. Throws when it exists.
    void create();

    /// The state of the running device; nothing when none runs.
    [[nodiscard]] std::optional<RunState> running() const;

    /// Starts the NPU's process and QEMU (creating the device when it does not exist) and returns at once.
    /// Throws DeviceError when it already runs or one of them does not start. The NPU's process ends when QEMU does.
    RunState start(const MachineOptions& options);

    /// Waits until the framework answers on HTTPS. Throws DeviceError, with the end of the log that tells why, when QEMU ends, something
    /// panics or `timeout` passes; QEMU is ended then. `cancel` may be set by a signal handler: QEMU is ended, and this throws.
    void wait_ready(std::chrono::milliseconds timeout, const Progress& progress = {},
                    const std::atomic<bool>* cancel = nullptr);

    /// Asks the guest to power off, which scrubs protected memory; ends QEMU when it does not within `patience`. Returns whether
    /// the guest went by itself. No-op (true) when nothing runs.
    bool stop(std::chrono::milliseconds patience = std::chrono::seconds(8));
    /// Ends QEMU at once.
    void kill();
    /// Warm reset: RAM keeps its content, except what the loader put there.
    void reset();

    /// Runs one line of shell in the guest's Linux. Throws when the device does not run or ends before the command.
    int exec(const std::string& line, const std::function<void(std::string_view)>& output,
             std::optional<std::chrono::milliseconds> timeout = std::nullopt);

    /// Output of exec() as text; the exit code goes to `code` when it is not null.
    std::string exec_text(const std::string& line, int* code = nullptr,
                          std::optional<std::chrono::milliseconds> timeout = std::nullopt);

    /// Connected stream to the guest's UART0.
    [[nodiscard]] FileDescriptor open_console() const;

    [[nodiscard]] RootKey root_key() const { return read_root_key(folder_ / files::kFlash); }

private:
    /// What run.json says, whether that still runs or not.
    [[nodiscard]] std::optional<RunState> last_state() const;
    [[nodiscard]] RunState need_running() const;
    [[nodiscard]] ProcessId start_npu(const MachineOptions& options) const;
    /// What a QEMU that ended by itself may leave behind.
    void end_leftovers() const;
    [[nodiscard]] FileDescriptor lock() const;
    void save(const RunState& state) const;

    std::filesystem::path folder_;
};

/// The last `lines` lines of a log file, "" when there is none. Other control characters than tab and newline are left out.
[[nodiscard]] std::string log_tail(const std::filesystem::path& file, int lines);

} // namespace flex::platform
