// Where things lie on the developer's machine.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

namespace flex::platform {

/// The one error type of this room. what() is one line for the user that says what to do.
class DeviceError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The repository: environment FLEXSERVE_ROOT, else where this program was built from.
[[nodiscard]] std::filesystem::path repository();

/// The user's data: FLEXSERVE_HOME, else $XDG_DATA_HOME/flexserve, else ~/.local/share/flexserve. Not created.
[[nodiscard]] std::filesystem::path data_home();

/// data_home()/devices/NAME. Throws DeviceError unless NAME is 1..32 of a-z, 0-9 and '-'.
[[nodiscard]] std::filesystem::path device_folder(const std::string& name = "default");

/// The NPU's model, a program of the host.
[[nodiscard]] std::filesystem::path npu_program();

/// The images a device boots from. Paths are absolute.
struct Firmware {
    std::filesystem::path fiptool, bl1, bl2, bl31; ///< TF-A
    std::filesystem::path trusted_os;              ///< BL32, with the framework inside
    std::filesystem::path monitor;                 ///< BL33
    std::filesystem::path kernel, initramfs;

    /// What `./flexserve` built and fetched.
    [[nodiscard]] static Firmware built();
    /// Throws DeviceError naming the first missing file.
    void check() const;
};

} // namespace flex::platform
