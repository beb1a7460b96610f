// Operations on rows of floats.
#include <bit>

#include "npu/model/execution.h"

namespace flex::npu::model {

/// operation(first, count, y[count][columns], tiles) on tiles of y, which are brought in and written out.
template <class Operation>
Outcome Execution::for_rows(const Strips& y, std::uint64_t columns, const Operation& operation) {
    const std::uint64_t some = rows_at_a_time(y.count, columns);
    return share_out((y.count + some - 1) / some, [&](std::size_t i, Tiles tiles) -> Outcome {
        const std::uint64_t first = i * some, count = std::min(some, y.count - first);
        const std::size_t line = columns * sizeof(float);
        auto* const rows = tiles.take<float>(count * columns);
        FLEX_NPU_TRY(operation(first, count, rows, tiles));
        return dma_.out(rows, rows_of(y, first, count), line);
    });
}

Outcome Execution::rms_norm(const flex_npu_command& c) {
    if (!within(c.columns, 1, FLEX_NPU_COLUMNS_MAX)) return {FLEX_NPU_BAD_COMMAND};
    Strips x, y, w;
    FLEX_NPU_TRY(floats(c.x, c.count, c.columns, x));
    FLEX_NPU_TRY(floats(c.y, c.count, c.columns, y));
    FLEX_NPU_TRY(floats(c.w, 1, c.columns, w));
    const std::size_t n = c.columns;
    const auto epsilon = std::bit_cast<float>(c.scalar);
    return for_rows(y, n, [&](std::uint64_t first, std::uint64_t count, float* rows, Tiles tiles) -> Outcome {
        auto* const weight = tiles.take<float>(n);
        FLEX_NPU_TRY(dma_.in(w, weight));
        FLEX_NPU_TRY(dma_.in(rows_of(x, first, count), rows, n * sizeof(float)));
        for (std::uint64_t r = 0; r < count; ++r) k_.rms_norm(rows + r * n, weight, n, epsilon, rows + r * n);
        return {};
    });
}

Outcome Execution::softmax(const flex_npu_command& c) {
    if (!within(c.columns, 1, FLEX_NPU_COLUMNS_MAX)) return {FLEX_NPU_BAD_COMMAND};
    Strips y;
    FLEX_NPU_TRY(floats(c.y, c.count, c.columns, y));
    const std::size_t n = c.columns;
    return for_rows(y, n,
                    [&](std::uint64_t first, std::uint64_t count, float* rows, const Tiles&) -> Outcome {
                        FLEX_NPU_TRY(dma_.in(rows_of(y, first, count), rows, n * sizeof(float)));
                        for (std::uint64_t r = 0; r < count; ++r) k_.softmax(rows + r * n, n);
                        return {};
                    });
}

/// FLEX_NPU_ADD and FLEX_NPU_SILU_MULTIPLY
Outcome Execution::combine(const flex_npu_command& c) {
    if (!within(c.columns, 1, FLEX_NPU_COLUMNS_MAX)) return {FLEX_NPU_BAD_COMMAND};
    Strips x, y;
    FLEX_NPU_TRY(floats(c.x, c.count, c.columns, x));
    FLEX_NPU_TRY(floats(c.y, c.count, c.columns, y));
    const std::size_t n = c.columns, line = n * sizeof(float);
    return for_rows(y, n, [&](std::uint64_t first, std::uint64_t count, float* rows, Tiles tiles) -> Outcome {
        auto* const other = tiles.take<float>(count * n);
        FLEX_NPU_TRY(dma_.in(rows_of(y, first, count), rows, line));
        FLEX_NPU_TRY(dma_.in(rows_of(x, first, count), other, line));
        if (c.op == FLEX_NPU_ADD)
            k_.add(rows, other, count * n);
        else
            k_.silu_multiply(rows, other, count * n);
        return {};
    });
}

namespace {

/// The engine's rotation (engine/forward.cpp): the same products, differences and sums, each rounded.
void rotate(float* head, std::size_t pairs, bool neighbours, const float* cos, const float* sin) {
    const std::size_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : pairs;
    for (std::size_t i = 0; i < pairs; ++i) {
        float& a = head[i * step];
        float& b = head[i * step + apart];
        const float rotated = a * cos[i] - b * sin[i];
        b = a * sin[i] + b * cos[i];
        a = rotated;
    }
}

} // namespace

Outcome Execution::rope(const flex_npu_command& c) {
    if (!within(c.heads, 1, 1024) || !within(c.head_size, 2, 512) || c.head_size % 2 != 0 ||
        !within(c.columns, 1, c.head_size / 2))
        return {FLEX_NPU_BAD_COMMAND};
    Strips y, cosines, sines;
    FLEX_NPU_TRY(floats(c.y, c.count, std::uint64_t{c.heads} * c.head_size, y));
    FLEX_NPU_TRY(floats(c.z, c.count, c.columns, cosines));
    FLEX_NPU_TRY(floats(c.w, c.count, c.columns, sines));
    const std::size_t some = std::min<std::size_t>(c.heads, (16 << 10) / c.head_size);
    return share_out(c.count, [&](std::size_t t, Tiles tiles) -> Outcome {
        auto* const cos = tiles.take<float>(c.columns);
        auto* const sin = tiles.take<float>(c.columns);
        auto* const heads = tiles.take<float>(some * c.head_size);
        FLEX_NPU_TRY(dma_.in(rows_of(cosines, t, 1), cos));
        FLEX_NPU_TRY(dma_.in(rows_of(sines, t, 1), sin));
        for (std::size_t first = 0; first < c.heads; first += some) {
            const std::size_t count = std::min(some, c.heads - first);
            const std::size_t head_bytes = c.head_size * sizeof(float);
            const Strips part = columns_of(rows_of(y, t, 1), first * head_bytes, count * head_bytes);
            FLEX_NPU_TRY(dma_.in(part, heads));
            for (std::size_t h = 0; h < count; ++h)
                rotate(heads + h * c.head_size, c.columns, (c.flags & FLEX_NPU_NEIGHBOURS) != 0, cos, sin);
            FLEX_NPU_TRY(dma_.out(heads, part));
        }
        return {};
    });
}

} // namespace flex::npu::model
