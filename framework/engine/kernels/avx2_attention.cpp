// AVX2 + FMA + F16C: attention over the KV cache.
#include <immintrin.h>

#include "engine/kernels/attention.h"
#include "engine/kernels/attention_tiles.h"

namespace flex::engine {

namespace {

/// Bytes: as far as the memory takes to answer while a core widens.
constexpr std::size_t kAhead = 2048;

struct Avx2 {
    using Vector = __m256;
    static constexpr std::size_t kWidth = 8;
    static Vector zero() { return _mm256_setzero_ps(); }
    static Vector load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
    static Vector broadcast(const float* p) { return _mm256_broadcast_ss(p); }
    static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
};

__m256 widen(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

__m256 widen(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

} // namespace

void avx2_narrow_f16(const float* x, std::size_t n, std::uint16_t* y) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), half);
    }
    for (; i < n; ++i) y[i] = f32_to_f16(x[i]);
}

void avx2_widen_f16(const std::uint16_t* x, std::size_t n, float* y) {
    std::size_t i = 0;
    for (; i + 32 <= n; i += 32) { // a line; what follows is the next to be read, too (KvLayout::offset)
        _mm_prefetch(reinterpret_cast<const char*>(x + i) + kAhead, _MM_HINT_T0);
        for (std::size_t k = 0; k < 32; k += 8) _mm256_storeu_ps(y + i + k, widen(x + i + k));
    }
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, widen(x + i));
    for (; i < n; ++i) y[i] = f16_to_f32(x[i]);
}

void avx2_widen_q8(const std::int8_t* q, const std::uint16_t* scale, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; i += 8) {
        const __m256 factor = _mm256_set1_ps(f16_to_f32(scale[i / kQ8Block]));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(widen(q + i), factor));
    }
}

void avx2_widen_q8_columns(const std::int8_t* q, const std::uint16_t* scale, std::size_t head_size,
                           float* y) {
    for (std::size_t d = 0; d < head_size; ++d) {
        const std::uint16_t* factors = scale + d / kQ8Block * kBlockTokens;
        for (std::size_t i = 0; i < kBlockTokens; i += 8) {
            const std::size_t at = d * kBlockTokens + i;
            _mm256_storeu_ps(y + at, _mm256_mul_ps(widen(q + at), widen(factors + i)));
        }
    }
}

void avx2_block_scores(const float* const* queries, std::size_t rows, const float* keys,
                       std::size_t head_size, float factor, float* out, std::size_t out_stride) {
    simd_block_scores<Avx2>(queries, rows, keys, head_size, factor, out, out_stride);
}

void avx2_add_weighted(const float* weights, std::size_t weights_stride, std::size_t rows,
                       const float* values, std::size_t count, std::size_t head_size, float* const* out) {
    simd_add_weighted<Avx2>(weights, weights_stride, rows, values, count, head_size, out);
}

} // namespace flex::engine
