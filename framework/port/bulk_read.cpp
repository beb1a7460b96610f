#include "port/bulk_read.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "port/files.h"

namespace flex::port {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPiece = 2u << 20; // one request
constexpr unsigned kReaders =
    4; // requests under way: two keep a virtual disk at 85 % of its speed, four at all of it

Error read_error(std::uint64_t at, ssize_t got) {
    const std::string reason = got == 0 ? "the file ends" : std::strerror(errno);
    return fail(ErrorCode::kIo, "cannot load: " + reason + " at byte " + std::to_string(at));
}

/// What read() calls leave to do: start over where they stopped, be interrupted.
Status read_all(int file, std::uint64_t offset, std::span<std::byte> out) {
    while (!out.empty()) {
        const ssize_t got = ::pread(file, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return read_error(offset, got);
        const auto step = std::min(static_cast<std::size_t>(got), out.size());
        out = out.subspan(step);
        offset += step;
    }
    return {};
}

/// Whether most of the range is in the page cache (or the system does not say).
bool is_cached(int file, std::uint64_t offset, std::size_t bytes) {
    void* map = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, static_cast<off_t>(offset));
    if (map == MAP_FAILED) return true;
    std::vector<unsigned char> pages((bytes + kPage - 1) / kPage);
    const bool known = ::mincore(map, bytes, pages.data()) == 0;
    ::munmap(map, bytes);
    const auto present = std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; });
    return !known || static_cast<std::size_t>(present) > pages.size() / 2;
}

/// The same file without the page cache, or nothing.
File open_direct(int file) {
    return File(::open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
}

/// Piece after piece, by several threads.
class DirectRead {
public:
    DirectRead(int direct, int ordinary, std::uint64_t offset, std::span<std::byte> out)
        : direct_(direct), ordinary_(ordinary), offset_(offset), out_(out) {}

    Status run() {
        std::vector<std::thread> helpers;
        const std::size_t pieces = (out_.size() + kPiece - 1) / kPiece;
        try {
            while (helpers.size() + 1 < std::min<std::size_t>(kReaders, pieces))
                helpers.emplace_back([this] { work(); });
        } catch (const std::system_error&) { // fewer, then
        }
        work();
        for (std::thread& helper : helpers) helper.join();
        if (error_) return *error_;
        return {};
    }

private:
    void work() {
        for (;;) {
            const std::size_t begin = next_.fetch_add(kPiece);
            if (begin >= out_.size()) return;
            const auto piece = out_.subspan(begin, std::min(kPiece, out_.size() - begin));
            Status status = read_all(direct_, offset_ + begin, piece);
            // Some file systems refuse O_DIRECT when it comes to reading.
            if (!status.ok()) status = read_all(ordinary_, offset_ + begin, piece);
            if (status.ok()) continue;
            const std::lock_guard lock(mutex_);
            if (!error_) error_ = status.error();
            next_ = out_.size();
            return;
        }
    }

    const int direct_, ordinary_;
    const std::uint64_t offset_;
    const std::span<std::byte> out_;
    std::atomic<std::size_t> next_{0};
    std::mutex mutex_;
    std::optional<Error> error_;
};

} // namespace

Status read_bulk(int file, std::uint64_t offset, std::span<std::byte> out) {
    const bool aligned = (offset | out.size() | reinterpret_cast<std::uintptr_t>(out.data())) % kPage == 0;
    if (!aligned || out.size() < kPiece || is_cached(file, offset, out.size()))
        return read_all(file, offset, out);
    const File direct = open_direct(file);
    if (direct.get() < 0) return read_all(file, offset, out);
    return DirectRead(direct.get(), file, offset, out).run();
}

} // namespace flex::port
