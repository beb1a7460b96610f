// Q8_0 with AVX-512 VNNI: vpdpbusd multiplies unsigned by signed bytes and sums four products a lane. The
// weights are shifted to 0..255 by flipping their sign bits; what that adds, 128 * sum(q), is the same for
// every row and is taken off beforehand (Q8Block::offset). Sums stay below 2^23, so nothing saturates.
#include <immintrin.h>

#include "engine/kernels/exact.h"
#include "engine/kernels/q8_layout.h"
#include "engine/kernels/tables.h"

namespace flex::engine {

namespace {

using F16 = __m512;
using I16 = __m512i;

/// One block of a panel times T tokens.
template <int T>
inline __attribute__((always_inline)) void block(const std::byte* scales, const std::byte* weights,
                                                 const Q8Block* x, std::size_t stride, F16 acc[T]) {
    const I16 flip = _mm512_set1_epi8(static_cast<char>(0x80));
    I16 sum[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sum[t] = _mm512_set1_epi32(x[t * stride].offset);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        const I16 w = _mm512_xor_si512(_mm512_load_si512(weights + 64 * g), flip);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
            int four;
            __builtin_memcpy(&four, x[t * stride].q + 4 * g, 4);
            sum[t] = _mm512_dpbusd_epi32(sum[t], w, _mm512_set1_epi32(four));
        }
    }
    const F16 d = _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(scales)));
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
        const F16 factor = _mm512_mul_ps(d, _mm512_set1_ps(x[t * stride].scale));
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), factor, acc[t]);
    }
}

/// One panel times T tokens. Up to four tokens the memory is the limit, and it helps to ask for the weights
/// earlier than the hardware dares to: it stops at every 4 KiB.
template <int T>
void tile(const std::byte* panel, std::size_t rows, std::size_t blocks, const Q8Block* x, float* y,
          std::size_t y_stride) {
    F16 even[T], odd[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) even[t] = odd[t] = _mm512_setzero_ps();
    std::size_t b = 0;
    for (; b + 2 <= blocks; b += 2, panel += kPanelPairBytes) {
        if constexpr (T <= 4) {
            for (std::size_t line = 0; line < kPanelPairBytes; line += 64)
                _mm_prefetch(reinterpret_cast<const char*>(panel + kPairsAhead * kPanelPairBytes + line),
                             _MM_HINT_T1);
        }
        block<T>(panel, panel + panel_weights(0), x + b, blocks, even);
        block<T>(panel + panel_scales(1), panel + panel_weights(1), x + b + 1, blocks, odd);
    }
    if (b < blocks) block<T>(panel, panel + panel_weights(0), x + b, blocks, even);
    const auto mask = static_cast<__mmask16>(rows < kPanelRows ? (1u << rows) - 1 : 0xffffu);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) _mm512_mask_storeu_ps(y + t * y_stride, mask, _mm512_add_ps(even[t], odd[t]));
}

using Tile = void (*)(const std::byte*, std::size_t, std::size_t, const Q8Block*, float*, std::size_t);
constexpr std::size_t kTokens = 8; // 8 sums, 16 accumulators, and a few registers for the rest
constexpr Tile kTiles[kTokens] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>};

} // namespace

void avx512_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                        std::size_t tokens, float* y, std::size_t y_stride) {
    const std::size_t blocks = columns / kQ8Block;
    for (std::size_t t = 0; t < tokens; t += kTokens) {
        const Tile run = kTiles[(tokens - t < kTokens ? tokens - t : kTokens) - 1];
        for (std::size_t r = 0; r < rows; r += kPanelRows) {
            run(w + r / kPanelRows * panel_bytes(columns), rows - r, blocks, x + t * blocks,
                y + t * y_stride + r, y_stride);
        }
    }
}

} // namespace flex::engine
