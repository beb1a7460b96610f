#include "engine/kernels/kernels.h"
#include "engine/kernels/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace flex::engine {

#if defined(__x86_64__)
namespace {

/// Intel SDM, CPUID leaf 7, subleaf 1: EAX bit 4. Not every compiler's __builtin_cpu_supports knows it.
bool has_avx_vnni() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 4) != 0;
}

} // namespace
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> out;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vnni")) {
            out.push_back(&kAvx512Kernels);
        }
        if (has_avx_vnni()) out.push_back(&kAvxVnniKernels);
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
