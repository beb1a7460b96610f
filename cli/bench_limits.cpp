#include "cli/bench_limits.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace flex::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A peak loop: multiplies `rounds` times kMacs int8 pairs, all in registers, and returns something that
/// depends on all of them.
struct Peak {
    const char* kind;
    std::uint64_t macs_per_round;
    std::int32_t (*run)(std::uint64_t rounds);
};

constexpr int kChains = 12; // independent sums: more than latency times throughput of any core

#if defined(__x86_64__)

__attribute__((target("avx2"))) std::int32_t peak_maddubs(std::uint64_t rounds) {
    __m256i sum[kChains] = {};
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    const __m256i ones = _mm256_set1_epi16(1);
    for (std::uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) {
            asm volatile("" : "+x"(a), "+x"(b)); // for all the compiler knows, another product every time
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        }
    }
    __m256i all = sum[0];
    for (int c = 1; c < kChains; ++c) all = _mm256_add_epi32(all, sum[c]);
    return _mm256_extract_epi32(all, 0);
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) std::int32_t peak_vnni(std::uint64_t rounds) {
    __m512i sum[kChains] = {};
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    for (std::uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) {
            asm volatile("" : "+v"(a), "+v"(b));
            sum[c] = _mm512_dpbusd_epi32(sum[c], a, b);
        }
    }
    __m512i all = sum[0];
    for (int c = 1; c < kChains; ++c) all = _mm512_add_epi32(all, sum[c]);
    return _mm512_cvtsi512_si32(all);
}

Peak peak_for(std::string_view kernels) {
    if (kernels.starts_with("avx512")) return {"vpdpbusd, 512 bits", 64ull * kChains, peak_vnni};
    if (__builtin_cpu_supports("avx2")) return {"maddubs + madd + add", 32ull * kChains, peak_maddubs};
    return {nullptr, 0, nullptr};
}

#elif defined(__aarch64__)

std::int32_t peak_neon(std::uint64_t rounds) {
    int32x4_t sum[kChains];
    for (int32x4_t& s : sum) s = vdupq_n_s32(0);
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-5);
    for (std::uint64_t r = 0; r < rounds; ++r) {
        for (int c = 0; c < kChains; ++c) {
            asm volatile("" : "+w"(a), "+w"(b)); // for all the compiler knows, another product every time
            const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            sum[c] = vpadalq_s16(sum[c], vmlal_high_s8(low, a, b));
        }
    }
    int32x4_t all = sum[0];
    for (int c = 1; c < kChains; ++c) all = vaddq_s32(all, sum[c]);
    return vaddvq_s32(all);
}

__attribute__((target("arch=armv8.2-a+dotprod"))) std::int32_t peak_dot(std::uint64_t rounds) {
    int32x4_t sum[kChains];
    for (int32x4_t& s : sum) s = vdupq_n_s32(0);
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-5);
    for (std::uint64_t r = 0; r < rounds; ++r) {
        for (int c = 0; c < kChains; ++c) {
            asm volatile("" : "+w"(a), "+w"(b));
            sum[c] = vdotq_s32(sum[c], a, b);
        }
    }
    int32x4_t all = sum[0];
    for (int c = 1; c < kChains; ++c) all = vaddq_s32(all, sum[c]);
    return vaddvq_s32(all);
}

Peak peak_for(std::string_view kernels) {
    if (kernels == "neon-dotprod") return {"sdot", 16ull * kChains, peak_dot};
    return {"smull + smlal + sadalp", 16ull * kChains, peak_neon};
}

#else

Peak peak_for(std::string_view) { return {nullptr, 0, nullptr}; }

#endif

#if defined(__x86_64__)
__attribute__((target("avx2"))) std::uint64_t read_all(const std::byte* from, std::size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (std::size_t i = 0; i < bytes; i += 128) {
        const auto* at = reinterpret_cast<const __m256i*>(from + i);
        _mm_prefetch(reinterpret_cast<const char*>(from + i + 4096), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(from + i + 4160), _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_load_si256(at));
        b = _mm256_xor_si256(b, _mm256_load_si256(at + 1));
        c = _mm256_xor_si256(c, _mm256_load_si256(at + 2));
        d = _mm256_xor_si256(d, _mm256_load_si256(at + 3));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return static_cast<std::uint64_t>(_mm256_extract_epi64(a, 0));
}
#endif

std::uint64_t read_plain(const std::byte* from, std::size_t bytes) {
    const auto* at = reinterpret_cast<const std::uint64_t*>(from);
    std::uint64_t sum[8] = {};
    for (std::size_t i = 0; i < bytes / 8; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) sum[j] ^= at[i + j];
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

double measure_read(engine::ThreadPool& pool) {
    constexpr std::size_t kBytes = std::size_t{512} << 20; // 16 times the largest L3 slice we know
    constexpr std::size_t kPiece = std::size_t{1} << 20, kAlign = 64;
    const std::unique_ptr<std::byte[]> memory(new std::byte[kBytes + kAlign]);
    auto address = reinterpret_cast<std::uintptr_t>(memory.get());
    auto* start = memory.get() + (kAlign - address % kAlign) % kAlign;
    pool.run(kBytes / kPiece, [&](std::size_t i, unsigned) {
        std::fill_n(start + i * kPiece, kPiece, static_cast<std::byte>(i));
    });
    std::vector<std::uint64_t> results(kBytes / kPiece);
    double best = 0;
    for (int round = 0; round < 6; ++round) {
        const auto begin = Clock::now();
        pool.run(results.size(), [&](std::size_t i, unsigned) {
#if defined(__x86_64__)
            if (__builtin_cpu_supports("avx2")) {
                results[i] = read_all(start + i * kPiece, kPiece);
                return;
            }
#endif
            results[i] = read_plain(start + i * kPiece, kPiece);
        });
        best = std::max(best, static_cast<double>(kBytes) / seconds_since(begin) / 1e9);
    }
    // A compiler that knew nobody looks at the results would not read.
    volatile std::uint64_t sink = 0;
    for (const std::uint64_t r : results) sink = sink ^ r;
    return best;
}

double measure_int8(engine::ThreadPool& pool, const Peak& peak) {
    constexpr std::uint64_t kRounds = 200'000;
    std::vector<std::int32_t> results(pool.threads());
    double best = 0;
    for (int round = 0; round < 20; ++round) {
        const auto begin = Clock::now();
        pool.run(results.size(), [&](std::size_t i, unsigned) { results[i] = peak.run(kRounds); });
        const double macs = static_cast<double>(peak.macs_per_round * kRounds * results.size());
        best = std::max(best, macs / seconds_since(begin) / 1e9);
    }
    volatile std::int32_t sink = 0;
    for (const std::int32_t r : results) sink = sink + r;
    return best;
}

} // namespace

Limits measure_limits(engine::ThreadPool& pool, const char* kernels) {
    Limits limits;
    limits.read_gb_s = measure_read(pool);
    const Peak peak = peak_for(kernels);
    if (peak.run != nullptr) {
        limits.int8_gmac_s = measure_int8(pool, peak);
        limits.int8_kind = peak.kind;
    }
    return limits;
}

} // namespace flex::cli
