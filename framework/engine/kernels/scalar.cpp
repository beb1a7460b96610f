// The reference: what every other table must reproduce bit for bit. Written to be read, not to be fast.
#include <cmath>

#include "engine/kernels/exact.h"
#include "engine/kernels/kernels.h"

namespace flex::engine {

namespace {

constexpr std::size_t kLanes = 32;

float reduce(float lane[kLanes]) {
    for (std::size_t half = kLanes / 2; half >= 4; half /= 2) {
        for (std::size_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    }
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

template <class LoadA> float dot(const LoadA& a, const float* b, std::size_t n) {
    float lane[kLanes] = {};
    for (std::size_t i = 0; i < n; ++i) lane[i % kLanes] = exact_fma(a(i), b[i], lane[i % kLanes]);
    for (std::size_t i = n; i % kLanes != 0; ++i) lane[i % kLanes] = exact_fma(0.0F, 0.0F, lane[i % kLanes]);
    return reduce(lane);
}

void quantize(const float* x, std::size_t n, Q8Block* out) {
    for (std::size_t b = 0; b < n / kQ8Block; ++b, x += kQ8Block) {
        float amax = 0;
        for (std::size_t i = 0; i < kQ8Block; ++i) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
        const float d = amax / 127.0F;
        out[b].scale = f16_to_f32(f32_to_f16(d));
        out[b].offset = 0;
        const float inverse = d > kTinyScale ? 127.0F / amax : 0.0F;
        for (std::size_t i = 0; i < kQ8Block; ++i) {
            float v = x[i] * inverse;
            v = v > -127.0F ? v : -127.0F; // also NaN
            v = v < 127.0F ? v : 127.0F;
            const auto whole = static_cast<std::int32_t>(bits_of(v + kRoundMagic) - kRoundMagicBits);
            out[b].q[i] = static_cast<std::int8_t>(whole);
            out[b].offset -= 128 * whole;
        }
    }
}

void round_to_f16(const float* x, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = f16_to_f32(f32_to_f16(x[i]));
}

void round_to_bf16(const float* x, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = round_bf16(x[i]);
}

/// Row r of a panel times one token.
float dot_q8_0(const std::byte* panel, std::size_t r, std::size_t blocks, const Q8Block* x) {
    float acc[2] = {};
    for (std::size_t b = 0; b < blocks; ++b) {
        const std::byte* weights = panel + panel_weights(b);
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < kQ8Block; ++i)
            sum += static_cast<std::int8_t>(weights[(i / 4 * kPanelRows + r) * 4 + i % 4]) * x[b].q[i];
        const float factor = f16_to_f32(load_u16(panel + panel_scales(b) + 2 * r)) * x[b].scale;
        acc[b % 2] = exact_fma(static_cast<float>(sum), factor, acc[b % 2]);
    }
    return acc[0] + acc[1];
}

void matmul_q8_0(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                 std::size_t tokens, float* y, std::size_t y_stride) {
    const std::size_t blocks = columns / kQ8Block;
    for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < rows; ++r) {
            y[t * y_stride + r] =
                dot_q8_0(w + r / kPanelRows * panel_bytes(columns), r % kPanelRows, blocks, x + t * blocks);
        }
    }
}

/// `load(row, i)` gives a weight as f32.
template <class Load>
void matmul(std::size_t rows, std::size_t columns, const float* x, std::size_t tokens, float* y,
            std::size_t y_stride, const Load& load) {
    for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < rows; ++r) {
            y[t * y_stride + r] = dot([&](std::size_t i) { return load(r, i); }, x + t * columns, columns);
        }
    }
}

void matmul_f16(const std::byte* w, std::size_t rows, std::size_t columns, const float* x, std::size_t tokens,
                float* y, std::size_t y_stride, std::byte*) {
    matmul(rows, columns, x, tokens, y, y_stride,
           [&](std::size_t r, std::size_t i) { return f16_to_f32(load_u16(w + 2 * (r * columns + i))); });
}

