#include "npu/vhost_user/guest_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

namespace flex::npu::vhost_user {

GuestMemory::~GuestMemory() {
    for (const Region& region : regions_) munmap(region.mapping, region.mapped);
}

std::optional<GuestMemory> GuestMemory::map(const Message& message) {
    MemoryTable table{};
    const std::size_t size = message.header.size;
    if (size < 8 || size > sizeof table) return std::nullopt;
    std::memcpy(&table, message.payload.data(), size);
    if (table.count > kMemoryRegionsMax || size < 8 + table.count * sizeof(MemoryRegion) ||
        message.fds.size() != table.count)
        return std::nullopt;

    GuestMemory memory;
    for (std::uint32_t i = 0; i < table.count; ++i) {
        const MemoryRegion& region = table.regions[i];
        constexpr std::uint64_t kMost = std::uint64_t{1} << 46; // so that no sum below overflows
        struct stat file {};
        const bool sane = region.bytes > 0 && region.bytes < kMost && region.file_offset < kMost &&
                          region.user_address <= ~std::uint64_t{0} - region.bytes;
        if (!sane || fstat(message.fds[i].get(), &file) != 0) return std::nullopt;
        const std::uint64_t end = region.file_offset + region.bytes;
        if (file.st_size < 0 || static_cast<std::uint64_t>(file.st_size) < end) return std::nullopt;
        void* const mapping = mmap(nullptr, end, PROT_READ | PROT_WRITE, MAP_SHARED, message.fds[i].get(), 0);
        if (mapping == MAP_FAILED) return std::nullopt;
        memory.regions_.push_back({region.user_address, region.bytes,
                                   static_cast<std::byte*>(mapping) + region.file_offset, mapping, end});
    }
    return memory;
}

std::byte* GuestMemory::find(std::uint64_t user_address, std::uint64_t bytes) const {
    for (const Region& region : regions_) {
        if (user_address < region.user_address) continue;
        const std::uint64_t at = user_address - region.user_address;
        if (at < region.bytes && bytes <= region.bytes - at) return region.data + at;
    }
    return nullptr;
}

} // namespace flex::npu::vhost_user
