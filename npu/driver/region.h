// The tables that tell the NPU where the pages of a region lie (abi/npu.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "abi/npu.h"
#include "base/result.h"
#include "npu/job/job.h"

namespace flex::npu {

/// Memory, and where the device sees it. Thread-safe.
class Bus {
public:
    virtual ~Bus() = default;
    /// Zeroed, 4 KiB aligned. Error: kOutOfMemory.
    virtual Result<std::span<std::byte>> allocate(std::size_t bytes) = 0;
    virtual void free(std::span<std::byte> memory) = 0;
    /// Bus addresses of the pages from `from` (4 KiB aligned) on; they hold until the memory is freed, or
    /// Regions::refresh() is called for. Error: kInvalidArgument (memory that the device cannot reach).
    virtual Status addresses(const std::byte* from, std::span<std::uint64_t> pages) = 0;
};

/// Regions by handle; see Npu for what the functions do. Any thread. A table may name memory that has been
/// freed since: no job names that part, and the SMMU refuses what the program does not hold.
class Regions {
public:
    explicit Regions(Bus& bus) : bus_(bus) {}
    ~Regions();
    Regions(const Regions&) = delete;
    Regions& operator=(const Regions&) = delete;

    Result<Region> map(std::span<const std::byte> memory);
    Result<Region> map_slots(std::size_t slot_bytes, std::uint32_t slots);
    Status place(Region region, std::uint32_t slot, std::span<const std::byte> memory);
    void unmap(Region region);
    /// Addresses have changed: asks for all of them again. What is not there any more goes out of the tables.
    /// No job may be under way. Error: kOutOfMemory (some tables are stale then).
    Status refresh();
    /// As a job has it; no bytes when there is no such region.
    [[nodiscard]] flex_npu_region find(Region region) const;

private:
    struct Page {
        std::uint64_t* entries = nullptr; // [FLEX_NPU_ENTRIES]
        std::uint64_t address = 0;
    };
    struct Table {
        std::uint64_t bytes = 0;
        std::size_t slot_bytes = 0; // 0: mapped as a whole
        Page root;
        std::vector<Page> leaves; // by entry of the root; those without a leaf have no entries
        std::vector<const std::byte*> memory; // of each slot; mapped as a whole: of the one there is
    };
    Result<Page> take_page();
    Result<Table> new_table(std::uint64_t bytes);
    Result<Region> keep(Table table);
    Status enter(Table& table, std::uint64_t offset, std::span<const std::byte> memory);
    Status refresh(Table& table);
    Status refresh(Page& page);
    Status enter_pages(Table& table, std::uint64_t first, std::span<const std::uint64_t> pages);
    void give_up(Table& table);

    Bus& bus_;
    mutable std::mutex mutex_; // guards all below
    std::map<Region, Table> tables_;
    std::uint32_t next_ = 0;
    std::vector<Page> free_; // all zero
    std::vector<std::span<std::byte>> chunks_;
};

} // namespace flex::npu
