// One device for all tests of a program: its own folder under the build directory, attack devices, two cores.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/attack/target.h"

namespace flex::test {

/// A program that was run, with its whole output.
struct RunResult {
    int code = -1;
    std::string out, err;
};

/// Runs a program found in PATH (or by its path) and waits. `environment` adds "NAME=value" to ours.
[[nodiscard]] RunResult run_program(const std::vector<std::string>& words, const std::vector<std::string>& environment = {},
                                    std::chrono::seconds patience = std::chrono::seconds(60));

/// The `flexserve` command of this build on the device under test.
[[nodiscard]] RunResult flexserve(const std::vector<std::string>& words, const std::vector<std::string>& environment = {});

class DeviceUnderTest {
public:
    /// Makes a new device under `home` (whatever was there goes) and points FLEXSERVE_HOME to it.
    explicit DeviceUnderTest(std::filesystem::path home);
    ~DeviceUnderTest(); // powers it off

    /// Boots and waits until it answers the reference question. Throws platform::DeviceError.
    void boot(const platform::MachineOptions& options);
    /// As it was started last; for tests that find it broken.
    void reboot();
    void power_off();

    [[nodiscard]] attack::Target& target() { return *target_; }
    [[nodiscard]] platform::Device& device() { return device_; }
    [[nodiscard]] std::chrono::milliseconds boot_time() const { return boot_time_; }
    [[nodiscard]] double load_before_boot() const { return load_before_boot_; } ///< of the host, as by uptime

private:
    platform::Device device_;
    platform::MachineOptions options_;
    std::unique_ptr<attack::Target> target_;
    std::chrono::milliseconds boot_time_{};
    double load_before_boot_ = 0;
};

/// The machine that all these tests use.
[[nodiscard]] platform::MachineOptions machine_options();

} // namespace flex::test
