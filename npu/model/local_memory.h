// The memory of this process as the device's bus: a bus address is a pointer. For tests of whoever uses the
// device.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "npu/model/bus_memory.h"

namespace flex::npu::model {

class LocalMemory final : public BusMemory {
public:
    /// Everything is granted: a wrong address is an error as it is in any program.
    LocalMemory() = default;
    /// Only these are granted, for reading and writing.
    explicit LocalMemory(std::vector<std::span<std::byte>> granted)
        : granted_(std::move(granted)), all_(false) {}

    void close() override {}

    [[nodiscard]] static std::uint64_t bus_address(const void* p) {
        return reinterpret_cast<std::uintptr_t>(p);
    }

private:
    Window open_window(std::uint64_t address, std::uint64_t bytes, Access, const Ahead*) override {
        if (all_) return {Window::Status::kOpen, pointer(address), static_cast<std::size_t>(bytes)};
        for (const std::span<std::byte> part : granted_) {
            const std::uint64_t first = bus_address(part.data());
            if (address < first || address - first >= part.size()) continue;
            const std::uint64_t left = part.size() - (address - first);
            return {Window::Status::kOpen, pointer(address), static_cast<std::size_t>(std::min(left, bytes))};
        }
        return {};
    }
    static std::byte* pointer(std::uint64_t address) { return reinterpret_cast<std::byte*>(address); }

    std::vector<std::span<std::byte>> granted_;
    bool all_ = true;
};

} // namespace flex::npu::model
