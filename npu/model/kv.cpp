// The KV cache: finding rows in it, and putting keys and values there.
#include "npu/model/kv.h"

#include "engine/kernels/exact.h"
#include "npu/model/execution.h"

namespace flex::npu::model {

using engine::KvType;
using engine::Q8Block;

static_assert(FLEX_NPU_KV_BLOCK_TOKENS == engine::kKvBlockTokens);

namespace {

constexpr std::size_t kTokens = FLEX_NPU_KV_BLOCK_TOKENS;

/// [run][count] -> [count][run]
template <class T> void transpose(const T* rows, std::size_t run, std::size_t count, T* columns) {
    for (std::size_t r = 0; r < run; ++r)
        for (std::size_t d = 0; d < count; ++d) columns[d * run + r] = rows[r * count + d];
}

} // namespace

/// Everything but which blocks the rows need.
Outcome Execution::plan_kv(const flex_npu_command& c, KvPlan& plan) {
    const bool shape = within(c.kv_heads, 1, 1024) && within(c.head_size, 2, 512) && c.head_size % 2 == 0 &&
                       within(c.layers, 1, 1024) && c.layer < c.layers && c.kv_type <= 2;
    if (!shape) return {FLEX_NPU_BAD_COMMAND};
    plan.layout = {static_cast<KvType>(c.kv_type), c.layers, c.kv_heads, c.head_size};
    if (plan.layout.type == KvType::kQ8_0 && c.head_size % 32 != 0) return {FLEX_NPU_BAD_COMMAND};
    if (c.block_bytes % FLEX_NPU_PAGE != 0 || c.block_bytes < plan.layout.block_bytes() ||
        !within(c.block_list, 1, FLEX_NPU_BLOCK_LIST_MAX))
        return {FLEX_NPU_BAD_COMMAND};
    if (c.w.region >= job_.regions.size() || c.w.offset % 64 != 0 || c.w.stride != 0)
        return {FLEX_NPU_BAD_OPERAND};
    plan.layer = c.layer;
    plan.region = job_.regions[c.w.region].get();
    plan.base = c.w.offset;
    plan.block_bytes = c.block_bytes;
    if (plan.base > plan.region->bytes()) return {FLEX_NPU_BAD_OPERAND};

    // Lists are the command processor's, not the cores': they are kept outside the SRAM.
    plan.rows.resize(c.count);
    plan.blocks.resize(c.block_list);
    const std::uint64_t row_bytes = c.count * sizeof(flex_npu_row), list_bytes = c.block_list * 4;
    Strips lists;
    FLEX_NPU_TRY(view(c.u.rows_of, 1, 4, 1, row_bytes + list_bytes, lists));
    FLEX_NPU_TRY(dma_.in(columns_of(lists, 0, row_bytes), plan.rows.data()));
    return dma_.in(columns_of(lists, row_bytes, list_bytes), plan.blocks.data());
}

/// Checks the rows and the blocks: `all` up to a row's position, or that of the position alone.
Outcome Execution::cover_kv(const flex_npu_command& c, KvPlan& plan, bool all) {
    const std::uint64_t bytes = std::uint64_t{2} * c.kv_heads * plan.layout.part_bytes();
    std::uint32_t list = 0, checked = 0; // blocks from plan.blocks[list] on that are known to be good
    for (const flex_npu_row& row : plan.rows) {
        const std::uint32_t last = row.position / kTokens;
        if (row.position >= FLEX_NPU_CONTEXT_MAX || row.blocks > plan.blocks.size() ||
            last >= plan.blocks.size() - row.blocks)
            return {FLEX_NPU_BAD_OPERAND};
        if (row.blocks != list) checked = 0;
        list = row.blocks;
        for (std::uint32_t i = all ? checked : last; i <= last; ++i) {
            const std::uint64_t at = std::uint64_t{plan.blocks[list + i]} * plan.block_bytes;
            if (at > plan.region->bytes()) return {FLEX_NPU_BAD_OPERAND}; // so that the sums do not overflow
            FLEX_NPU_TRY(plan.region->cover(plan.keys_at(plan.blocks[list + i], 0), bytes));
        }
        if (all) checked = std::max(checked, last + 1);
    }
    return {};
}

Outcome Execution::kv_store(const flex_npu_command& c) {
    KvPlan plan;
    FLEX_NPU_TRY(plan_kv(c, plan));
    Strips keys, values;
    const std::uint64_t width = std::uint64_t{c.kv_heads} * c.head_size;
    FLEX_NPU_TRY(floats(c.x, c.count, width, keys));
    FLEX_NPU_TRY(floats(c.z, c.count, width, values));
    FLEX_NPU_TRY(cover_kv(c, plan, false));
    // A head is a task: two cores never write to one part of a block.
    return share_out(c.kv_heads, [&](std::size_t head, const Tiles& tiles) {
        return kv_store_head(plan, keys, values, static_cast<std::uint32_t>(head), tiles);
    });
}

Outcome Execution::kv_store_head(const KvPlan& plan, const Strips& keys, const Strips& values,
                                 std::uint32_t head, Tiles tiles) {
    const std::size_t n = plan.layout.head_size, line = n * sizeof(float);
    auto* const rows = tiles.take<float>(kTokens * n);
    for (std::size_t t = 0, run = 0; t < plan.rows.size(); t += run) {
        // Neighbours in one block are stored together.
        const flex_npu_row& first = plan.rows[t];
        const std::size_t slot = first.position % kTokens;
        const std::uint32_t block = plan.block_of(first, first.position);
        for (run = 1; t + run < plan.rows.size() && slot + run < kTokens; ++run) {
            const flex_npu_row& next = plan.rows[t + run];
            if (next.position % kTokens != slot + run || plan.block_of(next, next.position) != block) break;
        }
        const std::uint64_t at = plan.keys_at(block, head);
        FLEX_NPU_TRY(dma_.in(columns_of(rows_of(keys, t, run), head * line, line), rows, line));
        FLEX_NPU_TRY(store_keys(plan, at, slot, run, rows, tiles));
        FLEX_NPU_TRY(dma_.in(columns_of(rows_of(values, t, run), head * line, line), rows, line));
        FLEX_NPU_TRY(store_values(plan, at + plan.layout.part_bytes(), slot, run, rows, tiles));
    }
    return {};
}

/// `run` neighbouring tokens from `slot` on, of one head; the formats: engine/kv_cache.h.
Outcome Execution::store_keys(const KvPlan& plan, std::uint64_t at, std::size_t slot, std::size_t run,
                              const float* rows, Tiles tiles) {
    const std::size_t n = plan.layout.head_size, scales = n / 32;
    switch (plan.layout.type) {
    case KvType::kF32:
        return dma_.out(rows, {plan.region, at + slot * n * 4, run * n * 4});
    case KvType::kF16: {
        auto* const narrow = tiles.take<std::uint16_t>(run * n);
        auto* const columns = tiles.take<std::uint16_t>(run * n);
        k_.narrow_f16(rows, run * n, narrow);
        transpose(narrow, run, n, columns);
        return dma_.out(columns, {plan.region, at + slot * 2, run * 2, n, kTokens * 2}, run * 2);
    }
    case KvType::kQ8_0: {
        auto* const blocks = tiles.take<Q8Block>(run * scales);
        auto* const columns = tiles.take<std::int8_t>(run * n);
        auto* const scale = tiles.take<std::uint16_t>(run * scales);
        k_.quantize(rows, run * n, blocks);
        for (std::size_t r = 0; r < run; ++r) {
            for (std::size_t d = 0; d < n; ++d) columns[d * run + r] = blocks[r * scales + d / 32].q[d % 32];
            for (std::size_t i = 0; i < scales; ++i)
                scale[i * run + r] = engine::f32_to_f16(blocks[r * scales + i].scale);
        }
        FLEX_NPU_TRY(dma_.out(columns, {plan.region, at + slot, run, n, kTokens}, run));
        const std::uint64_t scales_at = at + kTokens * n + slot * 2;
        return dma_.out(scale, {plan.region, scales_at, run * 2, scales, kTokens * 2}, run * 2);
    }
    }
    return {FLEX_NPU_BAD_COMMAND};
}

Outcome Execution::store_values(const KvPlan& plan, std::uint64_t at, std::size_t slot, std::size_t run,
                                const float* rows, Tiles tiles) {
    const std::size_t n = plan.layout.head_size, scales = n / 32;
    switch (plan.layout.type) {
    case KvType::kF32:
        return dma_.out(rows, {plan.region, at + slot * n * 4, run * n * 4});
    case KvType::kF16: {
        auto* const narrow = tiles.take<std::uint16_t>(run * n);
        k_.narrow_f16(rows, run * n, narrow);
        return dma_.out(narrow, {plan.region, at + slot * n * 2, run * n * 2});
    }
    case KvType::kQ8_0: {
        auto* const blocks = tiles.take<Q8Block>(run * scales);
        auto* const values = tiles.take<std::int8_t>(run * n);
        auto* const scale = tiles.take<std::uint16_t>(run * scales);
        k_.quantize(rows, run * n, blocks);
        for (std::size_t i = 0; i < run * scales; ++i) {
            std::copy_n(blocks[i].q, 32, values + i * 32);
            scale[i] = engine::f32_to_f16(blocks[i].scale);
        }
        FLEX_NPU_TRY(dma_.out(values, {plan.region, at + slot * n, run * n}));
        const std::uint64_t scales_at = at + kTokens * n + slot * scales * 2;
        return dma_.out(scale, {plan.region, scales_at, run * scales * 2});
    }
    }
    return {FLEX_NPU_BAD_COMMAND};
}

} // namespace flex::npu::model
