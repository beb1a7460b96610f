// The tables compiled into this build besides the scalar one. Use them through select_kernels().
#pragma once

#include "engine/kernels/kernels.h"

namespace flex::engine {

#if defined(__x86_64__)
extern const Kernels kAvx2Kernels; // needs AVX2, FMA, F16C
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;        // every Armv8-A
extern const Kernels kNeonDotprodKernels; // FEAT_DotProd
#endif

} // namespace flex::engine
