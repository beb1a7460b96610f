// Moves operands between regions and SRAM.
#pragma once

#include <atomic>
#include <cstdint>

#include "npu/model/region.h"

namespace flex::npu::model {

/// `count` pieces of `bytes` each, `stride` bytes apart, in bytes that Region::cover() found good.
struct Strips {
    const Region* region = nullptr;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::uint64_t count = 1;
    std::uint64_t stride = 0;
    /// The command will move everything from here to this offset, other pieces included; 0: not known.
    std::uint64_t operand_end = 0;
};

class Dma {
public:
    /// Nothing more is moved once `stop` is set (FLEX_NPU_ABORTED).
    Dma(BusMemory& memory, const std::atomic<bool>& stop) : memory_(memory), stop_(stop) {}

    /// The pieces lie `sram_stride` bytes apart in SRAM. Any thread. Errors: FLEX_NPU_FAULT,
    /// FLEX_NPU_ABORTED.
    Outcome in(const Strips& from, void* sram, std::size_t sram_stride = 0);
    Outcome out(const void* sram, const Strips& to, std::size_t sram_stride = 0);

    /// One aligned word, as a processor would see it: what the other side wrote before it wrote the word is
    /// seen, too.
    Outcome load(const Region& region, std::uint64_t offset, std::uint64_t& word);
    Outcome store(const Region& region, std::uint64_t offset, std::uint64_t word);

    [[nodiscard]] std::uint64_t moved() const { return moved_.load(std::memory_order_relaxed); }

private:
    Outcome move(const Strips& strips, std::byte* sram, std::size_t sram_stride, Access access);
    Window open(const Region::Place& place, std::uint64_t bytes, Access access, Outcome& outcome,
                const Ahead* ahead = nullptr);

    BusMemory& memory_;
    const std::atomic<bool>& stop_;
    std::atomic<std::uint64_t> moved_{0};
};

} // namespace flex::npu::model
