// A job as the device keeps it: copied once, its frame checked.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "npu/model/region.h"

namespace flex::npu::model {

struct Job {
    flex_npu_job header{};
    std::vector<std::unique_ptr<Region>> regions;
    std::vector<flex_npu_command> commands;

    /// FLEX_NPU_BAD_JOB: anything wrong with the header, the sizes or a region. The cookie is there if the
    /// header is whole.
    Outcome parse(std::span<const std::byte> bytes, BusMemory& memory);
};

} // namespace flex::npu::model
