// NEON as every Armv8-A has it. Eight 128-bit registers hold the 32 lanes of the reference.
#include "engine/kernels/attention.h"
#include "engine/kernels/neon_q8.h"
#include "engine/kernels/tables.h"

namespace flex::engine {

namespace {

using F4 = float32x4_t;

// ---- dot products ----

struct LoadF32 {
    using Weight = float;
    static F4 four(const float* p) { return vld1q_f32(p); }
};

struct LoadF16 {
    using Weight = std::uint16_t;
    static F4 four(const std::uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
};

struct LoadBf16 {
    using Weight = std::uint16_t;
    static F4 four(const std::uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
};

/// `count` elements at p, zeros after them.
template <class Load> F4 load_some(const typename Load::Weight* p, std::size_t count) {
    if (count >= 4) return Load::four(p);
    typename Load::Weight padded[4] = {};
    for (std::size_t i = 0; i < count; ++i) padded[i] = p[i];
    return Load::four(padded);
}

/// The reference's halvings from 32 lanes to 4.
inline F4 fold(const F4 lane[8]) {
    return vaddq_f32(vaddq_f32(vaddq_f32(lane[0], lane[4]), vaddq_f32(lane[2], lane[6])),
                     vaddq_f32(vaddq_f32(lane[1], lane[5]), vaddq_f32(lane[3], lane[7])));
}

/// (l0 + l1) + (l2 + l3)
inline float reduce1(F4 quad) {
    const F4 pairs = vpaddq_f32(quad, quad);
    return vgetq_lane_f32(vpaddq_f32(pairs, pairs), 0);
}

/// Folded dot products of x with R rows of w, `stride` apart.
template <int R, class Load>
inline void dot_rows(const typename Load::Weight* w, std::size_t stride, const float* x, std::size_t n,
                     F4 folded[R]) {
    F4 lane[R][8];
    for (int r = 0; r < R; ++r) {
        for (F4& l : lane[r]) l = vdupq_n_f32(0);
    }
    std::size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int j = 0; j < 8; ++j) {
            const F4 xs = vld1q_f32(x + i + 4 * j);
            for (int r = 0; r < R; ++r)
                lane[r][j] = vfmaq_f32(lane[r][j], Load::four(w + r * stride + i + 4 * j), xs);
        }
    }
    for (std::size_t j = 0; j < 8 && i < n; ++j) {
        const std::size_t at = i + 4 * j < n ? i + 4 * j : n;
        const F4 xs = load_some<LoadF32>(x + at, n - at);
        for (int r = 0; r < R; ++r)
            lane[r][j] = vfmaq_f32(lane[r][j], load_some<Load>(w + r * stride + at, n - at), xs);
    }
    for (int r = 0; r < R; ++r) folded[r] = fold(lane[r]);
}

/// out[r] = factor * dot(x, row r of w) for `rows` rows.
template <class Load, bool kScale = false>
void dot_all(const typename Load::Weight* w, std::size_t rows, std::size_t n, const float* x, float factor,
             float* out) {
    std::size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        F4 folded[4];
        dot_rows<2, Load>(w + r * n, n, x, n, folded);
        dot_rows<2, Load>(w + (r + 2) * n, n, x, n, folded + 2);
        F4 sums = vpaddq_f32(vpaddq_f32(folded[0], folded[1]), vpaddq_f32(folded[2], folded[3]));
        if constexpr (kScale) sums = vmulq_n_f32(sums, factor);
        vst1q_f32(out + r, sums);
    }
    for (; r < rows; ++r) {
        F4 folded;
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
        for (; i + 4 <= count; i += 4) vst1q_f32(wide + i, Load::four(from + i));
        if (i < count) {
            float last[4];
            vst1q_f32(last, load_some<Load>(from + i, count - i));
            for (std::size_t j = 0; i + j < count; ++j) wide[i + j] = last[j];
        }
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
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vcvt_f32_f16(vcvt_f16_f32(vld1q_f32(x + i)))); // FPCR default: half to even
    for (; i < n; ++i) y[i] = f16_to_f32(f32_to_f16(x[i]));
}

void round_to_bf16(const float* x, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = round_bf16(x[i]);
}

// ---- Q8_0 ----

/// |w| <= 128 and |x| <= 127: two products fit in 16 bits (32512), so that of a second group can be added
/// before widening.
struct Multiply {
    template <int T>
    static inline void sums(const std::byte* w, const Q8Block* x, std::size_t stride, int32x4_t sum[T][2]) {
        int32x4_t part[T][2][2]; // [token][quad]: halves of rows 0 and 1, of rows 2 and 3
        for (int t = 0; t < T; ++t) {
            for (int quad = 0; quad < 2; ++quad) part[t][quad][0] = part[t][quad][1] = vdupq_n_s32(0);
        }
        for (int g = 0; g < 8; g += 2) {
            for (int quad = 0; quad < 2; ++quad) {
                const int8x16_t w0 = group_of(w, g, quad), w1 = group_of(w, g + 1, quad);
                for (int t = 0; t < T; ++t) {
                    const int8x16_t q0 = broadcast_four(x[t * stride].q + 4 * g);
                    const int8x16_t q1 = broadcast_four(x[t * stride].q + 4 * g + 4);
                    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(q0)),
                                                   vget_low_s8(w1), vget_low_s8(q1));
                    const int16x8_t high = vmlal_high_s8(vmull_high_s8(w0, q0), w1, q1);
                    part[t][quad][0] = vpadalq_s16(part[t][quad][0], low);
                    part[t][quad][1] = vpadalq_s16(part[t][quad][1], high);
                }
            }
        }
        for (int t = 0; t < T; ++t) {
            for (int quad = 0; quad < 2; ++quad)
                sum[t][quad] = vpaddq_s32(part[t][quad][0], part[t][quad][1]);
        }
    }
};

