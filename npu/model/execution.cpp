#include "npu/model/execution.h"

#include <chrono>

#include "engine/kernels/q8_layout.h"

namespace flex::npu::model {

namespace {

/// Flags that mean something to an operation.
std::uint32_t flags_of(std::uint32_t op) {
    switch (op) {
    case FLEX_NPU_MATMUL:
        return FLEX_NPU_ACCUMULATE | FLEX_NPU_GATE;
    case FLEX_NPU_ROPE:
        return FLEX_NPU_NEIGHBOURS;
    default:
        return 0;
    }
}

bool has_rows(std::uint32_t op) { return op != FLEX_NPU_NOP && op != FLEX_NPU_SIGNAL && op != FLEX_NPU_WAIT; }

} // namespace

Outcome Execution::run(const flex_npu_command& c) {
    if ((c.flags & ~flags_of(c.op)) != 0) return {FLEX_NPU_BAD_COMMAND};
    if (has_rows(c.op) && !within(c.count, 1, FLEX_NPU_COUNT_MAX)) return {FLEX_NPU_BAD_COMMAND};
    switch (c.op) {
    case FLEX_NPU_NOP:
        return {};
    case FLEX_NPU_EMBED:
        return embed(c);
    case FLEX_NPU_RMS_NORM:
        return rms_norm(c);
    case FLEX_NPU_MATMUL:
        return matmul(c);
    case FLEX_NPU_ROPE:
        return rope(c);
    case FLEX_NPU_KV_STORE:
        return kv_store(c);
    case FLEX_NPU_ATTENTION:
        return attention(c);
    case FLEX_NPU_SOFTMAX:
        return softmax(c);
    case FLEX_NPU_ADD:
    case FLEX_NPU_SILU_MULTIPLY:
        return combine(c);
    case FLEX_NPU_SIGNAL:
        return signal(c);
    case FLEX_NPU_WAIT:
        return wait(c);
    default:
        return {FLEX_NPU_BAD_COMMAND};
    }
}

Outcome Execution::view(const flex_npu_operand& operand, std::uint64_t element, std::uint64_t alignment,
                        std::uint64_t rows, std::uint64_t elements, Strips& out) {
    const std::uint64_t stride = operand.stride == 0 ? elements : operand.stride;
    if (operand.region >= job_.regions.size() || stride < elements || operand.offset % alignment != 0)
        return {FLEX_NPU_BAD_OPERAND};
    // No overflow: rows are at most 2^12, strides below 2^37, elements at most 8 bytes.
    const std::uint64_t bytes = ((rows - 1) * stride + elements) * element;
    Region& region = *job_.regions[operand.region];
    // What lies between rows is checked and not accessed: nothing is to be looked up there.
    const std::uint64_t end = stride == elements ? operand.offset + bytes : 0;
    out = {&region, operand.offset, elements * element, rows, stride * element, end};
    return region.cover(operand.offset, bytes);
}

Outcome Execution::matrix(const flex_npu_command& c, Strips& out) {
    if (!within(c.rows, 1, FLEX_NPU_ROWS_MAX) || !within(c.columns, 32, FLEX_NPU_COLUMNS_MAX) ||
        c.columns % 32 != 0)
        return {FLEX_NPU_BAD_COMMAND};
    return view(c.w, 1, 64, 1, engine::packed_bytes(c.rows, c.columns), out);
}

Outcome Execution::signal(const flex_npu_command& c) {
    if (c.u.fence.reserved != 0) return {FLEX_NPU_BAD_COMMAND};
    Strips y;
    FLEX_NPU_TRY(view(c.y, 8, 8, 1, 1, y));
    return dma_.store(*y.region, y.offset, c.u.fence.scalar64);
}

Outcome Execution::wait(const flex_npu_command& c) {
    using Clock = std::chrono::steady_clock;
    if (c.u.fence.reserved != 0 || c.count > FLEX_NPU_WAIT_US_MAX) return {FLEX_NPU_BAD_COMMAND};
    Strips x;
    FLEX_NPU_TRY(view(c.x, 8, 8, 1, 1, x));
    const auto deadline = Clock::now() + std::chrono::microseconds(c.count);
    // Whoever shall write the word may need this core: look seldom once it takes long.
    constexpr std::uint64_t kFirst = 5'000, kLongest = 200'000;
    for (std::uint64_t pause = kFirst;; pause = std::min(2 * pause, kLongest)) {
        std::uint64_t word = 0;
        FLEX_NPU_TRY(dma_.load(*x.region, x.offset, word));
        if (word >= c.u.fence.scalar64) return {};
        if (Clock::now() >= deadline) return {FLEX_NPU_TIMEOUT};
        m_.pause(pause);
    }
}

} // namespace flex::npu::model
