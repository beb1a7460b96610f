// The machine's memory as QEMU shares it: files mapped here, found by the addresses that QEMU itself has them
// at.
#pragma once

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

    /// Nothing when the table is malformed, or a file cannot be mapped or is shorter than the table says.
    static std::optional<GuestMemory> map(const Message& message);

    /// `bytes` (at least 1) from this user address on, or null when they do not lie in one region.
    [[nodiscard]] std::byte* find(std::uint64_t user_address, std::uint64_t bytes) const;

private:
    struct Region {
        std::uint64_t user_address = 0, bytes = 0;
        std::byte* data = nullptr; ///< of user_address
        void* mapping = nullptr;
        std::size_t mapped = 0;
    };
    std::vector<Region> regions_;
};

} // namespace flex::npu::vhost_user
