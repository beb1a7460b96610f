// NEON: attention over the KV cache. Every Armv8-A converts between binary16 and binary32.
#include <arm_neon.h>

#include "engine/kernels/attention.h"
#include "engine/kernels/attention_tiles.h"

namespace flex::engine {

namespace {

struct Neon {
    using Vector = float32x4_t;
    static constexpr std::size_t kWidth = 4;
    static Vector zero() { return vdupq_n_f32(0); }
    static Vector load(const float* p) { return vld1q_f32(p); }
    static void store(float* p, Vector v) { vst1q_f32(p, v); }
    static Vector broadcast(const float* p) { return vld1q_dup_f32(p); }
    static Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
};

float32x4_t widen(const std::uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

/// Eight.
void widen(const std::int8_t* p, float32x4_t out[2]) {
    const int16x8_t wide = vmovl_s8(vld1_s8(p));
    out[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    out[1] = vcvtq_f32_s32(vmovl_high_s16(wide));
}

} // namespace

void neon_narrow_f16(const float* x, std::size_t n, std::uint16_t* y) {
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < n; ++i) y[i] = f32_to_f16(x[i]);
}

void neon_widen_f16(const std::uint16_t* x, std::size_t n, float* y) {
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, widen(x + i));
    for (; i < n; ++i) y[i] = f16_to_f32(x[i]);
}

void neon_widen_q8(const std::int8_t* q, const std::uint16_t* scale, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; i += 8) {
        const float factor = f16_to_f32(scale[i / kQ8Block]);
        float32x4_t wide[2];
        widen(q + i, wide);
        for (int half = 0; half < 2; ++half) vst1q_f32(y + i + 4 * half, vmulq_n_f32(wide[half], factor));
    }
}

void neon_widen_q8_columns(const std::int8_t* q, const std::uint16_t* scale, std::size_t head_size,
                           float* y) {
    for (std::size_t d = 0; d < head_size; ++d) {
        const std::uint16_t* factors = scale + d / kQ8Block * kBlockTokens;
        for (std::size_t i = 0; i < kBlockTokens; i += 8) {
            const std::size_t at = d * kBlockTokens + i;
            float32x4_t wide[2];
            widen(q + at, wide);
            for (std::size_t half = 0; half < 2; ++half)
                vst1q_f32(y + at + 4 * half, vmulq_f32(wide[half], widen(factors + i + 4 * half)));
        }
    }
}

void neon_block_scores(const float* const* queries, std::size_t rows, const float* keys,
                       std::size_t head_size, float factor, float* out, std::size_t out_stride) {
    simd_block_scores<Neon>(queries, rows, keys, head_size, factor, out, out_stride);
}

void neon_add_weighted(const float* weights, std::size_t weights_stride, std::size_t rows,
                       const float* values, std::size_t count, std::size_t head_size, float* const* out) {
    simd_add_weighted<Neon>(weights, weights_stride, rows, values, count, head_size, out);
}

} // namespace flex::engine
