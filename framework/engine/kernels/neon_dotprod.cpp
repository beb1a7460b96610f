// NEON with FEAT_DotProd (Armv8.2): as neon.cpp, but SDOT sums the Q8_0 products. 16 products an instruction.
#include "engine/kernels/neon_q8.h"

namespace flex::engine {

namespace {

struct Dot {
    template <int T>
    static inline void sums(const std::byte* w, const Q8Block* x, std::size_t stride, int32x4_t sum[T][2]) {
        for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = vdupq_n_s32(0);
        for (int g = 0; g < 8; ++g) {
            const int8x16_t w0 = group_of(w, g, 0), w1 = group_of(w, g, 1);
            for (int t = 0; t < T; ++t) {
                const int8x16_t q = broadcast_four(x[t * stride].q + 4 * g);
                sum[t][0] = vdotq_s32(sum[t][0], w0, q);
                sum[t][1] = vdotq_s32(sum[t][1], w1, q);
            }
        }
    }
};

} // namespace

void neon_dotprod_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                              std::size_t tokens, float* y, std::size_t y_stride) {
    neon_matmul_q8_0<Dot>(w, rows, columns, x, tokens, y, y_stride);
}

} // namespace flex::engine
