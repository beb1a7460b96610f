#include "npu/driver/region.h"

#include <algorithm>
#include <array>

namespace flex::npu {

namespace {

constexpr std::size_t kChunkPages = 64; // of tables, allocated at a time

bool whole_pages(std::span<const std::byte> memory) {
    return reinterpret_cast<std::uintptr_t>(memory.data()) % FLEX_NPU_PAGE == 0 && !memory.empty() &&
           memory.size() % FLEX_NPU_PAGE == 0;
}

bool lie_together(std::span<const std::uint64_t> pages) {
    for (std::size_t i = 1; i < pages.size(); ++i)
        if (pages[i] != pages[0] + i * FLEX_NPU_PAGE) return false;
    return true;
}

Error not_mappable(std::uint64_t bytes) {
    return fail(ErrorCode::kInvalidArgument,
                std::to_string(bytes) +
                    " bytes cannot be mapped for the NPU: whole pages of 4 KiB, at most " +
                    std::to_string(FLEX_NPU_REGION_BYTES_MAX >> 20) + " MiB");
}

} // namespace

Regions::~Regions() {
    for (const auto& chunk : chunks_) bus_.free(chunk);
}

Result<Regions::Page> Regions::take_page() {
    if (free_.empty()) {
        FLEX_ASSIGN(const auto chunk, bus_.allocate(kChunkPages * FLEX_NPU_PAGE));
        chunks_.push_back(chunk);
        std::array<std::uint64_t, kChunkPages> addresses{};
        FLEX_TRY(bus_.addresses(chunk.data(), addresses));
        for (std::size_t i = 0; i < kChunkPages; ++i) {
            free_.push_back(
                {reinterpret_cast<std::uint64_t*>(chunk.data() + i * FLEX_NPU_PAGE), addresses[i]});
        }
    }
    const Page page = free_.back();
    free_.pop_back();
    return page;
}

Result<Regions::Table> Regions::new_table(std::uint64_t bytes) {
    if (bytes == 0 || bytes > FLEX_NPU_REGION_BYTES_MAX || bytes % FLEX_NPU_PAGE != 0)
        return not_mappable(bytes);
    Table table;
    table.bytes = bytes;
    table.leaves.resize((bytes + FLEX_NPU_BLOCK - 1) / FLEX_NPU_BLOCK);
    FLEX_ASSIGN(table.root, take_page());
    return table;
}

Result<Region> Regions::keep(Table table) {
    const Region region{++next_};
    tables_.emplace(region, std::move(table));
    return region;
}

Result<Region> Regions::map(std::span<const std::byte> memory) {
    if (!whole_pages(memory)) return not_mappable(memory.size());
    const std::lock_guard lock(mutex_);
    FLEX_ASSIGN(Table table, new_table(memory.size()));
    table.memory = {memory.data()};
    if (const Status entered = enter(table, 0, memory); !entered) {
        give_up(table);
        return entered.error();
    }
    return keep(std::move(table));
}

Result<Region> Regions::map_slots(std::size_t slot_bytes, std::uint32_t slots) {
    if (slot_bytes % FLEX_NPU_PAGE != 0 || slot_bytes > FLEX_NPU_REGION_BYTES_MAX)
        return not_mappable(slot_bytes);
    const std::lock_guard lock(mutex_);
    FLEX_ASSIGN(Table table, new_table(std::uint64_t{slot_bytes} * slots));
    table.slot_bytes = slot_bytes;
    table.memory.resize(slots);
    return keep(std::move(table));
}

Status Regions::place(Region region, std::uint32_t slot, std::span<const std::byte> memory) {
    const std::lock_guard lock(mutex_);
    const auto found = tables_.find(region);
    if (found == tables_.end()) return fail(ErrorCode::kInvalidArgument, "no such region of the NPU");
    Table& table = found->second;
    const std::uint64_t offset = std::uint64_t{slot} * memory.size();
    if (!whole_pages(memory) || memory.size() != table.slot_bytes || offset >= table.bytes)
        return fail(ErrorCode::kInvalidArgument, "no such slot of the NPU's region");
    table.memory[slot] = memory.data();
    return enter(table, offset, memory);
}

Status Regions::enter(Table& table, std::uint64_t offset, std::span<const std::byte> memory) {
    std::array<std::uint64_t, FLEX_NPU_ENTRIES> addresses;
    const std::uint64_t end = (offset + memory.size()) / FLEX_NPU_PAGE;
    for (std::uint64_t page = offset / FLEX_NPU_PAGE; page < end;) {
        // As far as the entry of the root reaches.
        const std::uint64_t next = std::min(end, (page / FLEX_NPU_ENTRIES + 1) * FLEX_NPU_ENTRIES);
        const auto some = std::span(addresses).first(next - page);
        FLEX_TRY(bus_.addresses(memory.data() + (page * FLEX_NPU_PAGE - offset), some));
        FLEX_TRY(enter_pages(table, page, some));
        page = next;
    }
    return {};
}

/// Pages below one entry of the root.
Status Regions::enter_pages(Table& table, std::uint64_t first, std::span<const std::uint64_t> pages) {
    const std::uint64_t index = first / FLEX_NPU_ENTRIES, at = first % FLEX_NPU_ENTRIES;
    // The last block of a region may be shorter than 2 MiB: nothing behind the region's end is accessed.
    const bool all = at == 0 && (pages.size() == FLEX_NPU_ENTRIES ||
                                 (first + pages.size()) * FLEX_NPU_PAGE == table.bytes);
    if (table.slot_bytes == 0 && all && lie_together(pages)) {
        table.root.entries[index] = pages[0] | FLEX_NPU_ENTRY_BLOCK;
        return {};
    }
    Page& leaf = table.leaves[index];
    if (leaf.entries == nullptr) {
        FLEX_ASSIGN(leaf, take_page());
    }
    table.root.entries[index] = leaf.address;
    std::ranges::copy(pages, leaf.entries + at);
    return {};
}

void Regions::unmap(Region region) {
    const std::lock_guard lock(mutex_);
    const auto found = tables_.find(region);
    if (found == tables_.end()) return;
    give_up(found->second);
    tables_.erase(found);
}

Status Regions::refresh() {
    const std::lock_guard lock(mutex_);
    for (Page& page : free_) FLEX_TRY(refresh(page));
    for (auto& [region, table] : tables_) FLEX_TRY(refresh(table));
    return {};
}

Status Regions::refresh(Page& page) {
    return bus_.addresses(reinterpret_cast<const std::byte*>(page.entries), std::span(&page.address, 1));
}

Status Regions::refresh(Table& table) {
    FLEX_TRY(refresh(table.root));
    std::fill_n(table.root.entries, FLEX_NPU_ENTRIES, 0);
    for (Page& leaf : table.leaves) {
        if (leaf.entries == nullptr) continue;
        FLEX_TRY(refresh(leaf));
        std::fill_n(leaf.entries, FLEX_NPU_ENTRIES, 0);
    }
    const std::uint64_t bytes = table.slot_bytes == 0 ? table.bytes : table.slot_bytes;
    for (std::size_t i = 0; i < table.memory.size(); ++i) {
        if (table.memory[i] == nullptr) continue;
        const Status entered = enter(table, i * bytes, {table.memory[i], bytes});
        if (entered) continue;
        if (entered.error().code != ErrorCode::kInvalidArgument) return entered;
        table.memory[i] = nullptr; // freed since: nobody names it in a job
    }
    return {};
}

void Regions::give_up(Table& table) {
    table.leaves.push_back(table.root);
    for (const Page& page : table.leaves) {
        if (page.entries == nullptr) continue;
        std::fill_n(page.entries, FLEX_NPU_ENTRIES, 0);
        free_.push_back(page);
    }
}

flex_npu_region Regions::find(Region region) const {
    const std::lock_guard lock(mutex_);
    const auto found = tables_.find(region);
    if (found == tables_.end()) return {};
    return {found->second.root.address, found->second.bytes};
}

} // namespace flex::npu