void matmul_bf16(const std::byte* w, std::size_t rows, std::size_t columns, const float* x,
                 std::size_t tokens, float* y, std::size_t y_stride, std::byte*) {
    matmul(rows, columns, x, tokens, y, y_stride,
           [&](std::size_t r, std::size_t i) { return bf16_to_f32(load_u16(w + 2 * (r * columns + i))); });
}

void matmul_f32(const std::byte* w, std::size_t rows, std::size_t columns, const float* x, std::size_t tokens,
                float* y, std::size_t y_stride, std::byte*) {
    const auto* weights = reinterpret_cast<const float*>(w);
    matmul(rows, columns, x, tokens, y, y_stride,
           [&](std::size_t r, std::size_t i) { return weights[r * columns + i]; });
}

void rms_norm(const float* x, const float* weight, std::size_t n, float epsilon, float* y) {
    const float squares = dot([&](std::size_t i) { return x[i]; }, x, n);
    const float factor = 1.0F / std::sqrt(squares / static_cast<float>(n) + epsilon);
    for (std::size_t i = 0; i < n; ++i) y[i] = x[i] * factor * weight[i];
}

void add(float* x, const float* y, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) x[i] += y[i];
}

void silu_multiply(float* gate, const float* up, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) gate[i] = gate[i] / (1.0F + exact_exp(-gate[i])) * up[i];
}

void scores(const float* query, const float* keys, std::size_t count, std::size_t head_size, float factor,
            float* out) {
    for (std::size_t i = 0; i < count; ++i) {
        const float* key = keys + i * head_size;
        out[i] = dot([&](std::size_t d) { return query[d]; }, key, head_size) * factor;
    }
}

void softmax(float* x, std::size_t n) {
    float most = x[0];
    for (std::size_t i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
    float lane[8] = {};
    for (std::size_t i = 0; i < n; ++i) {
        x[i] = exact_exp(x[i] - most);
        lane[i % 8] += x[i];
    }
    const float sum =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    const float inverse = 1.0F / sum;
    for (std::size_t i = 0; i < n; ++i) x[i] *= inverse;
}

void narrow_f16(const float* x, std::size_t n, std::uint16_t* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = f32_to_f16(x[i]);
}

void widen_f16(const std::uint16_t* x, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = f16_to_f32(x[i]);
}

void widen_q8(const std::int8_t* q, const std::uint16_t* scale, std::size_t n, float* y) {
    for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<float>(q[i]) * f16_to_f32(scale[i / kQ8Block]);
}

void widen_q8_columns(const std::int8_t* q, const std::uint16_t* scale, std::size_t head_size, float* y) {
    for (std::size_t d = 0; d < head_size; ++d) {
        for (std::size_t i = 0; i < kBlockTokens; ++i) {
            const float factor = f16_to_f32(scale[d / kQ8Block * kBlockTokens + i]);
            y[d * kBlockTokens + i] = static_cast<float>(q[d * kBlockTokens + i]) * factor;
        }
    }
}

void block_scores(const float* const* queries, std::size_t rows, const float* keys, std::size_t head_size,
                  float factor, float* out, std::size_t out_stride) {
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t i = 0; i < kBlockTokens; ++i) {
            float acc = 0;
            for (std::size_t d = 0; d < head_size; ++d)
                acc = exact_fma(queries[r][d], keys[d * kBlockTokens + i], acc);
            out[r * out_stride + i] = acc * factor;
        }
    }
}

void add_weighted(const float* weights, std::size_t weights_stride, std::size_t rows, const float* values,
                  std::size_t count, std::size_t head_size, float* const* out) {
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t i = 0; i < count; ++i) {
            const float weight = weights[r * weights_stride + i];
            for (std::size_t d = 0; d < head_size; ++d)
                out[r][d] = exact_fma(weight, values[i * head_size + d], out[r][d]);
        }
    }
}

constexpr Kernels kScalar = {
    .name = "scalar",
    .quantize = quantize,
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
    .narrow_f16 = narrow_f16,
    .widen_f16 = widen_f16,
    .widen_q8 = widen_q8,
    .widen_q8_columns = widen_q8_columns,
    .block_scores = block_scores,
    .add_weighted = add_weighted,
};

} // namespace

const Kernels& scalar_kernels() { return kScalar; }

} // namespace flex::engine
