#include "launcher/paths.h"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

namespace flex::platform {
namespace fs = std::filesystem;

namespace {

// An empty variable counts as unset (XDG base directory specification).
const char* environment(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
}

} // namespace

fs::path repository() {
    if (const char* root = environment("FLEXSERVE_ROOT")) return fs::absolute(root);
    return FLEX_SOURCE_DIR;
}

fs::path data_home() {
    if (const char* home = environment("FLEXSERVE_HOME")) return fs::absolute(home);
    if (const char* xdg = environment("XDG_DATA_HOME")) return fs::absolute(fs::path(xdg) / "flexserve");
    if (const char* home = environment("HOME")) return fs::path(home) / ".local/share/flexserve";
    throw DeviceError("neither FLEXSERVE_HOME nor HOME is set: say where the device's data shall lie, e.g. "
                      "FLEXSERVE_HOME=/var/lib/flexserve");
}

fs::path device_folder(const std::string& name) {
    const auto allowed = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
    if (name.empty() || name.size() > 32 || !std::all_of(name.begin(), name.end(), allowed))
        throw DeviceError("'" + name + "' is no device name: use 1 to 32 of a-z, 0-9 and '-'");
    return data_home() / "devices" / name;
}

fs::path npu_program() { return repository() / "build/host/flexserve-npu"; }

Firmware Firmware::built() {
    const fs::path target = repository() / "build/target";
    const fs::path images = repository() / "build/device/images";
    return {
        .fiptool = target / "tfa/fiptool",
        .bl1 = target / "tfa/bl1.bin",
        .bl2 = target / "tfa/bl2.bin",
        .bl31 = target / "tfa/bl31.bin",
        .trusted_os = images / "tos.bin",
        .monitor = images / "monitor.bin",
        .kernel = target / "kernel/Image",
        .initramfs = images / "initramfs.cpio",
    };
}

void Firmware::check() const {
    for (const fs::path& file : {fiptool, bl1, bl2, bl31, trusted_os, monitor, kernel, initramfs})
        if (!fs::exists(file))
            throw DeviceError(file.string() + " is missing: run ./flexserve doctor to see what to do");
}

} // namespace flex::platform
