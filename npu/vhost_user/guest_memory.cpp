#include "npu/vhost_user/guest_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

namespace flex::npu::vhost_user {

GuestMemory::~GuestMemory() {
    for (const Region& region : regions_) munmap(region.mapping, region.mapped);
}

std::optional<std::vector<GuestMemory::Part>> GuestMemory::read(const Message& message) {
    MemoryTable table{};
    const std::size_t size = message.header.size;
    if (size < 8 || size > sizeof table) return std::nullopt;
    std::memcpy(&table, message.payload.data(), size);
    if (table.count > kMemoryRegionsMax || size < 8 + table.count * sizeof(MemoryRegion) ||
        message.fds.size() != table.count)
        return std::nullopt;

    std::vector<Part> parts;
    for (std::uint32_t i = 0; i < table.count; ++i) {
        const MemoryRegion& region = table.regions[i];
        constexpr std::uint64_t kMost = std::uint64_t{1} << 46; // so that no sum below overflows
        struct stat file {};
        const bool sane = region.bytes > 0 && region.bytes < kMost && region.file_offset < kMost &&
                          region.user_address <= ~std::uint64_t{0} - region.bytes;
        if (!sane || fstat(message.fds[i].get(), &file) != 0) return std::nullopt;
        const std::uint64_t end = region.file_offset + region.bytes;
        if (file.st_size < 0 || static_cast<std::uint64_t>(file.st_size) < end) return std::nullopt;
        parts.push_back({region.user_address, region.bytes, region.file_offset, file.st_dev, file.st_ino});
    }
    return parts;
}

std::optional<GuestMemory> GuestMemory::map(const std::vector<Part>& parts, const std::vector<Fd>& files) {
    GuestMemory memory;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const std::uint64_t end = parts[i].file_offset + parts[i].bytes;
        void* const mapping = mmap(nullptr, end, PROT_READ | PROT_WRITE, MAP_SHARED, files[i].get(), 0);
        if (mapping == MAP_FAILED) return std::nullopt;
        memory.regions_.push_back(
            {parts[i], static_cast<std::byte*>(mapping) + parts[i].file_offset, mapping, end});
    }
    return memory;
}

bool GuestMemory::show(const Message& message) {
    const auto parts = read(message);
    if (!parts) return false;
    if (std::ranges::equal(regions_, *parts, {}, &Region::part)) return true;
    auto memory = map(*parts, message.fds);
    if (!memory) return false;
    *this = std::move(*memory);
    return true;
}

std::byte* GuestMemory::find(std::uint64_t user_address, std::uint64_t bytes) const {
    for (const Region& region : regions_) {
        if (user_address < region.part.user_address) continue;
        const std::uint64_t at = user_address - region.part.user_address;
        if (at < region.part.bytes && bytes <= region.part.bytes - at) return region.data + at;
    }
    return nullptr;
}

} // namespace flex::npu::vhost_user
