// Attention over one block of the KV cache, once for every SIMD width. V has: Vector, kWidth, load, store,
// broadcast, zero, multiply, multiply_add(a, b, c) = a * b + c in one rounding. Included with everything in
// the unnamed namespace, for the reason given in exact.h.
#pragma once

#include "engine/kernels/exact.h"

// Without it GCC 12 sees the accumulators as an array and writes all of them to the stack in every round.
#define FLEX_UNROLL _Pragma("GCC unroll 16")

namespace flex::engine {
namespace {

constexpr int kTileRows = 6;     // query rows whose accumulators stay in registers (12 of AVX2's 16),
constexpr int kTileColumns = 16; // with so many keys, or elements of a head

template <class V, int R>
inline void scores_tile(const float* const* queries, const float* keys, std::size_t head_size, float factor,
                        float* out, std::size_t out_stride) {
    constexpr int C = kTileColumns / V::kWidth;
    typename V::Vector acc[R][C];
    FLEX_UNROLL for (int r = 0; r < R; ++r) { FLEX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = V::zero(); }
    for (std::size_t d = 0; d < head_size; ++d) {
        typename V::Vector key[C];
        FLEX_UNROLL for (int c = 0; c < C; ++c) key[c] = V::load(keys + d * kBlockTokens + c * V::kWidth);
        FLEX_UNROLL for (int r = 0; r < R; ++r) {
            const auto query = V::broadcast(queries[r] + d);
            FLEX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = V::multiply_add(query, key[c], acc[r][c]);
        }
    }
    const auto factors = V::broadcast(&factor);
    FLEX_UNROLL for (int r = 0; r < R; ++r) {
        FLEX_UNROLL for (int c = 0; c < C; ++c)
            V::store(out + r * out_stride + c * V::kWidth, V::multiply(acc[r][c], factors));
    }
}

template <class V, int R>
inline void scores_rows(const float* const* queries, const float* keys, std::size_t head_size, float factor,
                        float* out, std::size_t out_stride) {
    for (std::size_t i = 0; i < kBlockTokens; i += kTileColumns)
        scores_tile<V, R>(queries, keys + i, head_size, factor, out + i, out_stride);
}

template <class V, int R = kTileRows>
void simd_block_scores(const float* const* queries, std::size_t rows, const float* keys,
                       std::size_t head_size, float factor, float* out, std::size_t out_stride) {
    for (; rows >= R; rows -= R, queries += R, out += R * out_stride)
        scores_rows<V, R>(queries, keys, head_size, factor, out, out_stride);
    if constexpr (R > 1) simd_block_scores<V, R - 1>(queries, rows, keys, head_size, factor, out, out_stride);
}

/// Elements [d, d + C * kWidth) of R rows.
template <class V, int R, int C>
inline void weighted_tile(const float* weights, std::size_t weights_stride, const float* values,
                          std::size_t count, std::size_t head_size, float* const* out, std::size_t d) {
    typename V::Vector acc[R][C];
    FLEX_UNROLL for (int r = 0; r < R; ++r) {
        FLEX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = V::load(out[r] + d + c * V::kWidth);
    }
    for (std::size_t i = 0; i < count; ++i) {
        typename V::Vector value[C];
        FLEX_UNROLL for (int c = 0; c < C; ++c) value[c] =
            V::load(values + i * head_size + d + c * V::kWidth);
        FLEX_UNROLL for (int r = 0; r < R; ++r) {
            const auto weight = V::broadcast(weights + r * weights_stride + i);
            FLEX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = V::multiply_add(weight, value[c], acc[r][c]);
        }
    }
    FLEX_UNROLL for (int r = 0; r < R; ++r) {
        FLEX_UNROLL for (int c = 0; c < C; ++c) V::store(out[r] + d + c * V::kWidth, acc[r][c]);
    }
}

template <class V, int R>
inline void weighted_rows(const float* weights, std::size_t weights_stride, const float* values,
                          std::size_t count, std::size_t head_size, float* const* out) {
    constexpr int C = kTileColumns / V::kWidth;
    std::size_t d = 0;
    for (; d + kTileColumns <= head_size; d += kTileColumns)
        weighted_tile<V, R, C>(weights, weights_stride, values, count, head_size, out, d);
    for (; d + V::kWidth <= head_size; d += V::kWidth)
        weighted_tile<V, R, 1>(weights, weights_stride, values, count, head_size, out, d);
    for (; d < head_size; ++d) {
        FLEX_UNROLL for (int r = 0; r < R; ++r) {
            for (std::size_t i = 0; i < count; ++i)
                out[r][d] = exact_fma(weights[r * weights_stride + i], values[i * head_size + d], out[r][d]);
        }
    }
}

template <class V, int R = kTileRows>
void simd_add_weighted(const float* weights, std::size_t weights_stride, std::size_t rows,
                       const float* values, std::size_t count, std::size_t head_size, float* const* out) {
    for (; rows >= R; rows -= R, weights += R * weights_stride, out += R)
        weighted_rows<V, R>(weights, weights_stride, values, count, head_size, out);
    if constexpr (R > 1)
        simd_add_weighted<V, R - 1>(weights, weights_stride, rows, values, count, head_size, out);
}

} // namespace
} // namespace flex::engine
