// KV cache out of Flex-Mem.
#pragma once

#include <functional>

#include "engine/kv_cache.h"
#include "port/port.h"

namespace flex::memory {

/// Blocks straight from the port, so that each can be given back by itself. The port must outlive it.
class FlexKvMemory final : public engine::KvMemory {
public:
    /// `make_room` is asked when the port refuses; it returns what it freed (0: there is nothing left to
    /// free).
    FlexKvMemory(port::Port& port, std::function<std::uint64_t(std::uint64_t bytes)> make_room)
        : port_(port), make_room_(std::move(make_room)) {}

    Result<std::span<std::byte>> allocate(std::size_t bytes, std::uint32_t) override {
        for (;;) {
            auto block = port_.allocate(bytes);
            if (block) return std::span(block->data, block->bytes);
            if (block.error().code != ErrorCode::kOutOfMemory || make_room_(bytes) == 0) return block.error();
        }
    }
    void free(std::span<std::byte> block) override { port_.free({block.data(), block.size()}); }

private:
    port::Port& port_;
    const std::function<std::uint64_t(std::uint64_t)> make_room_;
};

} // namespace flex::memory
