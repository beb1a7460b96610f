// KV cache in one piece of the address space, for an NPU whose driver maps nothing else (LinuxNpu).
#pragma once

#include <sys/mman.h>

#include <memory>

#include "engine/kv_cache.h"

namespace flex::memory {

/// Slot after slot. Takes memory as blocks are written, and keeps it to the end: the driver has it pinned.
class KvArena final : public engine::KvMemory {
public:
    /// Blocks of `block_bytes` (whole pages) in slots below `slots`. Error: kOutOfMemory.
    static Result<std::unique_ptr<KvArena>> create(std::size_t block_bytes, std::size_t slots) {
        void* map = ::mmap(nullptr, block_bytes * slots, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED) {
            return fail(ErrorCode::kOutOfMemory,
                        "no room for " + std::to_string((block_bytes * slots) >> 20) + " MiB of KV cache");
        }
        return std::unique_ptr<KvArena>(new KvArena(static_cast<std::byte*>(map), block_bytes, slots));
    }
    ~KvArena() override { ::munmap(begin_, block_bytes_ * slots_); }
    KvArena(const KvArena&) = delete;
    KvArena& operator=(const KvArena&) = delete;

    Result<std::span<std::byte>> allocate(std::size_t bytes, std::uint32_t slot) override {
        if (bytes != block_bytes_ || slot >= slots_)
            return fail(ErrorCode::kOutOfMemory, "no such block of the KV cache");
        return std::span(begin_ + slot * block_bytes_, block_bytes_);
    }
    void free(std::span<std::byte>) override {}

private:
    KvArena(std::byte* begin, std::size_t block_bytes, std::size_t slots)
        : begin_(begin), block_bytes_(block_bytes), slots_(slots) {}
    std::byte* const begin_;
    const std::size_t block_bytes_, slots_;
};

} // namespace flex::memory
