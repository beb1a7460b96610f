// AVX2 + FMA + F16C: everything but Q8_0 (avx2_q8.cpp). Four 256-bit registers hold the 32 lanes of the
// reference.
#include "engine/kernels/avx2.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/tables.h"

namespace flex::engine {

namespace {

// ---- lanes ----

/// 32 lanes of the reference, 8 in a register.
struct Lanes {
    F8 part[4] = {};

    void multiply_add(F8 a, F8 b, int j) { part[j] = _mm256_fmadd_ps(a, b, part[j]); }
    /// The reference's first two halvings.
    [[nodiscard]] F8 fold() const {
        return _mm256_add_ps(_mm256_add_ps(part[0], part[2]), _mm256_add_ps(part[1], part[3]));
    }
};

/// The rest of the reduction for eight folded sums at once: result lane i = the sum of a[i].
inline F8 reduce8(const F8 a[8]) {
    F8 quads[4]; // a[i] in the low half, a[i + 4] in the high half
    for (int i = 0; i < 4; ++i) {
        quads[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20),
                                 _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
    return _mm256_hadd_ps(_mm256_hadd_ps(quads[0], quads[1]), _mm256_hadd_ps(quads[2], quads[3]));
}

inline float reduce1(F8 a) {
    const __m128 quad = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 pairs = _mm_hadd_ps(quad, quad);
    return _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
}

/// The 8 lanes of softmax: neighbours first.
inline float sum_neighbours(F8 a) {
    const F8 pairs = _mm256_hadd_ps(a, a);
    const F8 quads = _mm256_hadd_ps(pairs, pairs);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
}

struct LoadF32 {
    using Weight = float;
    static F8 full(const float* p) { return _mm256_loadu_ps(p); }
    static F8 part(const float* p, std::size_t n) { return _mm256_maskload_ps(p, tail_mask(n)); } // n < 8
};

struct LoadF16 {
    using Weight = std::uint16_t;
    static F8 full(const std::uint16_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static F8 part(const std::uint16_t* p, std::size_t n) {
        std::uint16_t padded[8] = {};
        __builtin_memcpy(padded, p, n * sizeof *p);
        return full(padded);
    }
};

struct LoadBf16 {
    using Weight = std::uint16_t;
    static F8 full(const std::uint16_t* p) {
        const I8 wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    static F8 part(const std::uint16_t* p, std::size_t n) {
        std::uint16_t padded[8] = {};
        __builtin_memcpy(padded, p, n * sizeof *p);
        return full(padded);
    }
};

// ---- dot products ----

/// `count` elements at p, zeros after them.
template <class Load> F8 load_some(const typename Load::Weight* p, std::size_t count) {
    if (count >= 8) return Load::full(p);
    return count == 0 ? _mm256_setzero_ps() : Load::part(p, count);
}

/// Folded dot products of x with R rows of w, `stride` apart.
template <int R, class Load>
inline void dot_rows(const typename Load::Weight* w, std::size_t stride, const float* x, std::size_t n,
                     F8 folded[R]) {
    Lanes sum[R];
    std::size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int j = 0; j < 4; ++j) {
            const F8 xs = _mm256_loadu_ps(x + i + 8 * j);
            for (int r = 0; r < R; ++r) sum[r].multiply_add(Load::full(w + r * stride + i + 8 * j), xs, j);
        }
    }
    for (int j = 0; j < 4 && i < n; ++j) {
        const std::size_t at =
            i + 8 * static_cast<std::size_t>(j) < n ? i + 8 * static_cast<std::size_t>(j) : n;
        const F8 xs = load_some<LoadF32>(x + at, n - at);
        for (int r = 0; r < R; ++r) sum[r].multiply_add(load_some<Load>(w + r * stride + at, n - at), xs, j);
    }
    for (int r = 0; r < R; ++r) folded[r] = sum[r].fold();
}

/// out[r] = factor * dot(x, row r of w) for `rows` rows.
template <class Load, bool kScale = false>
void dot_all(const typename Load::Weight* w, std::size_t rows, std::size_t n, const float* x, float factor,
             float* out) {
    std::size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        F8 folded[8];
        for (int pair = 0; pair < 8; pair += 2) dot_rows<2, Load>(w + (r + pair) * n, n, x, n, folded + pair);
        F8 sums = reduce8(folded);
        if constexpr (kScale) sums = _mm256_mul_ps(sums, _mm256_set1_ps(factor));
        _mm256_storeu_ps(out + r, sums);
    }
    for (; r < rows; ++r) {
        F8 folded;
        dot_rows<1, Load>(w + r * n, n, x, n, &folded);
        out[r] = kScale ? reduce1(folded) * factor : reduce1(folded);
    }
}

template <class Load>
void matmul_rows(const typename Load::Weight* w, std::size_t rows, std::size_t n, const float* x,
                 std::size_t tokens, float* y, std::size_t y_stride) {
    for (std::size_t t = 0; t < tokens; ++t) dot_all<Load>(w, rows, n, x + t * n, 1.0F, y + t * y_stride);
}

void matmul_f32(const std::byte* w, std::size_t rows, std::size_t columns, const float* x, std::size_t tokens,
                float* y, std::size_t y_stride, std::byte*) {
    matmul_rows<LoadF32>(reinterpret_cast<const float*>(w), rows, columns, x, tokens, y, y_stride);
}

/// Many tokens: widen four rows once, then use them for all tokens.
template <class Load>
void matmul_half(const std::byte* w, std::size_t rows, std::size_t columns, const float* x,
                 std::size_t tokens, float* y, std::size_t y_stride, std::byte* scratch) {
    const auto* weights = reinterpret_cast<const std::uint16_t*>(w);
    if (tokens < 4) return matmul_rows<Load>(weights, rows, columns, x, tokens, y, y_stride);
    auto* wide = reinterpret_cast<float*>(scratch);
    for (std::size_t r = 0; r < rows; r += 4) {
        const std::size_t some = rows - r < 4 ? rows - r : 4;
        const std::size_t count = some * columns;
        const std::uint16_t* from = weights + r * columns;
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8) _mm256_storeu_ps(wide + i, Load::full(from + i));
        if (i < count) _mm256_maskstore_ps(wide + i, tail_mask(count - i), Load::part(from + i, count - i));
        matmul_rows<LoadF32>(wide, some, columns, x, tokens, y + r, y_stride);
    }
}

void matmul_f16(const std::byte* w, std::size_t rows, std::size_t columns, const float* x, std::size_t tokens,
                float* y, std::size_t y_stride, std::byte* scratch) {
    matmul_half<LoadF16>(w, rows, columns, x, tokens, y, y_stride, scratch);
}

void matmul_bf16(const std::byte* w, std::size_t rows, std::size_t columns, const float* x,
                 std::size_t tokens, float* y, std::size_t y_stride, std::byte* scratch) {
    matmul_half<LoadBf16>(w, rows, columns, x, tokens, y, y_stride, scratch);
}

void round_to_f16(const float* x, std::size_t n, float* y) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(half));
    }
    for (; i < n; ++i) y[i] = f16_to_f32(f32_to_f16(x[i]));
}

