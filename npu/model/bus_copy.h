// Copies between the bus and here, wherever windows end.
#pragma once

#include <algorithm>
#include <cstring>

#include "npu/model/bus_memory.h"

namespace flex::npu::model {

struct [[nodiscard]] Copied {
    enum class Status : std::uint8_t { kDone, kRefused, kInterrupted };
    Status status = Status::kDone;
    std::uint64_t address = 0; ///< that was refused

    [[nodiscard]] bool done() const { return status == Status::kDone; }
};

inline Copied copy_on_bus(BusMemory& memory, std::uint64_t address, std::byte* here, std::size_t bytes,
                          Access access) {
    while (bytes > 0) {
        const Window window = memory.open(address, bytes, access);
        if (window.status == Window::Status::kInterrupted) return {Copied::Status::kInterrupted};
        if (window.status == Window::Status::kRefused) return {Copied::Status::kRefused, address};
        const std::size_t some = std::min(window.bytes, bytes);
        if (access == Access::kRead)
            std::memcpy(here, window.data, some);
        else
            std::memcpy(window.data, here, some);
        memory.close();
        here += some;
        address += some;
        bytes -= some;
    }
    return {};
}

inline Copied copy_from_bus(BusMemory& memory, std::uint64_t address, void* to, std::size_t bytes) {
    return copy_on_bus(memory, address, static_cast<std::byte*>(to), bytes, Access::kRead);
}

inline Copied copy_to_bus(BusMemory& memory, std::uint64_t address, const void* from, std::size_t bytes) {
    auto* const bytes_from = const_cast<std::byte*>(static_cast<const std::byte*>(from));
    return copy_on_bus(memory, address, bytes_from, bytes, Access::kWrite);
}

} // namespace flex::npu::model
