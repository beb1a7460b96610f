// QEMU's command line for one device.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launcher/paths.h"

namespace flex::platform {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
inline constexpr std::uint16_t kGuestHttpsPort = 8443;
inline constexpr std::uint16_t kGuestAgentPort = 7001;

/// What the NPU's process takes.
inline constexpr double kNpuTopsMax = 8000, kNpuDramGbpsMax = 4000, kNpuLaunchUsMax = 1e6;

/// The NPU's performance model; 0: unlimited, as fast as the host can.
struct NpuOptions {
    double tops = 0;      ///< int8 operations a second, in 10^12
    double dram_gbps = 0; ///< between memory and its SRAM, in 10^9 bytes a second
    double launch_us = 0; ///< from a job's arrival to its start
};

struct MachineOptions {
    int cores = 2;                      ///< 1..4
    std::uint64_t memory = 2 * kGiB;    ///< bytes, 1..16 GiB, multiple of 2 MiB
    std::uint16_t https_port = 0;       ///< on 127.0.0.1; 0: 8443 when free, else any free one
    std::optional<NpuOptions> npu = NpuOptions{}; ///< nothing: a device without one
    bool attack_devices = false;        ///< adds what linux/attack drives: PCI devices that do DMA wherever they are told
    bool ends_with_us = false;          ///< QEMU is killed when the calling thread ends
    bool counts_instructions = false;   ///< the guest's clock moves on by 2 ns an instruction, whatever the host does
    bool stop_on_reset = false;         ///< QEMU ends instead of restarting the guest
    Firmware firmware = Firmware::built();
    /// init_on_alloc=0: what is lent or comes back is zeroed by the trusted OS; Linux need not do it once more (docs/decisions.md).
    std::string kernel_command_line = "console=ttyAMA0 loglevel=7 panic=5 cryptomgr.notests=1 init_on_alloc=0";
    std::vector<std::string> extra_arguments; ///< appended to QEMU's

    /// Throws DeviceError when a value is outside its range.
    void check() const;
};

/// Names of files within a device's folder, shared by everyone who looks at a running device.
namespace files {
inline constexpr const char* kFlash = "flash.bin";
inline constexpr const char* kStore = "store"; ///< shared with the guest, read-only: packages
inline constexpr const char* kData = "data";   ///< shared with the guest, writable
inline constexpr const char* kState = "run.json";
inline constexpr const char* kLock = "lock";
inline constexpr const char* kQmpSocket = "qmp.sock";
inline constexpr const char* kConsoleSocket = "console.sock";
inline constexpr const char* kConsoleLog = "console.log";
inline constexpr const char* kSecureLog = "secure.log";
inline constexpr const char* kQemuLog = "qemu.log";
inline constexpr const char* kNpuSocket = "npu.sock";
inline constexpr const char* kNpuLog = "npu.log";
inline constexpr const char* kLoaderInfo = "loader-info.bin";
} // namespace files

/// Everything relative to the device's folder, QEMU's working directory.
[[nodiscard]] std::vector<std::string> qemu_arguments(const MachineOptions& options, std::uint16_t https_port,
                                                      std::uint16_t agent_port);

/// Command line of the NPU's process, which has to listen before QEMU starts; relative to the device's folder, too.
[[nodiscard]] std::vector<std::string> npu_arguments(const NpuOptions& options);

/// The page that tells the monitor what was loaded (BOARD_LOADER_INFO_BASE in include/board.h).
[[nodiscard]] std::string loader_info(const MachineOptions& options);

} // namespace flex::platform
