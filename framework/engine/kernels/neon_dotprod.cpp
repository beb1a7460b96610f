// NEON with FEAT_DotProd (Armv8.2): as neon.cpp, but SDOT adds up the Q8_0 products.
#include "engine/kernels/neon_q8.h"
#include "engine/kernels/tables.h"

namespace flex::engine {

namespace {

struct DotBlock {
    static int32x4_t products(int8x16_t w_low, int8x16_t w_high, int8x16_t x_low, int8x16_t x_high) {
        return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w_low, x_low), w_high, x_high);
    }
};

} // namespace

const decltype(Kernels::matmul_q8_0) kNeonDotprodMatmulQ8 = neon_matmul_q8_0<DotBlock>;

} // namespace flex::engine
