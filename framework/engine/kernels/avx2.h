// Shared by the AVX2 kernels; for files compiled with -mavx2 -mfma -mf16c only.
#pragma once

#include <immintrin.h>

#include "engine/kernels/exact.h"
#include "engine/kernels/q8_layout.h"

namespace flex::engine {

void avx2_quantize(const float* x, std::size_t n, Q8Block* out);
void avx2_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                      std::size_t tokens, float* y, std::size_t y_stride);

namespace {

using F8 = __m256;
using I8 = __m256i;

inline const __m256i* as_vector(const void* p) { return static_cast<const __m256i*>(p); }

inline I8 tail_mask(std::size_t n) { // n in 1..7 lanes
    const I8 index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), index);
}

} // namespace
} // namespace flex::engine