void round_to_bf16(const float* x, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = round_bf16(x[i]);
}

// ---- elementwise ----

inline F8 exp8(F8 x) { // exact_exp, lane by lane
    x = _mm256_max_ps(x, _mm256_set1_ps(kExpLow));
    x = _mm256_min_ps(x, _mm256_set1_ps(kExpHigh));
    const F8 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(kLog2E), _mm256_set1_ps(kRoundMagic));
    const F8 n = _mm256_sub_ps(shifted, _mm256_set1_ps(kRoundMagic));
    F8 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2High), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2Low), r);
    F8 p = _mm256_set1_ps(kExp0);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp5));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0F));
    const I8 bias = _mm256_set1_epi32(static_cast<int>(127u - kRoundMagicBits));
    const I8 exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(shifted), bias), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
}

void rms_norm(const float* x, const float* weight, std::size_t n, float epsilon, float* y) {
    F8 squares;
    dot_rows<1, LoadF32>(x, 0, x, n, &squares);
    const float factor = 1.0F / __builtin_sqrtf(reduce1(squares) / static_cast<float>(n) + epsilon);
    const F8 factors = _mm256_set1_ps(factor);
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const F8 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), factors);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(weight + i)));
    }
    for (; i < n; ++i) y[i] = x[i] * factor * weight[i];
}

