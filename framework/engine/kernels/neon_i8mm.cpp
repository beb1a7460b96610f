// NEON with FEAT_I8MM (Armv8.6): SMMLA multiplies two rows of eight weights by two tokens of eight
// activations, 32 products an instruction. A single token is left to SDOT.
#include "engine/kernels/neon_q8.h"

namespace flex::engine {

namespace {

inline int32x4_t as_words(int8x16_t v) { return vreinterpretq_s32_s8(v); }

/// Two neighbouring groups of four rows: columns 0..7 of rows 0 and 1, and of rows 2 and 3.
struct RowPairs {
    int8x16_t low, high;
    RowPairs(int8x16_t first, int8x16_t second)
        : low(vreinterpretq_s8_s32(vzip1q_s32(as_words(first), as_words(second)))),
          high(vreinterpretq_s8_s32(vzip2q_s32(as_words(first), as_words(second)))) {}
};

struct Matrix {
    template <int T>
    static inline void sums(const std::byte* w, const Q8Block* x, std::size_t stride, int32x4_t sum[T][2]) {
        if constexpr (T == 1) {
            sum[0][0] = sum[0][1] = vdupq_n_s32(0);
            for (int g = 0; g < 8; ++g) {
                const int8x16_t q = broadcast_four(x->q + 4 * g);
                sum[0][0] = vdotq_s32(sum[0][0], group_of(w, g, 0), q);
                sum[0][1] = vdotq_s32(sum[0][1], group_of(w, g, 1), q);
            }
        } else {
            int32x4_t square[T / 2][4]; // [pair of tokens][pair of rows]: row, token = 00, 01, 10, 11
            for (int p = 0; p < T / 2; ++p) {
                for (int r = 0; r < 4; ++r) square[p][r] = vdupq_n_s32(0);
            }
            for (int g = 0; g < 8; g += 2) {
                const RowPairs quad0(group_of(w, g, 0), group_of(w, g + 1, 0));
                const RowPairs quad1(group_of(w, g, 1), group_of(w, g + 1, 1));
                for (int p = 0; p < T / 2; ++p) {
                    const std::int8_t* first = x[2 * p * stride].q + 4 * g;
                    const std::int8_t* second = x[(2 * p + 1) * stride].q + 4 * g;
                    const int8x16_t q = vcombine_s8(vld1_s8(first), vld1_s8(second));
                    square[p][0] = vmmlaq_s32(square[p][0], quad0.low, q);
                    square[p][1] = vmmlaq_s32(square[p][1], quad0.high, q);
                    square[p][2] = vmmlaq_s32(square[p][2], quad1.low, q);
                    square[p][3] = vmmlaq_s32(square[p][3], quad1.high, q);
                }
            }
            for (int p = 0; p < T / 2; ++p) {
                for (int quad = 0; quad < 2; ++quad) {
                    const int32x4_t a = square[p][2 * quad], b = square[p][2 * quad + 1];
                    sum[2 * p][quad] = vuzp1q_s32(a, b);
                    sum[2 * p + 1][quad] = vuzp2q_s32(a, b);
                }
            }
        }
    }
};

} // namespace

void neon_i8mm_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                           std::size_t tokens, float* y, std::size_t y_stride) {
    neon_matmul_q8_0<Matrix>(w, rows, columns, x, tokens, y, y_stride);
}

} // namespace flex::engine
