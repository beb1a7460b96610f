// Q8_0 with AVX2: maddubs multiplies, madd widens.
#include "engine/kernels/avx2_q8_tile.h"

namespace flex::engine {

namespace {

/// |w| <= 128 and |q| <= 127, so a pair is at most 32512 and maddubs does not saturate; w has to be the
/// unsigned side, since -(-128) does not exist in int8.
struct Maddubs {
    struct Weights {
        I8 w, magnitude;
    };
    static I8 start(const Q8Block&) { return _mm256_setzero_si256(); }
    static Weights weights(I8 w) { return {w, _mm256_abs_epi8(w)}; }
    static I8 add(I8 sum, const Weights& w, I8 q) {
        const I8 pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(q, w.w));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
};

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
    matmul<Maddubs>(w, rows, columns, x, tokens, y, y_stride);
}

} // namespace flex::engine
