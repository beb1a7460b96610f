#include "engine/packing.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/kernels/exact.h"
#include "engine/kernels/q8_layout.h"

namespace flex::engine {

void pack_panel(const std::byte* q8_0, std::size_t rows, std::size_t columns, std::byte* panel) {
    const std::size_t blocks = columns / kQ8Block;
    if (rows < kPanelRows || blocks % 2 != 0) std::memset(panel, 0, panel_bytes(columns));
    for (std::size_t b = 0; b < blocks; ++b) {
        std::byte* const scales = panel + panel_scales(b);
        std::byte* const weights = panel + panel_weights(b);
        for (std::size_t r = 0; r < rows; ++r) {
            const std::byte* block = q8_0 + (r * blocks + b) * kQ8BlockBytes;
            std::memcpy(scales + 2 * r, block, 2);
            for (std::size_t g = 0; g < 8; ++g)
                std::memcpy(weights + (g * kPanelRows + r) * 4, block + 2 + 4 * g, 4);
        }
    }
}

void unpack_row(const std::byte* packed, std::size_t row, std::size_t columns, float* x) {
    const std::byte* const panel = packed + row / kPanelRows * panel_bytes(columns);
    const std::size_t r = row % kPanelRows;
    for (std::size_t i = 0; i < columns; ++i) {
        const std::size_t b = i / kQ8Block, g = i % kQ8Block / 4;
        const std::byte weight = panel[panel_weights(b) + (g * kPanelRows + r) * 4 + i % 4];
        x[i] = f16_to_f32(load_u16(panel + panel_scales(b) + 2 * r)) *
               static_cast<float>(static_cast<std::int8_t>(weight));
    }
}

Status read_tensor(const TensorNeed& need, std::uint64_t at, std::span<std::byte> out,
                   const TensorReader& read) {
    if (need.type != TensorType::kQ8_0) return read(at, out);
    const std::size_t row_bytes = need.columns / kQ8Block * kQ8BlockBytes;
    const std::size_t size = panel_bytes(need.columns);
    std::vector<std::byte> rows(kPanelRows * row_bytes), whole;
    while (!out.empty()) {
        const std::uint64_t panel = at / size, first = panel * kPanelRows;
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(kPanelRows, need.rows - first));
        FLEX_TRY(read(first * row_bytes, std::span(rows).first(count * row_bytes)));
        const std::size_t skip = at % size, some = std::min(out.size(), size - skip);
        if (some == size) {
            pack_panel(rows.data(), count, need.columns, out.data());
        } else {
            whole.resize(size);
            pack_panel(rows.data(), count, need.columns, whole.data());
            std::copy_n(whole.begin() + static_cast<std::ptrdiff_t>(skip), some, out.begin());
        }
        out = out.subspan(some);
        at += some;
    }
    return {};
}

} // namespace flex::engine
