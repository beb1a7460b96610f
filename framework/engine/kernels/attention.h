// The attention kernels of the SIMD tables: what they do stands in kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flex::engine {

#define FLEX_ATTENTION_KERNELS(target)                                                                       \
    void target##_narrow_f16(const float* x, std::size_t n, std::uint16_t* y);                               \
    void target##_widen_f16(const std::uint16_t* x, std::size_t n, float* y);                                \
    void target##_widen_q8(const std::int8_t* q, const std::uint16_t* scale, std::size_t n, float* y);       \
    void target##_widen_q8_columns(const std::int8_t* q, const std::uint16_t* scale, std::size_t head_size,  \
                                   float* y);                                                                \
    void target##_block_scores(const float* const* queries, std::size_t rows, const float* keys,             \
                               std::size_t head_size, float factor, float* out, std::size_t out_stride);     \
    void target##_add_weighted(const float* weights, std::size_t weights_stride, std::size_t rows,           \
                               const float* values, std::size_t count, std::size_t head_size,                \
                               float* const* out)

#if defined(__x86_64__)
FLEX_ATTENTION_KERNELS(avx2);
#elif defined(__aarch64__)
FLEX_ATTENTION_KERNELS(neon);
#endif

} // namespace flex::engine
