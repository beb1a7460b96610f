// Q8_0 products for NEON: once for every Armv8-A, once with FEAT_DotProd, once with FEAT_I8MM. The including
// file says how a block of half a panel and some tokens are multiplied and summed. Included by exactly one
// .cpp per variant, with everything in its unnamed namespace.
#pragma once

#include <arm_neon.h>

#include "engine/kernels/exact.h"
#include "engine/kernels/q8_layout.h"

namespace flex::engine {

/// In neon_dotprod.cpp and neon_i8mm.cpp; they need FEAT_DotProd, and FEAT_I8MM too.
void neon_dotprod_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                              std::size_t tokens, float* y, std::size_t y_stride);
void neon_i8mm_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                           std::size_t tokens, float* y, std::size_t y_stride);

namespace {

/// Weights of group g of a block, rows 4 * quad to 4 * quad + 3 of the half panel that `w` points into.
[[maybe_unused]] inline int8x16_t group_of(const std::byte* w, int g, int quad) {
    return vld1q_s8(reinterpret_cast<const std::int8_t*>(w + 64 * g + 16 * quad));
}

/// Four activations in every lane.
[[maybe_unused]] inline int8x16_t broadcast_four(const std::int8_t* q) {
    std::int32_t four;
    std::memcpy(&four, q, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/// Adds one block: acc += sums * (scales of the rows * scale of the token). Lane = row.
template <int T>
inline void add_block(const std::byte* scales, const Q8Block* x, std::size_t stride,
                      const int32x4_t sum[T][2], float32x4_t acc[T][2]) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(scales);
    const float32x4_t d[2] = {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))),
                              vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + 4)))};
    for (int t = 0; t < T; ++t) {
        for (int quad = 0; quad < 2; ++quad) {
            acc[t][quad] = vfmaq_f32(acc[t][quad], vcvtq_f32_s32(sum[t][quad]),
                                     vmulq_n_f32(d[quad], x[t * stride].scale));
        }
    }
}

/// Half a panel (8 rows, of which `rows` are there) times T tokens.
template <class Variant, int T>
void half_tile(const std::byte* panel, std::size_t half, std::size_t rows, std::size_t blocks,
               const Q8Block* x, float* y, std::size_t y_stride) {
    float32x4_t acc[2][T][2]; // of even and of odd blocks
    for (int t = 0; t < T; ++t) {
        for (int quad = 0; quad < 2; ++quad) acc[0][t][quad] = acc[1][t][quad] = vdupq_n_f32(0);
    }
    const auto add = [&](std::size_t parity, std::size_t b) __attribute__((always_inline)) {
        int32x4_t sum[T][2];
        Variant::template sums<T>(panel + panel_weights(parity) + 32 * half, x + b, blocks, sum);
        add_block<T>(panel + panel_scales(parity) + 16 * half, x + b, blocks, sum, acc[parity]);
    };
    std::size_t b = 0;
    for (; b + 2 <= blocks; b += 2, panel += kPanelPairBytes) {
        add(0, b);
        add(1, b + 1);
    }
    if (b < blocks) add(0, b);
    for (int t = 0; t < T; ++t) {
        float out[8];
        for (int quad = 0; quad < 2; ++quad)
            vst1q_f32(out + 4 * quad, vaddq_f32(acc[0][t][quad], acc[1][t][quad]));
        std::memcpy(y + t * y_stride, out, (rows < 8 ? rows : 8) * sizeof(float));
    }
}

template <class Variant, int T>
void tile(const std::byte* panel, std::size_t rows, std::size_t blocks, const Q8Block* x, float* y,
          std::size_t y_stride) {
    half_tile<Variant, T>(panel, 0, rows, blocks, x, y, y_stride);
    if (rows > 8) half_tile<Variant, T>(panel, 1, rows - 8, blocks, x, y + 8, y_stride);
}

template <class Variant>
void neon_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                      std::size_t tokens, float* y, std::size_t y_stride) {
    const std::size_t blocks = columns / kQ8Block, bytes = panel_bytes(columns);
    for (std::size_t t = 0; t < tokens;) {
        const std::size_t left = tokens - t, some = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const auto run = some == 4 ? tile<Variant, 4> : some == 2 ? tile<Variant, 2> : tile<Variant, 1>;
        for (std::size_t r = 0; r < rows; r += kPanelRows) {
            run(w + r / kPanelRows * bytes, rows - r, blocks, x + t * blocks, y + t * y_stride + r, y_stride);
        }
        t += some;
    }
}

} // namespace
} // namespace flex::engine
