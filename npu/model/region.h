// A region: bytes that operands lie in, put together from pages of the bus (abi/npu.h, "Regions").
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "npu/model/bus_memory.h"
#include "npu/model/outcome.h"

namespace flex::npu::model {

class Region {
public:
    /// A checked flex_npu_region: the table is aligned, bytes within its limits.
    Region(BusMemory& memory, const flex_npu_region& region) : memory_(memory), region_(region) {}

    [[nodiscard]] std::uint64_t bytes() const { return region_.bytes; }

    /// Reads the tables for these bytes (at least one), each page of them once. FLEX_NPU_BAD_OPERAND: they
    /// end behind the region, or there is a hole, or a malformed entry; FLEX_NPU_FAULT: of a table. One
    /// thread at a time.
    Outcome cover(std::uint64_t offset, std::uint64_t bytes);

    struct Place {
        std::uint64_t address = 0;
        std::uint64_t bytes = 0; ///< that lie together from there on
    };
    /// Of bytes that cover() found good. Any thread.
    [[nodiscard]] Place find(std::uint64_t offset) const;
    /// Bus addresses of the pages that bytes from `first` up to `end` lie in, as many as `out` holds: how
    /// many. Of bytes that cover() found good. Any thread.
    std::size_t pages(std::uint64_t first, std::uint64_t end, std::span<std::uint64_t> out) const;

private:
    using Table = std::array<std::uint64_t, FLEX_NPU_ENTRIES>;
    Outcome load(std::uint64_t address, std::unique_ptr<Table>& table);
    Outcome cover_block(std::size_t block, std::size_t first_page, std::size_t last_page);

    BusMemory& memory_;
    const flex_npu_region region_;
    std::unique_ptr<Table> blocks_;
    std::array<std::unique_ptr<Table>, FLEX_NPU_ENTRIES> pages_; // of the blocks that are tables
};

} // namespace flex::npu::model
