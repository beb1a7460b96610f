// Q8_0 with AVX2: maddubs multiplies, madd widens. A panel is taken as two halves of eight rows.
#include "engine/kernels/avx2.h"

namespace flex::engine {

namespace {

/// 32 products in four-byte groups. |w| <= 128 and |q| <= 127, so a pair is at most 32512 and maddubs does
/// not saturate; w has to be the unsigned side, since -(-128) does not exist in int8.
inline I8 products(I8 w, I8 w_magnitude, I8 q) {
    const I8 pairs = _mm256_maddubs_epi16(w_magnitude, _mm256_sign_epi8(q, w));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/// One block of half a panel times T tokens; lane = row.
template <int T>
inline __attribute__((always_inline)) void block(const std::byte* scales, const std::byte* weights,
                                                 const Q8Block* x, std::size_t stride, F8 acc[T]) {
    I8 sum[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) sum[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        const I8 w = _mm256_load_si256(as_vector(weights + 64 * g));
        const I8 w_magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
            int four;
            __builtin_memcpy(&four, x[t * stride].q + 4 * g, 4);
            sum[t] = _mm256_add_epi32(sum[t], products(w, w_magnitude, _mm256_set1_epi32(four)));
        }
    }
    const F8 d = _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(scales)));
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
        const F8 factor = _mm256_mul_ps(d, _mm256_set1_ps(x[t * stride].scale));
        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), factor, acc[t]);
    }
}

inline void store(float* y, std::size_t rows, F8 value) {
    if (rows >= 8) {
        _mm256_storeu_ps(y, value);
    } else if (rows > 0) {
        _mm256_maskstore_ps(y, tail_mask(rows), value);
    }
}

/// Half a panel (8 rows, of which `rows` are there) times T tokens.
template <int T>
void half_tile(const std::byte* panel, std::size_t half, std::size_t rows, std::size_t blocks,
               const Q8Block* x, float* y, std::size_t y_stride) {
    F8 even[T], odd[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) even[t] = odd[t] = _mm256_setzero_ps();
    std::size_t b = 0;
    for (; b + 2 <= blocks; b += 2, panel += kPanelPairBytes) {
        block<T>(panel + 16 * half, panel + panel_weights(0) + 32 * half, x + b, blocks, even);
        block<T>(panel + panel_scales(1) + 16 * half, panel + panel_weights(1) + 32 * half, x + b + 1, blocks,
                 odd);
    }
    if (b < blocks) block<T>(panel + 16 * half, panel + panel_weights(0) + 32 * half, x + b, blocks, even);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) store(y + t * y_stride, rows, _mm256_add_ps(even[t], odd[t]));
}

/// One token: both halves at once, so that the weights pass by once and in order. The memory is the limit; it
/// helps to ask for the weights earlier than the hardware dares to: it stops at every 4 KiB.
void one_token(const std::byte* panel, std::size_t rows, std::size_t blocks, const Q8Block* x, float* y) {
    F8 even[2] = {}, odd[2] = {};
    std::size_t b = 0;
    for (; b + 2 <= blocks; b += 2, panel += kPanelPairBytes) {
        for (std::size_t line = 0; line < kPanelPairBytes; line += 64)
            _mm_prefetch(reinterpret_cast<const char*>(panel + kPairsAhead * kPanelPairBytes + line),
                         _MM_HINT_T0);
        for (std::size_t half = 0; half < 2; ++half) {
            block<1>(panel + 16 * half, panel + panel_weights(0) + 32 * half, x + b, blocks, even + half);
            block<1>(panel + panel_scales(1) + 16 * half, panel + panel_weights(1) + 32 * half, x + b + 1,
                     blocks, odd + half);
        }
    }
    if (b < blocks) {
        for (std::size_t half = 0; half < 2; ++half)
            block<1>(panel + 16 * half, panel + panel_weights(0) + 32 * half, x + b, blocks, even + half);
    }
    store(y, rows, _mm256_add_ps(even[0], odd[0]));
    if (rows > 8) store(y + 8, rows - 8, _mm256_add_ps(even[1], odd[1]));
}

template <int T>
void tile(const std::byte* panel, std::size_t rows, std::size_t blocks, const Q8Block* x, float* y,
          std::size_t y_stride) {
    half_tile<T>(panel, 0, rows, blocks, x, y, y_stride);
    if (rows > 8) half_tile<T>(panel, 1, rows - 8, blocks, x, y + 8, y_stride);
}

} // namespace

void avx2_quantize(const float* x, std::size_t n, Q8Block* out) {
    const F8 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const F8 low = _mm256_set1_ps(-127.0F), high = _mm256_set1_ps(127.0F);
    for (std::size_t b = 0; b < n / kQ8Block; ++b, x += kQ8Block) {
        F8 v[4], most = _mm256_setzero_ps();
        for (int i = 0; i < 4; ++i) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            most = _mm256_max_ps(_mm256_and_ps(v[i], magnitude),
                                 most); // NaN in the first operand: the second wins
        }
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        const float amax = _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
        const float d = amax / 127.0F;
        out[b].scale = f16_to_f32(f32_to_f16(d));
        const F8 inverse = _mm256_set1_ps(d > kTinyScale ? 127.0F / amax : 0.0F);
        I8 whole[4];
        for (int i = 0; i < 4; ++i) {
            const F8 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v[i], inverse), low), high);
            whole[i] = _mm256_cvtps_epi32(clamped); // MXCSR default: half to even
        }
        const I8 bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                            _mm256_packs_epi32(whole[2], whole[3]));
        const I8 order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // the packs worked within 128-bit halves
        const I8 ordered = _mm256_permutevar8x32_epi32(bytes, order);
        _mm256_storeu_si256(reinterpret_cast<I8*>(out[b].q), ordered);
        // maddubs by ones sums pairs (at most 254), madd by -128 the rest of each four.
        const I8 fours =
            _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), ordered), _mm256_set1_epi16(-128));
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
        sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
        out[b].offset = _mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1);
    }
}

void avx2_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                      std::size_t tokens, float* y, std::size_t y_stride) {
    const std::size_t blocks = columns / kQ8Block, bytes = panel_bytes(columns);
    for (std::size_t t = 0; t < tokens;) {
        const std::size_t some = tokens - t < 4 ? tokens - t : 4;
        const Q8Block* const from = x + t * blocks;
        float* const to = y + t * y_stride;
        for (std::size_t r = 0; r < rows; r += kPanelRows) {
            const std::byte* const panel = w + r / kPanelRows * bytes;
            switch (some) {
            case 1:
                one_token(panel, rows - r, blocks, from, to + r);
                break;
            case 2:
                tile<2>(panel, rows - r, blocks, from, to + r, y_stride);
                break;
            case 3:
                tile<3>(panel, rows - r, blocks, from, to + r, y_stride);
                break;
            default:
                tile<4>(panel, rows - r, blocks, from, to + r, y_stride);
            }
        }
        t += some;
    }
}

} // namespace flex::engine
