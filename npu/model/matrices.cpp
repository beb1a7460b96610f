// Operations on packed Q8_0 matrices.
#include "engine/kernels/q8_layout.h"
#include "engine/packing.h"
#include "npu/model/execution.h"

namespace flex::npu::model {

using engine::kPanelRows;
using engine::panel_bytes;
using engine::Q8Block;

Outcome Execution::embed(const flex_npu_command& c) {
    Strips w, x, y;
    FLEX_NPU_TRY(matrix(c, w));
    w.operand_end = 0; // only the rows that are named are read
    FLEX_NPU_TRY(view(c.x, 4, 4, c.count, 1, x));
    FLEX_NPU_TRY(floats(c.y, c.count, c.columns, y));
    auto* const ids = Tiles(m_.sram.shared()).take<std::uint32_t>(c.count);
    FLEX_NPU_TRY(dma_.in(x, ids, sizeof *ids));
    if (std::any_of(ids, ids + c.count, [&](std::uint32_t id) { return id >= c.rows; }))
        return {FLEX_NPU_BAD_OPERAND};
    return share_out(c.count, [&](std::size_t t, Tiles tiles) -> Outcome {
        const std::size_t bytes = panel_bytes(c.columns);
        auto* const panel = tiles.take<std::byte>(bytes);
        auto* const row = tiles.take<float>(c.columns);
        FLEX_NPU_TRY(dma_.in(columns_of(w, ids[t] / kPanelRows * bytes, bytes), panel));
        engine::unpack_row(panel, ids[t] % kPanelRows, c.columns, row);
        return dma_.out(row, rows_of(y, t, 1));
    });
}

struct Execution::Product {
    const flex_npu_command& c;
    Strips w, x, y, z;
    Q8Block* activations = nullptr;  // [tokens of a tile][columns / 32], in the shared part
    std::uint64_t panels = 0;        // of the matrix
    std::uint64_t panels_a_tile = 0; // that a core multiplies with at a time

    [[nodiscard]] std::size_t blocks() const { return c.columns / 32; }
};

/// Activations of as many tokens as fit are quantised once; then every core takes panels, all columns of
/// them, since that is the order of sums that the kernels promise. So weights are read once for each such
/// tile of tokens.
Outcome Execution::matmul(const flex_npu_command& c) {
    if (c.flags == (FLEX_NPU_ACCUMULATE | FLEX_NPU_GATE)) return {FLEX_NPU_BAD_COMMAND};
    Product p{c, {}, {}, {}, {}};
    FLEX_NPU_TRY(matrix(c, p.w));
    FLEX_NPU_TRY(floats(c.x, c.count, c.columns, p.x));
    FLEX_NPU_TRY(floats(c.y, c.count, c.rows, p.y));
    if ((c.flags & FLEX_NPU_GATE) != 0) FLEX_NPU_TRY(floats(c.z, c.count, c.rows, p.z));

    const std::uint64_t token_bytes = p.blocks() * sizeof(Q8Block);
    const std::uint64_t most = std::min<std::uint64_t>(c.count, Sram::kSharedBytes / token_bytes);
    p.activations = Tiles(m_.sram.shared()).take<Q8Block>(most * p.blocks());
    p.panels = (c.rows + kPanelRows - 1) / kPanelRows;
    // Two products (what is there, what is added) of each token lie beside the weights.
    const std::uint64_t panel_and_products =
        panel_bytes(c.columns) + 2 * most * kPanelRows * sizeof(float) + 2 * 64;
    const std::uint64_t fair = p.panels / (std::uint64_t{4} * m_.cores.threads());
    // Few tokens: the memory is the limit, and one panel at a time stays in the host's nearest cache.
    const std::uint64_t useful = c.count > 8 ? 4 : 1;
    p.panels_a_tile =
        std::clamp<std::uint64_t>(std::min(fair, Sram::kCoreBytes / panel_and_products), 1, useful);
    for (std::uint64_t first = 0; first < c.count; first += most) {
        const std::uint64_t tokens = std::min(most, c.count - first);
        FLEX_NPU_TRY(quantise(p, first, tokens));
        const std::size_t tiles_of_panels = (p.panels + p.panels_a_tile - 1) / p.panels_a_tile;
        FLEX_NPU_TRY(share_out(tiles_of_panels, [&](std::size_t i, const Tiles& tiles) {
            return multiply(p, first, tokens, i * p.panels_a_tile, tiles);
        }));
    }
    macs_ += std::uint64_t{c.count} * c.rows * c.columns;
    return {};
}

Outcome Execution::quantise(const Product& p, std::uint64_t first, std::uint64_t tokens) {
    const std::uint64_t some = rows_at_a_time(tokens, p.c.columns);
    return share_out((tokens + some - 1) / some, [&](std::size_t i, Tiles tiles) -> Outcome {
        const std::uint64_t t = i * some, count = std::min(some, tokens - t);
        const std::size_t columns = p.c.columns;
        auto* const x = tiles.take<float>(count * columns);
        FLEX_NPU_TRY(dma_.in(rows_of(p.x, first + t, count), x, columns * sizeof(float)));
        for (std::uint64_t r = 0; r < count; ++r)
            k_.quantize(x + r * columns, columns, p.activations + (t + r) * p.blocks());
        return {};
    });
}

/// y[first .. first + tokens) of the rows of some panels.
Outcome Execution::multiply(const Product& p, std::uint64_t first, std::uint64_t tokens, std::uint64_t panel,
                            Tiles tiles) {
    const std::uint64_t panels = std::min(p.panels_a_tile, p.panels - panel);
    const std::size_t rows = std::min<std::size_t>(panels * kPanelRows, p.c.rows - panel * kPanelRows);
    const std::size_t bytes = panel_bytes(p.c.columns), line = rows * sizeof(float);
    auto* const w = tiles.take<std::byte>(panels * bytes);
    auto* const product = tiles.take<float>(tokens * rows);
    const auto part = [&](const Strips& all) {
        return columns_of(rows_of(all, first, tokens), panel * kPanelRows * sizeof(float), line);
    };
    FLEX_NPU_TRY(dma_.in(columns_of(p.w, panel * bytes, panels * bytes), w));
    k_.matmul_q8_0(w, rows, p.c.columns, p.activations, tokens, product, rows);
    if (p.c.flags == 0) return dma_.out(product, part(p.y), line);

    auto* const there = tiles.take<float>(tokens * rows);
    const bool gate = (p.c.flags & FLEX_NPU_GATE) != 0;
    FLEX_NPU_TRY(dma_.in(part(gate ? p.z : p.y), there, line));
    if (gate)
        k_.silu_multiply(there, product, tokens * rows);
    else
        k_.add(there, product, tokens * rows);
    return dma_.out(there, part(p.y), line);
}

} // namespace flex::npu::model
