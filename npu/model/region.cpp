#include "npu/model/region.h"

#include <algorithm>

#include "npu/model/bus_copy.h"

namespace flex::npu::model {

namespace {

constexpr std::uint64_t kInPage = FLEX_NPU_PAGE - 1;
/// As far as anybody looks ahead: nothing moves more at a time (dma.cpp).
constexpr std::size_t kPagesTogether = 16;

} // namespace

Outcome Region::load(std::uint64_t address, std::unique_ptr<Table>& table) {
    auto fresh = std::make_unique<Table>();
    const Copied copied = copy_from_bus(memory_, address, fresh->data(), sizeof(Table));
    if (copied.status == Copied::Status::kInterrupted) return {FLEX_NPU_ABORTED};
    if (!copied.done()) return {FLEX_NPU_FAULT, copied.address};
    table = std::move(fresh);
    return {};
}

Outcome Region::cover(std::uint64_t offset, std::uint64_t bytes) {
    if (offset > region_.bytes || bytes > region_.bytes - offset) return {FLEX_NPU_BAD_OPERAND};
    if (blocks_ == nullptr) FLEX_NPU_TRY(load(region_.table, blocks_));
    const std::uint64_t last = offset + bytes - 1;
    for (std::uint64_t block = offset / FLEX_NPU_BLOCK; block <= last / FLEX_NPU_BLOCK; ++block) {
        const std::uint64_t begin = block * FLEX_NPU_BLOCK;
        const std::uint64_t first = std::max(offset, begin) - begin;
        const std::uint64_t end = std::min<std::uint64_t>(last - begin, FLEX_NPU_BLOCK - 1);
        FLEX_NPU_TRY(cover_block(block, first / FLEX_NPU_PAGE, end / FLEX_NPU_PAGE));
    }
    return {};
}

Outcome Region::cover_block(std::size_t block, std::size_t first_page, std::size_t last_page) {
    const std::uint64_t entry = (*blocks_)[block];
    if (entry == 0) return {FLEX_NPU_BAD_OPERAND};
    if ((entry & FLEX_NPU_ENTRY_BLOCK) != 0) {
        const std::uint64_t address = entry & ~FLEX_NPU_ENTRY_BLOCK;
        const bool good = (address & kInPage) == 0 && address <= ~std::uint64_t{0} - (FLEX_NPU_BLOCK - 1);
        return {good ? FLEX_NPU_OK : FLEX_NPU_BAD_OPERAND};
    }
    if ((entry & kInPage) != 0) return {FLEX_NPU_BAD_OPERAND};
    if (pages_[block] == nullptr) FLEX_NPU_TRY(load(entry, pages_[block]));
    for (std::size_t page = first_page; page <= last_page; ++page) {
        const std::uint64_t address = (*pages_[block])[page];
        if (address == 0 || (address & kInPage) != 0) return {FLEX_NPU_BAD_OPERAND};
    }
    return {};
}

Region::Place Region::find(std::uint64_t offset) const {
    const std::size_t block = offset / FLEX_NPU_BLOCK;
    const std::uint64_t within = offset % FLEX_NPU_BLOCK, entry = (*blocks_)[block];
    if ((entry & FLEX_NPU_ENTRY_BLOCK) != 0)
        return {(entry & ~FLEX_NPU_ENTRY_BLOCK) + within, FLEX_NPU_BLOCK - within};
    const Table& pages = *pages_[block];
    const std::size_t page = within / FLEX_NPU_PAGE;
    const std::uint64_t in_page = within & kInPage;
    std::size_t together = 1;
    for (const std::size_t most = std::min(pages.size() - page, kPagesTogether);
         together < most && pages[page + together] == pages[page] + together * FLEX_NPU_PAGE;)
        ++together;
    return {pages[page] + in_page, together * FLEX_NPU_PAGE - in_page};
}

std::size_t Region::pages(std::uint64_t first, std::uint64_t end, std::span<std::uint64_t> out) const {
    std::size_t count = 0;
    for (std::uint64_t at = first & ~kInPage; at < end && count < out.size(); at += FLEX_NPU_PAGE)
        out[count++] = find(at).address;
    return count;
}

} // namespace flex::npu::model
