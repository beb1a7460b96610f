// Owns a block of Flex-Mem.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "port/port.h"

namespace flex::memory {

/// Movable; gives the block back (zeroed by the system below) when it goes. The port must outlive it.
class FlexBuffer {
public:
    FlexBuffer() = default;
    FlexBuffer(port::Port& port, port::Block block) : port_(&port), block_(block) {}
    FlexBuffer(FlexBuffer&& other) noexcept
        : port_(other.port_), block_(std::exchange(other.block_, port::Block{})) {}
    FlexBuffer& operator=(FlexBuffer&& other) noexcept {
        std::swap(port_, other.port_);
        std::swap(block_, other.block_);
        return *this;
    }
    ~FlexBuffer() {
        if (block_.data != nullptr) port_->free(block_);
    }

    [[nodiscard]] std::span<std::byte> bytes() const { return {block_.data, block_.bytes}; }

private:
    port::Port* port_ = nullptr;
    port::Block block_;
};

} // namespace flex::memory
