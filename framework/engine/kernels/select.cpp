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
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vnni")) {
            out.push_back(&kAvx512Kernels);
        }
        out.push_back(&kAvx2Kernels);
    }
#elif defined(__aarch64__)
    constexpr unsigned long kHwcapAsimdDp = 1ul << 20; // Linux arm64 elf_hwcaps: FEAT_DotProd
    constexpr unsigned long kHwcap2I8mm = 1ul << 13;   // FEAT_I8MM
    if ((getauxval(AT_HWCAP) & kHwcapAsimdDp) != 0) {
        if ((getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0) out.push_back(&kNeonI8mmKernels);
        out.push_back(&kNeonDotprodKernels);
    }
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