void add(float* x, const float* y, std::size_t n) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; ++i) x[i] += y[i];
}

void silu_multiply(float* gate, const float* up, std::size_t n) {
    const F8 one = _mm256_set1_ps(1.0F), sign = _mm256_set1_ps(-0.0F);
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const F8 g = _mm256_loadu_ps(gate + i);
        const F8 silu = _mm256_div_ps(g, _mm256_add_ps(one, exp8(_mm256_xor_ps(g, sign))));
        _mm256_storeu_ps(gate + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
    }
    for (; i < n; ++i) gate[i] = gate[i] / (1.0F + exact_exp(-gate[i])) * up[i];
}

// ---- attention ----

void scores(const float* query, const float* keys, std::size_t count, std::size_t head_size, float factor,
            float* out) {
    dot_all<LoadF32, true>(keys, count, head_size, query, factor, out);
}

void softmax(float* x, std::size_t n) {
    float most = x[0];
    std::size_t i = 0;
    if (n >= 8) {
        F8 m = _mm256_set1_ps(x[0]);
        for (; i + 8 <= n; i += 8) m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
        alignas(32) float lane[8];
        _mm256_store_ps(lane, m);
        for (const float v : lane) most = v > most ? v : most;
    }
    for (; i < n; ++i) most = x[i] > most ? x[i] : most;
    const F8 maximum = _mm256_set1_ps(most);
    F8 sum = _mm256_setzero_ps();
    for (i = 0; i + 8 <= n; i += 8) {
        const F8 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), maximum));
        _mm256_storeu_ps(x + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    if (i < n) {
        for (std::size_t j = i; j < n; ++j) x[j] = exact_exp(x[j] - most);
        sum = _mm256_add_ps(sum, LoadF32::part(x + i, n - i));
    }
    const float inverse = 1.0F / sum_neighbours(sum);
    const F8 inverses = _mm256_set1_ps(inverse);
    for (i = 0; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), inverses));
    for (; i < n; ++i) x[i] *= inverse;
}

/// Everything but Q8_0 products is the same with and without VNNI and AVX-512: the memory is the limit there.
constexpr Kernels table(const char* name, decltype(Kernels::matmul_q8_0) matmul_q8_0) {
    return {
        .name = name,
        .quantize = avx2_quantize,
        .round_to_f16 = round_to_f16,
        .round_to_bf16 = round_to_bf16,
        .matmul_q8_0 = matmul_q8_0,
        .matmul_f16 = matmul_f16,
        .matmul_bf16 = matmul_bf16,
        .matmul_f32 = matmul_f32,
        .rms_norm = rms_norm,
        .add = add,
        .silu_multiply = silu_multiply,
        .scores = scores,
        .softmax = softmax,
        .narrow_f16 = avx2_narrow_f16,
        .widen_f16 = avx2_widen_f16,
        .widen_q8 = avx2_widen_q8,
        .widen_q8_columns = avx2_widen_q8_columns,
        .block_scores = avx2_block_scores,
        .add_weighted = avx2_add_weighted,
    };
}

} // namespace

constinit const Kernels kAvx2Kernels = table("avx2", avx2_matmul_q8_0);
constinit const Kernels kAvxVnniKernels = table("avx-vnni", avx_vnni_matmul_q8_0);
constinit const Kernels kAvx512Kernels = table("avx512-vnni", avx512_matmul_q8_0);

} // namespace flex::engine
