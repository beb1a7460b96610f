#include "cli/attack/dram.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "launcher/paths.h"

namespace flex::attack {
namespace fs = std::filesystem;
using platform::DeviceError;

Dram::Dram(pid_t pid) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", error)) {
        const std::string target = fs::read_symlink(entry.path(), error);
        if (target.find("memory-backend-memfd") == std::string::npos) continue;
        file_ = platform::FileDescriptor(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
        if (file_) return;
    }
    throw DeviceError("cannot look into the memory of QEMU's process " + std::to_string(pid));
}

std::vector<std::uint64_t> Dram::find(std::string_view pattern, std::size_t limit) const {
    constexpr std::size_t kChunk = std::size_t{4} << 20;
    std::vector<std::uint64_t> found;
    std::string buffer(kChunk + pattern.size(), '\0');
    // Holes of the file are memory that was never written: all zero.
    off_t at = 0;
    while ((at = ::lseek(file_.get(), at, SEEK_DATA)) >= 0) {
        const off_t end = ::lseek(file_.get(), at, SEEK_HOLE);
        if (end < 0) break;
        for (; at < end; at += static_cast<off_t>(kChunk)) {
            // Past the chunk by a pattern's length, so that none is missed at a border.
            const ssize_t got = ::pread(file_.get(), buffer.data(), buffer.size(), at);
            if (got <= 0) break;
            const std::string_view view(buffer.data(), static_cast<std::size_t>(got));
            for (std::size_t hit = view.find(pattern); hit != view.npos && hit < kChunk; hit = view.find(pattern, hit + 1)) {
                found.push_back(static_cast<std::uint64_t>(at) + hit);
                if (found.size() == limit) return found;
            }
        }
        at = end;
    }
    if (at < 0 && errno != ENXIO) throw DeviceError(std::string("cannot read the machine's memory: ") + std::strerror(errno));
    return found;
}

} // namespace flex::attack
