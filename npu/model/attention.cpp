// Attention over the paged KV cache, block by block: the order of every sum is that of engine/attention.cpp.
#include <array>
#include <bit>

#include "npu/model/execution.h"
#include "npu/model/kv.h"

namespace flex::npu::model {

using engine::KvType;

namespace {

constexpr std::size_t kTokens = FLEX_NPU_KV_BLOCK_TOKENS;
/// Query rows (a token's heads count each) that share a block while it is in SRAM.
constexpr std::size_t kTileRows = 24;

template <class T> const T* as(const std::byte* p) { return reinterpret_cast<const T*>(p); }

std::size_t seen_in_block(std::size_t keys, std::size_t block) {
    return std::min(kTokens, keys - std::min(keys, block * kTokens));
}

} // namespace

/// Query row q of a KV head is head q % group of that KV head's group, of token q / group.
struct Execution::Queries {
    KvPlan plan;
    Strips x, y;
    float factor = 0;
    std::size_t group = 0;            // heads that share keys and values
    std::size_t tile_rows = 0;        // at most kTileRows
    std::size_t scores_stride = 0;    // the longest row, in whole blocks
    std::vector<std::uint64_t> tiles; // first query row of each; a tile's tokens have one list of blocks

    [[nodiscard]] std::size_t n() const { return plan.layout.head_size; }
    [[nodiscard]] const flex_npu_row& token(std::uint64_t q) const { return plan.rows[q / group]; }
    [[nodiscard]] std::size_t keys(std::uint64_t q) const { return token(q).position + std::size_t{1}; }
    [[nodiscard]] Strips row(const Strips& all, std::uint64_t q, std::uint32_t kv_head) const {
        const std::uint64_t head = kv_head * group + q % group;
        return columns_of(rows_of(all, q / group, 1), head * n() * sizeof(float), n() * sizeof(float));
    }
};

Outcome Execution::attention(const flex_npu_command& c) {
    Queries q;
    FLEX_NPU_TRY(plan_kv(c, q.plan));
    if (!within(c.heads, 1, 1024) || c.heads % c.kv_heads != 0) return {FLEX_NPU_BAD_COMMAND};
    const std::uint64_t width = std::uint64_t{c.heads} * c.head_size;
    FLEX_NPU_TRY(floats(c.x, c.count, width, q.x));
    FLEX_NPU_TRY(floats(c.y, c.count, width, q.y));
    FLEX_NPU_TRY(cover_kv(c, q.plan, true));
    q.factor = std::bit_cast<float>(c.scalar);
    q.group = c.heads / c.kv_heads;

    std::uint64_t keys = 0;
    for (const flex_npu_row& row : q.plan.rows) {
        q.scores_stride = std::max<std::size_t>(q.scores_stride, row.position / kTokens * kTokens + kTokens);
        keys += row.position + std::uint64_t{1};
    }
    const std::size_t n = q.n(), block = q.plan.layout.part_bytes() + kTokens * n * sizeof(float) + 2 * 64;
    const std::size_t row_bytes = (2 * n + q.scores_stride) * sizeof(float) + 3 * 64;
    q.tile_rows = std::clamp<std::size_t>((Sram::kCoreBytes - block) / row_bytes, 1, kTileRows);
    const std::uint64_t rows = c.count * q.group;
    for (std::uint64_t i = 0; i < rows; ++i) {
        const bool joins = !q.tiles.empty() && i - q.tiles.back() < q.tile_rows &&
                           q.token(i).blocks == q.token(q.tiles.back()).blocks;
        if (!joins) q.tiles.push_back(i);
    }
    const std::size_t tiles = q.tiles.size();
    FLEX_NPU_TRY(share_out(tiles * c.kv_heads, [&](std::size_t index, const Tiles& memory) {
        // The last tokens of a prompt have the most to do: they go first.
        const std::size_t tile = tiles - 1 - index / c.kv_heads;
        const std::uint64_t end = tile + 1 < tiles ? q.tiles[tile + 1] : rows;
        return attend(q, q.tiles[tile], end - q.tiles[tile], static_cast<std::uint32_t>(index % c.kv_heads),
                      memory);
    }));
    macs_ += 2 * keys * c.heads * n;
    return {};
}

/// Query rows first .. first + rows of one KV head.
Outcome Execution::attend(const Queries& q, std::uint64_t first, std::size_t rows, std::uint32_t kv_head,
                          Tiles tiles) {
    const std::size_t n = q.n();
    auto* const queries = tiles.take<float>(rows * n);              // [rows][head_size]
    auto* const scores = tiles.take<float>(rows * q.scores_stride); // [rows][scores_stride]
    std::size_t most = 0;
    for (std::size_t r = 0; r < rows; ++r) {
        FLEX_NPU_TRY(dma_.in(q.row(q.x, first + r, kv_head), queries + r * n));
        most = std::max(most, q.keys(first + r));
    }
    const std::size_t blocks = (most + kTokens - 1) / kTokens;
    const auto keys_at = [&](std::size_t b) {
        const auto position = static_cast<std::uint32_t>(b * kTokens);
        return q.plan.keys_at(q.plan.block_of(q.token(first), position), kv_head);
    };
    for (std::size_t b = 0; b < blocks; ++b)
        FLEX_NPU_TRY(
            score(q, keys_at(b), seen_in_block(most, b), rows, scores + b * kTokens, queries, tiles));
    // The queries are not needed any more: the results take their place.
    std::fill_n(queries, rows * n, 0.0F);
    for (std::size_t r = 0; r < rows; ++r) k_.softmax(scores + r * q.scores_stride, q.keys(first + r));
    for (std::size_t b = 0; b < blocks; ++b) {
        std::array<std::size_t, kTileRows> seen{};
        for (std::size_t r = 0; r < rows; ++r) seen[r] = seen_in_block(q.keys(first + r), b);
        FLEX_NPU_TRY(sum(q, keys_at(b) + q.plan.layout.part_bytes(), std::span(seen).first(rows),
                         scores + b * kTokens, queries, tiles));
    }
    for (std::size_t r = 0; r < rows; ++r)
        FLEX_NPU_TRY(dma_.out(queries + r * n, q.row(q.y, first + r, kv_head)));
    return {};
}

/// Scores of all rows with the keys of one block, of which `count` are there (what is written beyond them
/// means nothing).
Outcome Execution::score(const Queries& q, std::uint64_t at, std::size_t count, std::size_t rows, float* out,
                         const float* queries, Tiles tiles) {
    const engine::KvLayout& layout = q.plan.layout;
    const std::size_t n = q.n();
    auto* const keys = tiles.take<std::byte>(layout.part_bytes());
    auto* const wide = tiles.take<float>(kTokens * n);
    const std::uint64_t bytes = layout.type == KvType::kF32 ? count * n * sizeof(float) : layout.part_bytes();
    FLEX_NPU_TRY(dma_.in({q.plan.region, at, bytes}, keys));
    switch (layout.type) {
    case KvType::kF32:
        for (std::size_t r = 0; r < rows; ++r)
            k_.scores(queries + r * n, as<float>(keys), count, n, q.factor, out + r * q.scores_stride);
        return {};
    case KvType::kF16:
        k_.widen_f16(as<std::uint16_t>(keys), kTokens * n, wide);
        break;
    case KvType::kQ8_0:
        k_.widen_q8_columns(as<std::int8_t>(keys), as<std::uint16_t>(keys + kTokens * n), n, wide);
        break;
    }
    std::array<const float*, kTileRows> row{};
    for (std::size_t r = 0; r < rows; ++r) row[r] = queries + r * n;
    k_.block_scores(row.data(), rows, wide, n, q.factor, out, q.scores_stride);
    return {};
}

/// Adds one block's values, weighted, to all rows of `out`; row r sees seen[r] of them.
Outcome Execution::sum(const Queries& q, std::uint64_t at, std::span<const std::size_t> seen,
                       const float* weights, float* out, Tiles tiles) {
    const engine::KvLayout& layout = q.plan.layout;
    const std::size_t n = q.n(), most = *std::ranges::max_element(seen);
    const std::size_t shared = *std::ranges::min_element(seen);
    auto* const values = tiles.take<std::byte>(layout.part_bytes());
    auto* const wide = tiles.take<float>(kTokens * n);
    const std::uint64_t bytes = layout.type == KvType::kF32 ? most * n * sizeof(float) : layout.part_bytes();
    FLEX_NPU_TRY(dma_.in({q.plan.region, at, bytes}, values));
    const float* rows = wide;
    switch (layout.type) {
    case KvType::kF32:
        rows = as<float>(values);
        break;
    case KvType::kF16:
        k_.widen_f16(as<std::uint16_t>(values), most * n, wide);
        break;
    case KvType::kQ8_0:
        k_.widen_q8(as<std::int8_t>(values), as<std::uint16_t>(values + kTokens * n), most * n, wide);
        break;
    }
    std::array<float*, kTileRows> to{};
    for (std::size_t r = 0; r < seen.size(); ++r) to[r] = out + r * n;
    const std::size_t stride = q.scores_stride;
    if (shared > 0) k_.add_weighted(weights, stride, seen.size(), rows, shared, n, to.data());
    for (std::size_t r = 0; r < seen.size(); ++r) {
        if (seen[r] > shared)
            k_.add_weighted(weights + r * stride + shared, stride, 1, rows + shared * n, seen[r] - shared, n,
                            &to[r]);
    }
    return {};
}

} // namespace flex::npu::model
