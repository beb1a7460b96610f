#include "cli/bench_limits.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
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

__attribute__((target("avx2,avxvnni"))) std::int32_t peak_avx_vnni(std::uint64_t rounds) {
    __m256i sum[kChains] = {};
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    for (std::uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) {
            asm volatile("" : "+x"(a), "+x"(b));
            sum[c] = _mm256_dpbusd_avx_epi32(sum[c], a, b);
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
    if (kernels == "avx-vnni") return {"vpdpbusd, 256 bits", 32ull * kChains, peak_avx_vnni};
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

/// How one thread reads: as one run, or as two or four at once; asked for ahead, or left to the hardware.
/// Which is fastest differs from core to core, and a limit that somebody exceeds is none.
using Read = std::uint64_t (*)(const std::byte* from, std::size_t bytes);

std::uint64_t read_plain(const std::byte* from, std::size_t bytes) {
    const auto* at = reinterpret_cast<const std::uint64_t*>(from);
    std::uint64_t sum[8] = {};
    for (std::size_t i = 0; i < bytes / 8; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) sum[j] ^= at[i + j];
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

#if defined(__x86_64__)
template <int kRuns, bool kAsk>
__attribute__((target("avx2"))) std::uint64_t read_avx2(const std::byte* from, std::size_t bytes) {
    constexpr std::size_t kStep = 64, kAhead = 3072;
    __m256i a = _mm256_setzero_si256(), b = a;
    const std::size_t run = bytes / kRuns / kStep * kStep;
    for (std::size_t i = 0; i < run; i += kStep) {
        for (int r = 0; r < kRuns; ++r) {
            const std::byte* line = from + static_cast<std::size_t>(r) * run + i;
            if constexpr (kAsk) _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T1);
            a = _mm256_xor_si256(a, _mm256_load_si256(reinterpret_cast<const __m256i*>(line)));
            b = _mm256_xor_si256(b, _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + 1));
        }
    }
    return static_cast<std::uint64_t>(_mm256_extract_epi64(_mm256_xor_si256(a, b), 0)) ^
           read_plain(from + kRuns * run, bytes - kRuns * run);
}
#endif

std::vector<Read> ways_to_read() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return {read_avx2<1, true>,  read_avx2<1, false>, read_avx2<2, true>,
                read_avx2<2, false>, read_avx2<4, true>,  read_avx2<4, false>};
    }
#endif
    return {read_plain};
}

} // namespace

double measure_read(engine::ThreadPool& pool, std::span<const std::span<const std::byte>> memory) {
    constexpr std::size_t kPiece = std::size_t{2} << 20; // longer ones are no faster
    std::vector<std::span<const std::byte>> pieces;
    std::size_t bytes = 0;
    for (std::span<const std::byte> part : memory) {
        bytes += part.size();
        for (; part.size() > kPiece; part = part.subspan(kPiece)) pieces.push_back(part.first(kPiece));
        pieces.push_back(part);
    }
    std::vector<std::uint64_t> results(pieces.size());
    double best = 0;
    for (int round = 0; round < 2; ++round) {
        for (const Read read : ways_to_read()) {
            const auto begin = Clock::now();
            pool.run(pieces.size(),
                     [&](std::size_t i, unsigned) { results[i] = read(pieces[i].data(), pieces[i].size()); });
            best = std::max(best, static_cast<double>(bytes) / seconds_since(begin) / 1e9);
        }
    }
    // A compiler that knew nobody looks at the results would not read.
    volatile std::uint64_t sink = 0;
    for (const std::uint64_t r : results) sink = sink ^ r;
    return best;
}

Int8Limit measure_int8(engine::ThreadPool& pool, const char* kernels) {
    const Peak peak = peak_for(kernels);
    if (peak.run == nullptr) return {};
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
    return {best, peak.kind};
}

} // namespace flex::cli