void quantize(const float* x, std::size_t n, Q8Block* out) {
    const F4 low = vdupq_n_f32(-127.0F), high = vdupq_n_f32(127.0F);
    for (std::size_t b = 0; b < n / kQ8Block; ++b, x += kQ8Block) {
        F4 v[8], most = vdupq_n_f32(0);
        for (int i = 0; i < 8; ++i) {
            v[i] = vld1q_f32(x + 4 * i);
            most = vmaxnmq_f32(most, vabsq_f32(v[i])); // the number wins over NaN
        }
        const float amax = vmaxnmvq_f32(most);
        const float d = amax / 127.0F;
        out[b].scale = f16_to_f32(f32_to_f16(d));
        const float inverse = d > kTinyScale ? 127.0F / amax : 0.0F;
        std::int32_t sum = 0;
        for (int i = 0; i < 8; i += 4) {
            int16x4_t whole[4];
            for (int j = 0; j < 4; ++j) {
                const F4 clamped = vminnmq_f32(vmaxnmq_f32(vmulq_n_f32(v[i + j], inverse), low), high);
                whole[j] = vmovn_s32(vcvtnq_s32_f32(clamped)); // half to even
            }
            const int8x8_t first = vmovn_s16(vcombine_s16(whole[0], whole[1]));
            const int8x8_t second = vmovn_s16(vcombine_s16(whole[2], whole[3]));
            vst1q_s8(out[b].q + 4 * i, vcombine_s8(first, second));
            sum += vaddlvq_s8(vcombine_s8(first, second));
        }
        out[b].offset = -128 * sum;
    }
}

// ---- elementwise ----

inline F4 exp4(F4 x) { // exact_exp, lane by lane
    x = vmaxnmq_f32(x, vdupq_n_f32(kExpLow));
    x = vminnmq_f32(x, vdupq_n_f32(kExpHigh));
    const F4 shifted = vfmaq_f32(vdupq_n_f32(kRoundMagic), x, vdupq_n_f32(kLog2E));
    const F4 n = vsubq_f32(shifted, vdupq_n_f32(kRoundMagic));
    F4 r = vfmaq_f32(x, n, vdupq_n_f32(-kLn2High));
    r = vfmaq_f32(r, n, vdupq_n_f32(-kLn2Low));
    F4 p = vdupq_n_f32(kExp0);
    p = vfmaq_f32(vdupq_n_f32(kExp1), p, r);
    p = vfmaq_f32(vdupq_n_f32(kExp2), p, r);
    p = vfmaq_f32(vdupq_n_f32(kExp3), p, r);
    p = vfmaq_f32(vdupq_n_f32(kExp4), p, r);
    p = vfmaq_f32(vdupq_n_f32(kExp5), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0F));
    const uint32x4_t biased = vaddq_u32(vreinterpretq_u32_f32(shifted), vdupq_n_u32(127u - kRoundMagicBits));
    return vmulq_f32(p, vreinterpretq_f32_u32(vshlq_n_u32(biased, 23)));
}

