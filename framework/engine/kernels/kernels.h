// The arithmetic of the engine behind one table of functions per target.
//
// Every table gives the same bits, so that an answer does not depend on the machine that computed it. That
// holds because the order of every rounding is fixed here, in a form that SIMD can follow:
//   * dot(a, b, n): 32 lanes. Lane l starts at +0 and does lane = fma(a[i], b[i], lane) for i = l, l + 32, l
//   + 64 … in
//     rising order, with a and b extended by zeros to a multiple of 32. Then the upper half of the lanes is
//     added to the lower one until 4 are left; the result is (l0 + l1) + (l2 + l3).
//   * Q8_0 products: the 32 products of a block are summed exactly in integers; then
//     acc[b % 2] = fma(float(sum), weight_scale * activation_scale, acc[b % 2]) for the blocks b in rising
//     order; the result is acc[0] + acc[1].
//   * exp: one polynomial (exact.h). Everything else is one correctly rounded operation per element.
// Where there was a choice it is llama.cpp's, because a Q8_0 activation on the edge between two values tips
// on the last bit of what was summed before it, and one tipped value moves the logits of a small model by
// several hundredths. scalar.cpp is the reference; the tests compare every table with it bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/kernels/q8_layout.h"

namespace flex::engine {

/// The pointers may have any alignment that their type needs, and no two of them overlap unless said so. No
/// function fails; NaN and infinity go through without undefined behaviour (but are not promised to be equal
/// between tables).
struct Kernels {
    const char* name;

    /// Activations for Q8_0 products, n a multiple of 32: per block of 32, amax = largest |x|,
    /// scale = f16(amax / 127) kept as f32, q = round-half-even(x * (127 / amax)); a scale of 0 gives q = 0.
    void (*quantize)(const float* x, std::size_t n, Q8Block* out);
    /// y = x rounded to f16 / bf16 precision, half to even, kept as f32. In place allowed.
    void (*round_to_f16)(const float* x, std::size_t n, float* y);
    void (*round_to_bf16)(const float* x, std::size_t n, float* y);

    /// y[t * y_stride + r] = row r of w · token t, for r in [0, rows), t in [0, tokens).
    /// w: panels of 16 rows as q8_layout.h has them, 64-byte aligned (so a part begins at a multiple of 16
    /// rows); x: [tokens][columns / 32].
    void (*matmul_q8_0)(const std::byte* w, std::size_t rows, std::size_t columns, const Q8Block* x,
                        std::size_t tokens, float* y, std::size_t y_stride);
    /// The same for row-major float weights [rows][columns] and x: [tokens][columns]; scratch:
    /// scratch_bytes(columns), 64-byte aligned.
    void (*matmul_f16)(const std::byte* w, std::size_t rows, std::size_t columns, const float* x,
                       std::size_t tokens, float* y, std::size_t y_stride, std::byte* scratch);
    void (*matmul_bf16)(const std::byte* w, std::size_t rows, std::size_t columns, const float* x,
                        std::size_t tokens, float* y, std::size_t y_stride, std::byte* scratch);
    void (*matmul_f32)(const std::byte* w, std::size_t rows, std::size_t columns, const float* x,
                       std::size_t tokens, float* y, std::size_t y_stride, std::byte* scratch);

    /// y = x / sqrt(mean(x²) + epsilon) * weight. In place allowed.
    void (*rms_norm)(const float* x, const float* weight, std::size_t n, float epsilon, float* y);
    /// x += y
    void (*add)(float* x, const float* y, std::size_t n);
    /// gate = gate / (1 + exp(-gate)) * up
    void (*silu_multiply)(float* gate, const float* up, std::size_t n);

    /// out[i] = (query · key i) * factor, keys: [count][head_size]
    void (*scores)(const float* query, const float* keys, std::size_t count, std::size_t head_size,
                   float factor, float* out);
    /// x = exp(x - max) / sum, in place, n >= 1. The sum has 8 lanes: ((l0 + l1) + (l2 + l3)) + ((l4 + l5) +
    /// (l6 + l7)).
    void (*softmax)(float* x, std::size_t n);

    // The KV cache's small types (engine/kv_cache.h), and attention over one block of it.
    /// y = x in binary16, half to even, and back.
    void (*narrow_f16)(const float* x, std::size_t n, std::uint16_t* y);
    void (*widen_f16)(const std::uint16_t* x, std::size_t n, float* y);
    /// y[i] = q[i] * scale[i / 32], n a multiple of 32
    void (*widen_q8)(const std::int8_t* q, const std::uint16_t* scale, std::size_t n, float* y);
    /// y[d][i] = q[d][i] * scale[d / 32][i]: [head_size][32], head_size a multiple of 32
    void (*widen_q8_columns)(const std::int8_t* q, const std::uint16_t* scale, std::size_t head_size,
                             float* y);
    /// out[r * out_stride + i] = (sum over d, in rising order, of fma(queries[r][d], keys[d][i], …)) * factor
    /// for i in [0, 32), r in [0, rows); keys: [head_size][32].
    void (*block_scores)(const float* const* queries, std::size_t rows, const float* keys,
                         std::size_t head_size, float factor, float* out, std::size_t out_stride);
    /// out[r][d] = fma(weights[r * weights_stride + i], values[i][d], out[r][d]) for i in [0, count), rising;
    /// values: [count][head_size].
    void (*add_weighted)(const float* weights, std::size_t weights_stride, std::size_t rows,
                         const float* values, std::size_t count, std::size_t head_size, float* const* out);
};

/// Scratch a thread gives to a matmul.
[[nodiscard]] constexpr std::size_t scratch_bytes(std::size_t columns) {
    return 16 * ((columns + 7) / 8 * 8) + 64;
}

[[nodiscard]] const Kernels& scalar_kernels();
/// The tables this CPU can run, the best first; the scalar one is always the last.
[[nodiscard]] std::vector<const Kernels*> available_kernels();
/// The best one, or the one with this name; null when this CPU or build has none of that name.
[[nodiscard]] const Kernels* select_kernels(std::string_view name = {});

} // namespace flex::engine
