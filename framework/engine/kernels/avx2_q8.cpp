// Q8_0 with AVX2: maddubs multiplies, madd widens. Few tokens read the weights as they lie in the file; for
// many tokens eight rows at a time are put side by side first.
#include "engine/kernels/avx2.h"

namespace flex::engine {

namespace {

/// 32 products in four-byte groups. |w| <= 128 and |q| <= 127, so a pair is at most 32512 and maddubs does
/// not saturate; w has to be the unsigned side, since -(-128) does not exist in int8.
inline I8 products(I8 w, I8 w_magnitude, I8 q) {
    const I8 pairs = _mm256_maddubs_epi16(w_magnitude, _mm256_sign_epi8(q, w));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/// Integer sums of eight registers, one per lane.
inline I8 sum8(const I8 a[8]) {
    const I8 a01 = _mm256_hadd_epi32(a[0], a[1]), a23 = _mm256_hadd_epi32(a[2], a[3]);
    const I8 a45 = _mm256_hadd_epi32(a[4], a[5]), a67 = _mm256_hadd_epi32(a[6], a[7]);
    const I8 a0123 = _mm256_hadd_epi32(a01, a23), a4567 = _mm256_hadd_epi32(a45, a67);
    return _mm256_add_epi32(_mm256_permute2x128_si256(a0123, a4567, 0x20),
                            _mm256_permute2x128_si256(a0123, a4567, 0x31));
}

/// The f16 scales of block b of R rows, widened (R <= 8; missing rows give 0).
template <int R> inline F8 row_scales(const std::byte* const row[], std::size_t offset) {
    __m128i half = _mm_setzero_si128();
    half = _mm_insert_epi16(half, load_u16(row[0] + offset), 0);
    if constexpr (R > 1) half = _mm_insert_epi16(half, load_u16(row[1] + offset), 1);
    if constexpr (R > 2) half = _mm_insert_epi16(half, load_u16(row[2] + offset), 2);
    if constexpr (R > 3) half = _mm_insert_epi16(half, load_u16(row[3] + offset), 3);
    if constexpr (R > 4) half = _mm_insert_epi16(half, load_u16(row[4] + offset), 4);
    if constexpr (R > 5) half = _mm_insert_epi16(half, load_u16(row[5] + offset), 5);
    if constexpr (R > 6) half = _mm_insert_epi16(half, load_u16(row[6] + offset), 6);
    if constexpr (R > 7) half = _mm_insert_epi16(half, load_u16(row[7] + offset), 7);
    return _mm256_cvtph_ps(half);
}

/// Few tokens: R rows straight from the file's layout. Memory-bound, so the weights pass by once, in order.
template <int R>
void rows_by_token(const std::byte* w, std::size_t blocks, const std::int8_t* q, const float* scale,
                   float* y) {
    const std::byte* row[R];
    for (int r = 0; r < R; ++r) row[r] = w + r * blocks * kQ8BlockBytes;
    F8 acc[2] = {}; // [0] takes the coming block: even and odd ones in turn
    for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t offset = b * kQ8BlockBytes;
        const I8 x = _mm256_loadu_si256(as_vector(q + b * kQ8Block));
        I8 sums[8] = {};
        for (int r = 0; r < R; ++r) {
            const I8 weights = _mm256_loadu_si256(as_vector(row[r] + offset + 2));
            sums[r] = products(weights, _mm256_abs_epi8(weights), x);
            if constexpr (R == 8)
                _mm_prefetch(reinterpret_cast<const char*>(row[r] + offset + 1024), _MM_HINT_T0);
        }
        const F8 factor = _mm256_mul_ps(row_scales<R>(row, offset), _mm256_set1_ps(scale[b]));
        const F8 even = acc[1];
        acc[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum8(sums)), factor, acc[0]);
        acc[0] = even;
    }
    alignas(32) float out[8];
    _mm256_store_ps(out, _mm256_add_ps(acc[0], acc[1]));
    for (int r = 0; r < R; ++r) y[r] = out[r];
}

/// Transposes an 8 x 8 matrix of dwords: out[g] lane r = dword g of row r.
inline void transpose8(const I8 in[8], I8 out[8]) {
    I8 a[8], b[8];
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm256_unpacklo_epi32(in[2 * i], in[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
    }
    for (int h = 0; h < 2; ++h) {
        b[4 * h + 0] = _mm256_unpacklo_epi64(a[4 * h], a[4 * h + 2]);
        b[4 * h + 1] = _mm256_unpackhi_epi64(a[4 * h], a[4 * h + 2]);
        b[4 * h + 2] = _mm256_unpacklo_epi64(a[4 * h + 1], a[4 * h + 3]);
        b[4 * h + 3] = _mm256_unpackhi_epi64(a[4 * h + 1], a[4 * h + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        out[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        out[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/// Eight rows side by side: packed[block][group of 4 columns][row][4], scales[block][row]. Rows beyond `rows`
/// are zero.
void pack_panel(const std::byte* w, std::size_t rows, std::size_t blocks, std::byte* packed, float* scales) {
    for (std::size_t b = 0; b < blocks; ++b) {
        I8 in[8] = {}, out[8];
        float d[8] = {};
        for (std::size_t r = 0; r < rows; ++r) {
            const std::byte* block = w + (r * blocks + b) * kQ8BlockBytes;
            in[r] = _mm256_loadu_si256(as_vector(block + 2));
            d[r] = f16_to_f32(load_u16(block));
        }
        transpose8(in, out);
        for (int g = 0; g < 8; ++g)
            _mm256_store_si256(reinterpret_cast<I8*>(packed + b * 256 + g * 32), out[g]);
        for (int r = 0; r < 8; ++r) scales[b * 8 + r] = d[r];
    }
}

/// One block of eight packed rows times T tokens; lane = row, so no sum ever crosses lanes.
template <int T>
inline void panel_block(const std::byte* packed, const float* scales_of_rows, const std::int8_t* q,
                        std::size_t columns, const float* scale, std::size_t blocks, F8 acc[T]) {
    I8 sum[T];
    for (int t = 0; t < T; ++t) sum[t] = _mm256_setzero_si256();
    for (int g = 0; g < 8; ++g) {
        const I8 w = _mm256_load_si256(as_vector(packed + g * 32));
        const I8 w_magnitude = _mm256_abs_epi8(w);
        for (int t = 0; t < T; ++t) {
            int four;
            __builtin_memcpy(&four, q + t * columns + g * 4, 4);
            sum[t] = _mm256_add_epi32(sum[t], products(w, w_magnitude, _mm256_set1_epi32(four)));
        }
    }
    const F8 d = _mm256_load_ps(scales_of_rows);
    for (int t = 0; t < T; ++t) {
        const F8 factor = _mm256_mul_ps(d, _mm256_set1_ps(scale[t * blocks]));
        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), factor, acc[t]);
    }
}

template <int T>
void panel_tile(const std::byte* packed, const float* scales, std::size_t blocks, const std::int8_t* q,
                const float* scale, F8 acc[T]) {
    const std::size_t columns = blocks * kQ8Block;
    F8 even[T], odd[T];
    for (int t = 0; t < T; ++t) even[t] = odd[t] = _mm256_setzero_ps();
    std::size_t b = 0;
    for (; b + 2 <= blocks; b += 2) {
        panel_block<T>(packed + b * 256, scales + b * 8, q + b * kQ8Block, columns, scale + b, blocks, even);
        panel_block<T>(packed + b * 256 + 256, scales + b * 8 + 8, q + b * kQ8Block + kQ8Block, columns,
                       scale + b + 1, blocks, odd);
    }
    if (b < blocks)
        panel_block<T>(packed + b * 256, scales + b * 8, q + b * kQ8Block, columns, scale + b, blocks, even);
    for (int t = 0; t < T; ++t) acc[t] = _mm256_add_ps(even[t], odd[t]);
}

template <int T>
void panel_tokens(const std::byte* packed, const float* scales, std::size_t rows, std::size_t blocks,
                  const std::int8_t* q, const float* scale, float* y, std::size_t y_stride) {
    F8 acc[T];
    panel_tile<T>(packed, scales, blocks, q, scale, acc);
    for (int t = 0; t < T; ++t) {
        if (rows == 8) {
            _mm256_storeu_ps(y + t * y_stride, acc[t]);
        } else {
            _mm256_maskstore_ps(y + t * y_stride, tail_mask(rows), acc[t]);
        }
    }
}

} // namespace

void avx2_quantize(const float* x, std::size_t n, std::int8_t* q, float* scale) {
    const F8 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const F8 low = _mm256_set1_ps(-127.0F), high = _mm256_set1_ps(127.0F);
    for (std::size_t b = 0; b < n / kQ8Block; ++b, x += kQ8Block, q += kQ8Block) {
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
        scale[b] = f16_to_f32(f32_to_f16(d));
        const F8 inverse = _mm256_set1_ps(d > kTinyScale ? 127.0F / amax : 0.0F);
        I8 whole[4];
        for (int i = 0; i < 4; ++i) {
            const F8 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v[i], inverse), low), high);
            whole[i] = _mm256_cvtps_epi32(clamped); // MXCSR default: half to even
        }
        const I8 bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                            _mm256_packs_epi32(whole[2], whole[3]));
        const I8 order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // the packs worked within 128-bit halves
        _mm256_storeu_si256(reinterpret_cast<I8*>(q), _mm256_permutevar8x32_epi32(bytes, order));
    }
}

void avx2_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const std::int8_t* q,
                      const float* scale, std::size_t tokens, float* y, std::size_t y_stride,
                      std::byte* scratch) {
    const std::size_t blocks = columns / kQ8Block;
    const std::size_t row_bytes = blocks * kQ8BlockBytes;
    if (tokens < 4) {
        for (std::size_t t = 0; t < tokens; ++t, q += columns, scale += blocks, y += y_stride) {
            std::size_t r = 0;
            for (; r + 8 <= rows; r += 8) rows_by_token<8>(w + r * row_bytes, blocks, q, scale, y + r);
            for (; r < rows; ++r) rows_by_token<1>(w + r * row_bytes, blocks, q, scale, y + r);
        }
        return;
    }
    std::byte* packed = scratch;
    auto* scales = reinterpret_cast<float*>(scratch + blocks * 256);
    for (std::size_t r = 0; r < rows; r += 8) {
        const std::size_t some = rows - r < 8 ? rows - r : 8;
        pack_panel(w + r * row_bytes, some, blocks, packed, scales);
        std::size_t t = 0;
        for (; t + 4 <= tokens; t += 4) {
            panel_tokens<4>(packed, scales, some, blocks, q + t * columns, scale + t * blocks,
                            y + t * y_stride + r, y_stride);
        }
        for (; t < tokens; ++t) {
            panel_tokens<1>(packed, scales, some, blocks, q + t * columns, scale + t * blocks,
                            y + t * y_stride + r, y_stride);
        }
    }
}

} // namespace flex::engine
