#include "engine/kernels/kernels.h"
#include "engine/kernels/tables.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace flex::engine {

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> out;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        out.push_back(&kAvx2Kernels);
    }
#elif defined(__aarch64__)
    constexpr unsigned long kHwcapAsimdDp = 1ul << 20; // Linux arm64 elf_hwcaps: FEAT_DotProd
    if ((getauxval(AT_HWCAP) & kHwcapAsimdDp) != 0) out.push_back(&kNeonDotprodKernels);
    out.push_back(&kNeonKernels);
#endif
    out.push_back(&scalar_kernels());
    return out;
}

const Kernels* select_kernels(std::string_view name) {
    for (const Kernels* kernels : available_kernels()) {
        if (name.empty() || name == kernels->name) return kernels;
    }
    return nullptr;
}

} // namespace flex::engine
