// The machine's memory as QEMU shares it: files mapped here, found by the addresses that QEMU itself has them
// at.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "npu/vhost_user/channel.h"

namespace flex::npu::vhost_user {

class GuestMemory {
public:
    GuestMemory() = default;
    GuestMemory(GuestMemory&& other) noexcept : regions_(std::exchange(other.regions_, {})) {}
    GuestMemory& operator=(GuestMemory&& other) noexcept {
        std::swap(regions_, other.regions_);
        return *this;
    }
    ~GuestMemory();

    /// Shows what the table names instead of what was shown before. False: it stays as it is, because the
    /// table is malformed, or a file cannot be mapped or is shorter than the table says. What is mapped
    /// already stays mapped: QEMU sends its table at every start of the device, and pages that were touched
    /// need not be found again.
    bool show(const Message& message);

    /// `bytes` (at least 1) from this user address on, or null when they do not lie in one region.
    [[nodiscard]] std::byte* find(std::uint64_t user_address, std::uint64_t bytes) const;

private:
    /// A part of a file, as a table names it.
    struct Part {
        std::uint64_t user_address = 0, bytes = 0, file_offset = 0;
        dev_t device = 0;
        ino_t file = 0;
        bool operator==(const Part&) const = default;
    };
    struct Region {
        Part part;
        std::byte* data = nullptr; ///< of part.user_address
        void* mapping = nullptr;
        std::size_t mapped = 0;
    };
    static std::optional<std::vector<Part>> read(const Message& message);
    static std::optional<GuestMemory> map(const std::vector<Part>& parts, const std::vector<Fd>& files);

    std::vector<Region> regions_;
};

} // namespace flex::npu::vhost_user
