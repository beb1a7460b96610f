// Q8_0 with AVX-VNNI (256 bits; cores without AVX-512): vpdpbusd as in avx512_q8.cpp, weights shifted to
// 0..255 by flipping their sign bits.
#include "engine/kernels/avx2_q8_tile.h"
#include "engine/kernels/tables.h"

namespace flex::engine {

namespace {

struct Vnni {
    static I8 start(const Q8Block& x) { return _mm256_set1_epi32(x.offset); }
    static I8 weights(I8 w) { return _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80))); }
    static I8 add(I8 sum, I8 w, I8 q) { return _mm256_dpbusd_avx_epi32(sum, w, q); }
};

} // namespace

void avx_vnni_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                          std::size_t tokens, float* y, std::size_t y_stride) {
    matmul<Vnni>(w, rows, columns, x, tokens, y, y_stride);
}

} // namespace flex::engine
