// The device's memory: a part that all cores share (quantised activations, lists), and one for each core's
// tiles.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace flex::npu::model {

/// Hands out pieces of one part of the SRAM, from its beginning each time it is made.
class Tiles {
public:
    explicit Tiles(std::span<std::byte> part) : part_(part) {}

    /// 64-byte aligned; the content is what the last user left. The caller has made sure that there is room.
    template <class T> T* take(std::size_t count) {
        const std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        assert(bytes <= part_.size());
        T* const piece = reinterpret_cast<T*>(part_.data());
        part_ = part_.subspan(bytes);
        return piece;
    }
    [[nodiscard]] std::size_t left() const { return part_.size(); }

private:
    std::span<std::byte> part_;
};

class Sram {
public:
    static constexpr std::size_t kSharedBytes = 768 << 10;
    /// One panel of FLEX_NPU_COLUMNS_MAX columns with what it makes of as many tokens as fit into the shared
    /// part.
    static constexpr std::size_t kCoreBytes = 640 << 10;

    explicit Sram(unsigned cores)
        : bytes_(kSharedBytes + cores * kCoreBytes), memory_(new (std::align_val_t{64}) std::byte[bytes_]) {
        clear();
    }

    /// Whoever writes into it says so first.
    void will_be_written() { zero_ = false; }
    [[nodiscard]] std::span<std::byte> all() const { return {memory_.get(), bytes_}; }
    [[nodiscard]] std::span<std::byte> shared() const { return all().first(kSharedBytes); }
    [[nodiscard]] std::span<std::byte> core(unsigned index) const {
        return all().subspan(kSharedBytes + index * kCoreBytes, kCoreBytes);
    }
    /// It takes most of a reset's time, and a change of hands has several resets in a row.
    void clear() {
        if (!zero_) std::memset(memory_.get(), 0, bytes_);
        zero_ = true;
    }

private:
    struct Delete {
        void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    bool zero_ = false;
    std::size_t bytes_;
    std::unique_ptr<std::byte[], Delete> memory_;
};

} // namespace flex::npu::model
