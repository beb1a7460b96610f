// NEON with FEAT_DotProd (Armv8.2): as neon.cpp, but SDOT adds up the Q8_0 products.
#include "engine/kernels/neon_q8.h"

namespace flex::engine {

namespace {

struct DotBlock {
    static int32x4_t products(int8x16_t w_low, int8x16_t w_high, int8x16_t x_low, int8x16_t x_high) {
        return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w_low, x_low), w_high, x_high);
    }
};

} // namespace

void neon_dotprod_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const std::int8_t* q,
                              const float* scale, std::size_t tokens, float* y, std::size_t y_stride,
                              std::byte* scratch) {
    neon_matmul_q8_0<DotBlock>(w, rows, columns, q, scale, tokens, y, y_stride, scratch);
}

} // namespace flex::engine
