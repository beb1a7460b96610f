// Q8_0 products for NEON, once for every Armv8-A and once with FEAT_DotProd: the including file says how 16
// products are added up in groups of four. Included by exactly one .cpp per variant, with everything in its
// unnamed namespace.
#pragma once

#include <arm_neon.h>

#include "engine/kernels/exact.h"

namespace flex::engine {

/// In neon_dotprod.cpp; needs FEAT_DotProd.
void neon_dotprod_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const std::int8_t* q,
                              const float* scale, std::size_t tokens, float* y, std::size_t y_stride,
                              std::byte* scratch);

namespace {

inline const std::int8_t* values_of(const std::byte* block) {
    return reinterpret_cast<const std::int8_t*>(block + 2);
}

/// The f16 scales of block `offset` of R rows times the activation's scale; missing rows give 0.
template <int R> inline float32x4_t factors(const std::byte* const row[R], std::size_t offset, float scale) {
    std::uint16_t half[4] = {};
    for (int r = 0; r < R; ++r) half[r] = load_u16(row[r] + offset);
    const float32x4_t wide = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half)));
    return vmulq_n_f32(wide, scale);
}

/// R <= 4 rows of w times T tokens, straight from the file's layout. Lane = row in the accumulators.
template <class Block, int R, int T>
inline void q8_tile(const std::byte* w, std::size_t blocks, const std::int8_t* q, const float* scale,
                    float* y, std::size_t y_stride) {
    const std::size_t columns = blocks * kQ8Block;
    const std::byte* row[R];
    for (int r = 0; r < R; ++r) row[r] = w + r * blocks * kQ8BlockBytes;
    float32x4_t acc[T], other[T]; // acc takes the coming block: even and odd ones in turn
    for (int t = 0; t < T; ++t) acc[t] = other[t] = vdupq_n_f32(0);
    for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t offset = b * kQ8BlockBytes;
        int8x16_t low[R], high[R];
        for (int r = 0; r < R; ++r) {
            low[r] = vld1q_s8(values_of(row[r] + offset));
            high[r] = vld1q_s8(values_of(row[r] + offset) + 16);
        }
        for (int t = 0; t < T; ++t) {
            const std::int8_t* x = q + t * columns + b * kQ8Block;
            const int8x16_t x_low = vld1q_s8(x), x_high = vld1q_s8(x + 16);
            int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
            for (int r = 0; r < R; ++r) sums[r] = Block::products(low[r], high[r], x_low, x_high);
            const int32x4_t by_row = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
            const float32x4_t next =
                vfmaq_f32(acc[t], vcvtq_f32_s32(by_row), factors<R>(row, offset, scale[t * blocks + b]));
            acc[t] = other[t];
            other[t] = next;
        }
    }
    for (int t = 0; t < T; ++t) {
        float out[4];
        vst1q_f32(out, vaddq_f32(acc[t], other[t]));
        for (int r = 0; r < R; ++r) y[t * y_stride + r] = out[r];
    }
}

template <class Block>
void neon_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const std::int8_t* q,
                      const float* scale, std::size_t tokens, float* y, std::size_t y_stride, std::byte*) {
    const std::size_t blocks = columns / kQ8Block, row_bytes = blocks * kQ8BlockBytes;
    std::size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        std::size_t t = 0;
        for (; t + 2 <= tokens; t += 2) {
            q8_tile<Block, 4, 2>(w + r * row_bytes, blocks, q + t * columns, scale + t * blocks,
                                 y + t * y_stride + r, y_stride);
        }
        if (t < tokens) {
            q8_tile<Block, 4, 1>(w + r * row_bytes, blocks, q + t * columns, scale + t * blocks,
                                 y + t * y_stride + r, y_stride);
        }
    }
    for (; r < rows; ++r) {
        for (std::size_t t = 0; t < tokens; ++t) {
            q8_tile<Block, 1, 1>(w + r * row_bytes, blocks, q + t * columns, scale + t * blocks,
                                 y + t * y_stride + r, y_stride);
        }
    }
}

} // namespace
} // namespace flex::engine
