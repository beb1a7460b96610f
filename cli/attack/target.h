// The device under attack: what an attacker of the normal world can do to it, and how to tell that it is still well.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "cli/attack/api_client.h"
#include "cli/attack/attack.h"
#include "launcher/device.h"

namespace flex::attack {

/// Throws platform::DeviceError where the device cannot be reached at all. One thread at a time.
class Target {
public:
    /// `device` must outlive it. model_file: the GGUF whose weights are to be kept secret.
    Target(platform::Device& device, std::filesystem::path model_file);

    [[nodiscard]] platform::Device& device() { return device_; }
    [[nodiscard]] const std::filesystem::path& model_file() const { return model_file_; }
    [[nodiscard]] ApiClient api() const; ///< a client like any other
    [[nodiscard]] ApiClient operator_api() const;
    [[nodiscard]] bool has_attack_devices() const;

    /// Seals the model for the device if it has it not, and asks for the answer that every later one is compared with.
    void prepare();
    [[nodiscard]] const Completion& reference() const { return reference_; }
    [[nodiscard]] Query reference_query(const std::string& model = kModel) const;

    /// Asks again. Nothing when the device answers as it did at first; else what is wrong. Waits for a device that is busy
    /// recovering, `patience` at most.
    [[nodiscard]] std::optional<std::string> damage(std::chrono::milliseconds patience = std::chrono::seconds(30)) const;

    /// One line of shell as root of the normal world.
    std::string exec(const std::string& line, std::chrono::milliseconds timeout = std::chrono::seconds(60), int* code = nullptr);
    /// A number under /sys/class/misc/flexserve/, e.g. "tos/program_starts".
    [[nodiscard]] std::uint64_t stat(const std::string& name);

    /// One command of flexattack.ko (linux/attack), which is loaded when it is not; returns the lines it answers.
    std::string kernel(const std::string& command, std::chrono::milliseconds timeout = std::chrono::seconds(120));
    /// The same, judged: BREACH if any line says so, else the first line.
    Outcome kernel_outcome(const std::string& command, std::chrono::milliseconds timeout = std::chrono::seconds(120));

    /// How the agent lies from now on (linux/agent/hostile.h); "none": not at all.
    void set_lie(const std::string& mode);

    /// A package of the model under another name, newer than every one of that name before. Returns its version.
    std::uint64_t seal_as(const std::string& name, std::uint64_t version = 0);
    [[nodiscard]] std::filesystem::path package_file(const std::string& name) const;
    void remove_package(const std::string& name);
    /// Makes the framework forget all models that nobody uses. Waits until they are gone; false when they stay.
    bool drop_models();

    /// Ends the framework; nothing of it stays in memory. False: it did not end.
    bool stop_program();
    /// Starts it again, the agent with it, and waits until it answers; false: it does not.
    bool start_program();
    /// What the normal world stores for the framework (the device's /data).
    [[nodiscard]] std::filesystem::path data_folder() const;

    static constexpr const char* kModel = "demo";

private:
    void load_module();

    platform::Device& device_;
    std::filesystem::path model_file_;
    Completion reference_;
};

/// The demo model in the repository, or nothing when there is none.
[[nodiscard]] std::optional<std::filesystem::path> demo_model_file();

struct Sealing {
    std::filesystem::path gguf;
    std::string name;
    std::uint64_t version = 0;  ///< 0: the time, so that it always rises
    std::filesystem::path file; ///< empty: NAME.flex in the device's store
    bool for_another_device = false;
    bool by_another_publisher = false;
};

/// Seals a model for `device`. Returns the version. Throws DeviceError.
std::uint64_t seal_for(const platform::Device& device, const Sealing& sealing);

} // namespace flex::attack
