// Scalar building blocks shared by the reference kernels and the tails of the SIMD ones. Everything is
// `static inline` in an unnamed namespace on purpose: files compiled for a richer CPU must not lend their
// copies to the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace flex::engine {
namespace {

[[maybe_unused]] inline std::uint32_t bits_of(float x) {
    std::uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}

[[maybe_unused]] inline float float_of(std::uint32_t u) {
    float x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}

/// IEEE binary16 to binary32, exact.
[[maybe_unused]] inline float f16_to_f32(std::uint16_t h) {
    const std::uint32_t sign = (h & 0x8000u) << 16;
    const std::uint32_t exponent = (h >> 10) & 0x1f;
    const std::uint32_t fraction = h & 0x3ffu;
    if (exponent == 0x1f) return float_of(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F; // zero or subnormal
    return float_of(sign | bits_of(magnitude));
}

/// binary32 to binary16, round half to even; overflow to infinity.
[[maybe_unused]] inline std::uint16_t f32_to_f16(float x) {
    const std::uint32_t u = bits_of(x);
    const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    const std::uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u); // >= 65520
    if (magnitude < 0x38800000u) { // below the smallest normal: let the adder round to a multiple of 2^-24
        const float shifted = float_of(magnitude) + 0.5F;
        return static_cast<std::uint16_t>(sign | (bits_of(shifted) - bits_of(0.5F)));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

[[maybe_unused]] inline float bf16_to_f32(std::uint16_t h) {
    return float_of(static_cast<std::uint32_t>(h) << 16);
}

/// To bfloat16 precision, round half to even.
[[maybe_unused]] inline float round_bf16(float x) {
    const std::uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return float_of((u | 0x400000u) & 0xffff0000u);
    return float_of((u + 0x7fffu + ((u >> 16) & 1)) & 0xffff0000u);
}

[[maybe_unused]] inline std::uint16_t load_u16(const std::byte* at) {
    std::uint16_t h;
    std::memcpy(&h, at, sizeof h);
    return h;
}

constexpr std::size_t kBlockTokens = 32;  // of the KV cache: kKvBlockTokens
constexpr std::size_t kQ8Block = 32;      // elements
constexpr std::size_t kQ8BlockBytes = 34; // f16 scale, 32 int8
constexpr float kTinyScale = 0x1p-25F;    // at or below it f16(x) is 0

// exp(x) = 2^n * p(r): n = round(x / ln 2), r = x - n ln 2 in two steps; |r| <= 0.35, so a degree-7
// polynomial (Cephes' expf coefficients) is good to about 1e-7. The argument is clamped so that 2^n is a
// normal number; NaN counts as kExpLow.
constexpr float kExpLow = -87.3F;
constexpr float kExpHigh = 88.0F;
constexpr float kLog2E = 1.44269504F;
constexpr float kRoundMagic = 12582912.0F; // 1.5 * 2^23: adding it leaves round-half-even(x) in the low bits
constexpr std::uint32_t kRoundMagicBits = 0x4b400000u;
constexpr float kLn2High = 0.693359375F;
constexpr float kLn2Low = -2.12194440e-4F;
constexpr float kExp0 = 1.9875691500e-4F, kExp1 = 1.3981999507e-3F, kExp2 = 8.3334519073e-3F;
constexpr float kExp3 = 4.1665795894e-2F, kExp4 = 1.6666665459e-1F, kExp5 = 5.0000001201e-1F;

[[maybe_unused]] inline float exact_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

[[maybe_unused]] inline float exact_exp(float x) {
    x = x > kExpLow ? x : kExpLow;
    x = x < kExpHigh ? x : kExpHigh;
    const float shifted = exact_fma(x, kLog2E, kRoundMagic);
    const float n = shifted - kRoundMagic;
    float r = exact_fma(n, -kLn2High, x);
    r = exact_fma(n, -kLn2Low, r);
    float p = kExp0;
    p = exact_fma(p, r, kExp1);
    p = exact_fma(p, r, kExp2);
    p = exact_fma(p, r, kExp3);
    p = exact_fma(p, r, kExp4);
    p = exact_fma(p, r, kExp5);
    p = exact_fma(p, r * r, r) + 1.0F;
    const std::uint32_t exponent = bits_of(shifted) - kRoundMagicBits + 127u;
    return p * float_of(exponent << 23);
}

} // namespace
} // namespace flex::engine
