// The tables compiled into this build besides the scalar one. Use them through select_kernels().
#pragma once

#include "engine/kernels/kernels.h"

namespace flex::engine {

#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;    // needs AVX2, FMA, F16C
extern const Kernels kAvxVnniKernels; // and AVX-VNNI
extern const Kernels kAvx512Kernels;  // or AVX-512 F, BW, VNNI

// For the latter two.
void avx_vnni_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                          std::size_t tokens, float* y, std::size_t y_stride);
void avx512_matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                        std::size_t tokens, float* y, std::size_t y_stride);
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;        // every Armv8-A
extern const Kernels kNeonDotprodKernels; // FEAT_DotProd
extern const Kernels kNeonI8mmKernels;    // FEAT_DotProd and FEAT_I8MM
#endif

} // namespace flex::engine
