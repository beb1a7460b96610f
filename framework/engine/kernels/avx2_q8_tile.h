// Q8_0 in 256-bit registers: tiles of 16 rows (a panel, as two halves) by up to six tokens. How four products
// are summed is the includer's (`Dot`); for files compiled with -mavx2 -mfma -mf16c at least.
#pragma once

#include <array>
#include <utility>

#include "engine/kernels/avx2.h"

namespace flex::engine {
namespace {

// Six tokens are twelve sums, which leaves four registers for the weights and what is made of them. The float
// accumulators are touched once a block and live in L1.
constexpr std::size_t kTileTokens = 6;

/// The accumulators of one token: 16 rows.
struct Halves {
    F8 half[2];
};

/// One block of a panel times T tokens; lane = row. Dot: start(x) is where a sum begins, weights(w) what is
/// kept of eight rows by four columns, add(sum, weights, q) the sum with the products of a broadcast group.
template <class Dot, int T>
inline __attribute__((always_inline)) void block(const std::byte* scales, const std::byte* weights,
                                                 const Q8Block* x, std::size_t stride, Halves acc[T]) {
    I8 sum[T][2];
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = Dot::start(x[t * stride]);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        const auto low = Dot::weights(_mm256_load_si256(as_vector(weights + 64 * g)));
        const auto high = Dot::weights(_mm256_load_si256(as_vector(weights + 64 * g + 32)));
#pragma GCC unroll 6
        for (int t = 0; t < T; ++t) {
            int four;
            __builtin_memcpy(&four, x[t * stride].q + 4 * g, 4);
            const I8 q = _mm256_set1_epi32(four);
            sum[t][0] = Dot::add(sum[t][0], low, q);
            sum[t][1] = Dot::add(sum[t][1], high, q);
            // Else GCC 12 computes all products of a block first, stores them, and sums them as a tree.
            asm("" : "+x"(sum[t][0]), "+x"(sum[t][1]));
        }
    }
    const __m128i* const d = reinterpret_cast<const __m128i*>(scales);
    const F8 d_low = _mm256_cvtph_ps(_mm_load_si128(d)), d_high = _mm256_cvtph_ps(_mm_load_si128(d + 1));
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
        const F8 scale = _mm256_set1_ps(x[t * stride].scale);
        F8* const a = acc[t].half;
        a[0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][0]), _mm256_mul_ps(d_low, scale), a[0]);
        a[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][1]), _mm256_mul_ps(d_high, scale), a[1]);
    }
}

inline void store(float* y, std::size_t rows, F8 value) {
    if (rows >= 8) {
        _mm256_storeu_ps(y, value);
    } else if (rows > 0) {
        _mm256_maskstore_ps(y, tail_mask(rows), value);
    }
}

/// A panel (of which `rows` rows are there) times T tokens. With few tokens the memory is the limit, and it
/// helps to ask for the weights earlier than the hardware dares to: it stops at every 4 KiB.
template <class Dot, int T>
void tile(const std::byte* panel, std::size_t rows, std::size_t blocks, const Q8Block* x, float* y,
          std::size_t y_stride) {
    Halves even[T] = {}, odd[T] = {};
    std::size_t b = 0;
    for (; b + 2 <= blocks; b += 2, panel += kPanelPairBytes) {
        if constexpr (T <= 4) {
            for (std::size_t line = 0; line < kPanelPairBytes; line += 64)
                _mm_prefetch(reinterpret_cast<const char*>(panel + kPairsAhead * kPanelPairBytes + line),
                             _MM_HINT_T1);
        }
        block<Dot, T>(panel, panel + panel_weights(0), x + b, blocks, even);
        block<Dot, T>(panel + panel_scales(1), panel + panel_weights(1), x + b + 1, blocks, odd);
    }
    if (b < blocks) block<Dot, T>(panel, panel + panel_weights(0), x + b, blocks, even);
    for (std::size_t t = 0; t < T; ++t) {
        float* const to = y + t * y_stride;
        store(to, rows, _mm256_add_ps(even[t].half[0], odd[t].half[0]));
        if (rows > 8) store(to + 8, rows - 8, _mm256_add_ps(even[t].half[1], odd[t].half[1]));
    }
}

/// Kernels::matmul_q8_0
template <class Dot>
void matmul(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x, std::size_t tokens,
            float* y, std::size_t y_stride) {
    using Tile = void (*)(const std::byte*, std::size_t, std::size_t, const Q8Block*, float*, std::size_t);
    constexpr auto kTiles = []<std::size_t... I>(std::index_sequence<I...>) {
        return std::array<Tile, kTileTokens>{tile<Dot, I + 1>...};
    }
    (std::make_index_sequence<kTileTokens>());
    const std::size_t blocks = columns / kQ8Block, bytes = panel_bytes(columns);
    for (std::size_t t = 0, some = 0; t < tokens; t += some) {
        // Eight are four and four, not six and two: short tiles hardly use a weight again.
        const std::size_t passes = (tokens - t + kTileTokens - 1) / kTileTokens;
        some = (tokens - t + passes - 1) / passes;
        for (std::size_t r = 0; r < rows; r += kPanelRows) {
            kTiles[some - 1](w + r / kPanelRows * bytes, rows - r, blocks, x + t * blocks,
                             y + t * y_stride + r, y_stride);
        }
    }
}

} // namespace
} // namespace flex::engine
