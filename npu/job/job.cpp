#include "npu/job/job.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace flex::npu {

void Job::clear() {
    regions_.clear();
    commands_.clear();
    ok_ = true;
}

/// A job that is not ok() still has a last command to write to, and never grows beyond its limit.
flex_npu_command& Job::add(flex_npu_op op, std::uint64_t count) {
    ok_ = ok_ && count >= 1 && count <= FLEX_NPU_COUNT_MAX;
    if (commands_.size() == kJobCommands) {
        ok_ = false;
        commands_.pop_back();
    }
    flex_npu_command& command = commands_.emplace_back();
    command.op = op;
    command.count = static_cast<flex_u32>(count);
    return command;
}

flex_npu_operand Job::operand(Place place) {
    const auto found = std::ranges::find(regions_, place.region);
    const auto index = static_cast<flex_u32>(found - regions_.begin());
    if (found == regions_.end()) {
        if (place.region == Region::kNone || regions_.size() == FLEX_NPU_REGIONS_MAX)
            ok_ = false;
        else
            regions_.push_back(place.region);
    }
    return {index, 0, place.offset};
}

void Job::embed(const MatrixPlace& matrix, Place ids, std::uint32_t tokens, Place y) {
    add_matmul(matrix, ids, tokens, y).op = FLEX_NPU_EMBED;
}

void Job::rms_norm(Place x, Place weight, std::uint64_t count, std::uint32_t columns, float epsilon,
                   Place y) {
    ok_ = ok_ && columns >= 1 && columns <= FLEX_NPU_COLUMNS_MAX;
    const std::uint64_t row_bytes = std::uint64_t{columns} * sizeof(float);
    for (std::uint64_t done = 0; done < count; done += FLEX_NPU_COUNT_MAX) {
        flex_npu_command& c =
            add(FLEX_NPU_RMS_NORM, std::min<std::uint64_t>(count - done, FLEX_NPU_COUNT_MAX));
        c.columns = columns;
        c.scalar = std::bit_cast<flex_u32>(epsilon);
        c.x = operand({x.region, x.offset + done * row_bytes});
        c.w = operand(weight);
        c.y = operand({y.region, y.offset + done * row_bytes});
    }
}

flex_npu_command& Job::add_matmul(const MatrixPlace& matrix, Place x, std::uint32_t tokens, Place y) {
    ok_ = ok_ && matrix.rows >= 1 && matrix.rows <= FLEX_NPU_ROWS_MAX && matrix.columns >= 1 &&
          matrix.columns <= FLEX_NPU_COLUMNS_MAX && matrix.columns % 32 == 0;
    flex_npu_command& c = add(FLEX_NPU_MATMUL, tokens);
    c.rows = matrix.rows;
    c.columns = matrix.columns;
    c.w = operand(matrix.at);
    c.x = operand(x);
    c.y = operand(y);
    return c;
}

void Job::matmul(const MatrixPlace& matrix, Place x, std::uint32_t tokens, Place y) {
    add_matmul(matrix, x, tokens, y);
}

void Job::matmul_add(const MatrixPlace& matrix, Place x, std::uint32_t tokens, Place y) {
    add_matmul(matrix, x, tokens, y).flags = FLEX_NPU_ACCUMULATE;
}

void Job::matmul_gate(const MatrixPlace& matrix, Place x, Place gate, std::uint32_t tokens, Place y) {
    flex_npu_command& c = add_matmul(matrix, x, tokens, y);
    c.flags = FLEX_NPU_GATE;
    c.z = operand(gate);
}

void Job::rope(Place x, Place cosines, Place sines, std::uint32_t tokens, std::uint32_t heads,
               std::uint32_t head_size, std::uint32_t pairs, bool neighbours) {
    ok_ = ok_ && heads >= 1 && heads <= 1024 && head_size >= 2 && head_size <= 512 && pairs >= 1 &&
          2 * pairs <= head_size;
    flex_npu_command& c = add(FLEX_NPU_ROPE, tokens);
    c.flags = neighbours ? FLEX_NPU_NEIGHBOURS : 0;
    c.heads = static_cast<flex_u16>(heads);
    c.kv_heads = c.heads;
    c.head_size = static_cast<flex_u16>(head_size);
    c.columns = pairs;
    c.y = operand(x);
    c.z = operand(cosines);
    c.w = operand(sines);
}

flex_npu_command& Job::add_kv(flex_npu_op op, const KvPlace& kv, std::uint32_t layer) {
    ok_ = ok_ && kv.kv_heads >= 1 && kv.kv_heads <= 1024 && kv.head_size >= 2 && kv.head_size <= 512 &&
          kv.layers >= 1 && kv.layers <= 1024 && layer < kv.layers && kv.block_list >= 1 &&
          kv.block_list <= FLEX_NPU_BLOCK_LIST_MAX;
    flex_npu_command& c = add(op, kv.tokens);
    c.heads = kv.kv_heads;
    c.kv_heads = kv.kv_heads;
    c.head_size = kv.head_size;
    c.kv_type = kv.type;
    c.layer = layer;
    c.layers = kv.layers;
    c.block_bytes = kv.block_bytes;
    c.block_list = kv.block_list;
    c.w = operand(kv.cache);
    c.u.rows_of = operand(kv.rows_of);
    return c;
}

void Job::kv_store(const KvPlace& kv, std::uint32_t layer, Place keys, Place values) {
    flex_npu_command& c = add_kv(FLEX_NPU_KV_STORE, kv, layer);
    c.x = operand(keys);
    c.z = operand(values);
}

void Job::attention(const KvPlace& kv, std::uint32_t layer, std::uint32_t heads, Place queries, Place y) {
    flex_npu_command& c = add_kv(FLEX_NPU_ATTENTION, kv, layer);
    ok_ = ok_ && heads >= 1 && heads <= 1024 && heads % kv.kv_heads == 0;
    c.heads = static_cast<flex_u16>(heads);
    c.scalar = std::bit_cast<flex_u32>(1.0F / std::sqrt(static_cast<float>(kv.head_size)));
    c.x = operand(queries);
    c.y = operand(y);
}

} // namespace flex::npu
