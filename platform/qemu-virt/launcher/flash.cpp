#include "launcher/flash.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "board.h"
#include "launcher/file_descriptor.h"

extern char** environ;

namespace flex::platform {
namespace fs = std::filesystem;

namespace {

std::string reason() { return std::strerror(errno); }

std::vector<char> read_file(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw DeviceError("cannot read " + file.string() + ": " + reason());
    return {std::istreambuf_iterator<char>(in), {}};
}

void write_all(int fd, const void* data, std::size_t bytes, off_t offset, const fs::path& file) {
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
        const ssize_t written = ::pwrite(fd, at, bytes, offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) throw DeviceError("cannot write " + file.string() + ": " + reason());
        at += written;
        offset += written;
        bytes -= static_cast<std::size_t>(written);
    }
}

// True when the flash already has `content` at `offset`.
bool holds(int fd, const std::vector<char>& content, off_t offset) {
    std::vector<char> present(content.size());
    const ssize_t got = ::pread(fd, present.data(), present.size(), offset);
    return got == static_cast<ssize_t>(content.size()) && present == content;
}

void compose_fip(const Firmware& firmware, const fs::path& fip) {
    std::vector<std::string> words = {firmware.fiptool, "create",   "--tb-fw", firmware.bl2,     "--soc-fw", firmware.bl31,
                                      "--tos-fw",       firmware.trusted_os, "--nt-fw", firmware.monitor, fip};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = 0;
    if (const int error = posix_spawn(&child, arguments[0], nullptr, nullptr, arguments.data(), environ); error != 0)
        throw DeviceError("cannot run " + words[0] + ": " + std::strerror(error));
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        throw DeviceError("fiptool could not compose the firmware from " + firmware.trusted_os.string() + " and " +
                          firmware.monitor.string());
}

} // namespace

void create_flash(const fs::path& file) {
    if (fs::exists(file)) throw DeviceError(file.string() + " exists already");
    const fs::path fresh = file.string() + ".new";
    const FileDescriptor fd(::open(fresh.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) throw DeviceError("cannot make " + fresh.string() + ": " + reason());
    if (::ftruncate(fd.get(), BOARD_SECURE_FLASH_BYTES) != 0)
        throw DeviceError("cannot make " + fresh.string() + ": " + reason());
    // Erased NOR flash reads as ones; the sectors that the trusted OS writes start erased.
    const std::vector<unsigned char> erased(BOARD_SECURE_FLASH_BYTES - BOARD_FLASH_ROOT_KEY_OFFSET, 0xff);
    write_all(fd.get(), erased.data(), erased.size(), BOARD_FLASH_ROOT_KEY_OFFSET, fresh);
    RootKey key;
    if (::getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size()))
        throw DeviceError("this machine gives no random numbers: " + reason());
    write_all(fd.get(), key.data(), key.size(), BOARD_FLASH_ROOT_KEY_OFFSET, fresh);
    if (::fsync(fd.get()) != 0) throw DeviceError("cannot write " + fresh.string() + ": " + reason());
    fs::rename(fresh, file);
}

RootKey read_root_key(const fs::path& file) {
    const FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    RootKey key;
    if (!fd || ::pread(fd.get(), key.data(), key.size(), BOARD_FLASH_ROOT_KEY_OFFSET) != static_cast<ssize_t>(key.size()))
        throw DeviceError("cannot read the device's flash " + file.string() + ": " + reason());
    return key;
}

void write_firmware(const fs::path& flash, const Firmware& firmware, const fs::path& scratch) {
    const fs::path fip_file = scratch / "fip.bin";
    compose_fip(firmware, fip_file);
    const std::vector<char> bl1 = read_file(firmware.bl1);
    const std::vector<char> fip = read_file(fip_file);
    fs::remove(fip_file);
    if (bl1.size() > BOARD_FLASH_FIP_OFFSET - BOARD_FLASH_BL1_OFFSET)
        throw DeviceError("BL1 is too large for its place in the flash");
    if (fip.size() > BOARD_FLASH_ROOT_KEY_OFFSET - BOARD_FLASH_FIP_OFFSET)
        throw DeviceError("the firmware package is too large for its place in the flash");

    const FileDescriptor fd(::open(flash.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) throw DeviceError("cannot open the device's flash " + flash.string() + ": " + reason());
    if (holds(fd.get(), bl1, BOARD_FLASH_BL1_OFFSET) && holds(fd.get(), fip, BOARD_FLASH_FIP_OFFSET)) return;
    write_all(fd.get(), bl1.data(), bl1.size(), BOARD_FLASH_BL1_OFFSET, flash);
    write_all(fd.get(), fip.data(), fip.size(), BOARD_FLASH_FIP_OFFSET, flash);
}

} // namespace flex::platform
