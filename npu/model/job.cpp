#include "npu/model/job.h"

#include <cstring>

namespace flex::npu::model {

Outcome Job::parse(std::span<const std::byte> bytes, BusMemory& memory) {
    constexpr Outcome kBad{FLEX_NPU_BAD_JOB};
    if (bytes.size() < sizeof header || bytes.size() > FLEX_NPU_JOB_BYTES) return kBad;
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != FLEX_NPU_JOB_MAGIC || header.version != FLEX_NPU_VERSION || header.reserved != 0)
        return kBad;
    if (header.regions < 1 || header.regions > FLEX_NPU_REGIONS_MAX) return kBad;
    if (header.commands < 1 || header.commands > FLEX_NPU_COMMANDS_MAX) return kBad;
    const std::size_t region_bytes = header.regions * sizeof(flex_npu_region);
    const std::size_t command_bytes = header.commands * sizeof(flex_npu_command);
    if (bytes.size() != sizeof header + region_bytes + command_bytes) return kBad;

    for (std::size_t i = 0; i < header.regions; ++i) {
        flex_npu_region region;
        std::memcpy(&region, bytes.data() + sizeof header + i * sizeof region, sizeof region);
        if (region.table % FLEX_NPU_PAGE != 0) return kBad;
        if (region.bytes < 1 || region.bytes > FLEX_NPU_REGION_BYTES_MAX) return kBad;
        regions.push_back(std::make_unique<Region>(memory, region));
    }
    commands.resize(header.commands);
    std::memcpy(commands.data(), bytes.data() + sizeof header + region_bytes, command_bytes);
    return {};
}

} // namespace flex::npu::model