void rms_norm(const float* x, const float* weight, std::size_t n, float epsilon, float* y) {
    F4 squares;
    dot_rows<1, LoadF32>(x, 0, x, n, &squares);
    const float factor = 1.0F / __builtin_sqrtf(reduce1(squares) / static_cast<float>(n) + epsilon);
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), factor), vld1q_f32(weight + i)));
    for (; i < n; ++i) y[i] = x[i] * factor * weight[i];
}

void add(float* x, const float* y, std::size_t n) {
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(x + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(y + i)));
    for (; i < n; ++i) x[i] += y[i];
}

void silu_multiply(float* gate, const float* up, std::size_t n) {
    const F4 one = vdupq_n_f32(1.0F);
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const F4 g = vld1q_f32(gate + i);
        const F4 silu = vdivq_f32(g, vaddq_f32(one, exp4(vnegq_f32(g))));
        vst1q_f32(gate + i, vmulq_f32(silu, vld1q_f32(up + i)));
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
    for (std::size_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
    const F4 maximum = vdupq_n_f32(most);
    F4 low = vdupq_n_f32(0), high = vdupq_n_f32(0); // lanes 0..3 and 4..7
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const F4 a = exp4(vsubq_f32(vld1q_f32(x + i), maximum)),
                 b = exp4(vsubq_f32(vld1q_f32(x + i + 4), maximum));
        vst1q_f32(x + i, a);
        vst1q_f32(x + i + 4, b);
        low = vaddq_f32(low, a);
        high = vaddq_f32(high, b);
    }
    if (i < n) {
        float last[8] = {};
        for (std::size_t j = 0; i + j < n; ++j) last[j] = x[i + j] = exact_exp(x[i + j] - most);
        low = vaddq_f32(low, vld1q_f32(last));
        high = vaddq_f32(high, vld1q_f32(last + 4));
    }
    const float inverse = 1.0F / (reduce1(low) + reduce1(high));
    for (i = 0; i + 4 <= n; i += 4) vst1q_f32(x + i, vmulq_n_f32(vld1q_f32(x + i), inverse));
    for (; i < n; ++i) x[i] *= inverse;
}

constexpr Kernels kTable = {
    .name = "neon",
    .quantize = quantize,
    .round_to_f16 = round_to_f16,
    .round_to_bf16 = round_to_bf16,
    .matmul_q8_0 = neon_matmul_q8_0<Multiply>,
    .matmul_f16 = matmul_f16,
    .matmul_bf16 = matmul_bf16,
    .matmul_f32 = matmul_f32,
    .rms_norm = rms_norm,
    .add = add,
    .silu_multiply = silu_multiply,
    .scores = scores,
    .softmax = softmax,
    .narrow_f16 = neon_narrow_f16,
    .widen_f16 = neon_widen_f16,
    .widen_q8 = neon_widen_q8,
    .widen_q8_columns = neon_widen_q8_columns,
    .block_scores = neon_block_scores,
    .add_weighted = neon_add_weighted,
};

constexpr Kernels with(const char* name, decltype(Kernels::matmul_q8_0) matmul_q8_0) {
    Kernels table = kTable;
    table.name = name;
    table.matmul_q8_0 = matmul_q8_0;
    return table;
}

} // namespace

constinit const Kernels kNeonKernels = kTable;
constinit const Kernels kNeonDotprodKernels = with("neon-dotprod", neon_dotprod_matmul_q8_0);
constinit const Kernels kNeonI8mmKernels = with("neon-i8mm", neon_i8mm_matmul_q8_0);

} // namespace flex::engine
