// Private to the device: where a command's rows lie in the KV cache.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kv_cache.h"
#include "npu/model/region.h"

namespace flex::npu::model {

/// Checked: every block that a row needs lies in the region.
struct KvPlan {
    engine::KvLayout layout;
    std::uint32_t layer = 0;
    Region* region = nullptr;
    std::uint64_t base = 0, block_bytes = 0;
    std::vector<flex_npu_row> rows;    // one a token
    std::vector<std::uint32_t> blocks; // the list that they point to

    [[nodiscard]] std::uint32_t block_of(const flex_npu_row& row, std::uint32_t position) const {
        return blocks[row.blocks + position / FLEX_NPU_KV_BLOCK_TOKENS];
    }
    /// Offset in the region of the keys of one head; its values are layout.part_bytes() behind them.
    [[nodiscard]] std::uint64_t keys_at(std::uint32_t block, std::uint32_t kv_head) const {
        return base + block * block_bytes + layout.offset(layer, kv_head);
    }
};

} // namespace flex::npu::model
