// The device that `device bench` measures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/client_api.h"
#include "launcher/device.h"

namespace flex::cli {

inline constexpr const char* kSysfs = "/sys/class/misc/flexserve/";

/// Takes the middle one, the higher of two; not empty.
[[nodiscard]] double median(std::vector<double> values);

/// About `tokens` tokens, of which the first two tell the prompts of 676 numbers apart.
[[nodiscard]] std::string distinct_prompt(unsigned tokens, unsigned number);

struct BenchMachine {
    int cores = 2;
    bool instructions = false; ///< the guest's clock counts instructions
    platform::NpuOptions npu;  ///< how fast its NPU is
};

/// A device for this measurement alone; gone afterwards. All throw std::runtime_error.
class BenchDevice {
public:
    explicit BenchDevice(const BenchMachine& machine);
    ~BenchDevice();
    BenchDevice(const BenchDevice&) = delete;
    BenchDevice& operator=(const BenchDevice&) = delete;

    /// Seconds from the start of QEMU to the first answer over HTTPS.
    double boot();
    /// Content of a file of the driver, relative to kSysfs.
    [[nodiscard]] std::string text(const std::string& name);
    [[nodiscard]] std::uint64_t number(const std::string& name);
    void write(const std::string& file, const std::string& value);
    /// A line of shell in the device's Linux, which must succeed; its output.
    std::string run(const std::string& line);
    /// Puts a program of build/device/linux into the device's /data.
    void bring(const std::string& program);
    /// Linux takes back all it can get, so that the next question loads the model again.
    void take_memory_back();
    [[nodiscard]] ApiClient api() const;

    /// Ends the secure program and serves in the device's Linux instead, without protection, on the same
    /// port: the program `flexserved` with `arguments`, at home in /data/normal, which normal_folder() is on
    /// this machine.
    void serve_in_linux(const std::string& arguments);
    [[nodiscard]] ApiClient api_of_linux() const;
    [[nodiscard]] std::filesystem::path normal_folder() const;
    [[nodiscard]] const std::filesystem::path& folder() const { return device_.folder(); }

private:
    platform::Device device_;
    platform::MachineOptions options_;
    std::uint16_t normal_port_ = 0; ///< of this machine
};

} // namespace flex::cli
