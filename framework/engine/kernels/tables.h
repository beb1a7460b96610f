// The tables compiled into this build besides the scalar one. Each may be called only where select.cpp says
// so.
#pragma once

#include "engine/kernels/kernels.h"

namespace flex::engine {

#if defined(__x86_64__)
extern const Kernels kAvx2Kernels; // needs AVX2, FMA, F16C
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;        // every Armv8-A
// FEAT_DotProd: the neon table with this function in it.
extern const decltype(Kernels::matmul_q8_0) kNeonDotprodMatmulQ8;
#endif

} // namespace flex::engine
