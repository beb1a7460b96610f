// The forward pass of Llama 3.x and Qwen3 (dense), from token ids to logits.
// T: tokens of this pass. All arrays are row-major with one row per token; shapes are in brackets.
#include "engine/forward.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <initializer_list>

#include "engine/kernels/exact.h"

namespace flex::engine {

namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t since(Clock::time_point start) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

/// One `y = W x` of several that share x.
struct Product {
    const Matrix& w; // [rows][columns]
    float* y;        // [T][rows]
};

/// A stage that is bound while this lives.
class Held {
public:
    Held() = default;
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() { release(); }

    Status acquire(SessionState& state, Stage stage);
    void release() {
        if (gate_ != nullptr) gate_->release(stage_);
        gate_ = nullptr;
    }

private:
    WeightGate* gate_ = nullptr;
    Stage stage_ = 0;
};

} // namespace

/// SessionState with the names a pass needs close at hand.
class ForwardPass {
public:
    ForwardPass(SessionState& state, std::span<const TokenId> tokens)
        : s_(state), k_(*state.kernels), shape_(state.model.shape()), w_(state.work), tokens_(tokens),
          T_(tokens.size()) {}

    Status run(std::span<const std::uint32_t> rows, float* logits);

private:
    void embed();
    void rope_tables();
    void layer(std::uint32_t index);
    void place_keys_and_values(const LayerWeights& weights, std::uint32_t index, std::size_t t);
    void rotate(float* heads, std::size_t count, std::size_t t) const;
    void attend(std::uint32_t index);
    void attend(std::uint32_t index, std::size_t head, std::size_t t, float* scores);
    void head(std::span<const std::uint32_t> rows, float* logits);

    void prepare(const float* x, std::size_t columns, std::size_t t,
                 std::initializer_list<const Matrix*> matrices);
    void multiply(const float* x, std::size_t count, std::initializer_list<Product> products);
    void multiply_rows(const float* x, std::size_t count, const Product& product, std::size_t first,
                       std::size_t rows, std::byte* scratch);
    template <class Task> void for_tokens(const Task& task) {
        s_.pool.run(T_, [&](std::size_t t, unsigned) { task(t); });
    }

    SessionState& s_;
    const Kernels& k_;
    const ModelShape& shape_;
    Workspace& w_;
    std::span<const TokenId> tokens_;
    std::size_t T_;
};

Status ForwardPass::run(std::span<const std::uint32_t> rows, float* logits) {
    Held embedding;
    FLEX_TRY(embedding.acquire(s_, 0));
    embed();       // x[T][width]
    rope_tables(); // cos, sin[T][rope_dims / 2]
    if (!shape_.tied_head) embedding.release();

    for (std::uint32_t i = 0; i < shape_.layers; ++i) {
        if (s_.cancelled.load(std::memory_order_relaxed)) return fail(ErrorCode::kCancelled, "cancelled");
        Held weights;
        FLEX_TRY(weights.acquire(s_, 1 + i));
        layer(i); // x[T][width] += attention, then += feed-forward
    }

    if (rows.empty()) return {};
    if (s_.cancelled.load(std::memory_order_relaxed)) return fail(ErrorCode::kCancelled, "cancelled");
    Held weights;
    FLEX_TRY(weights.acquire(s_, shape_.layers + 1));
    head(rows, logits); // logits[rows][vocabulary]
    return {};
}

/// x[t] = row tokens[t] of the embedding, widened.
void ForwardPass::embed() {
    const Matrix& e = s_.model.embedding();
    const std::size_t n = shape_.width;
    for_tokens([&](std::size_t t) {
        float* x = w_.x.get() + t * n;
        const std::byte* row = e.data + n / block_elements(e.type) * block_bytes(e.type) * tokens_[t];
        for (std::size_t i = 0; i < n; ++i) {
            switch (e.type) {
            case TensorType::kF32:
                x[i] = reinterpret_cast<const float*>(row)[i];
                break;
            case TensorType::kF16:
                x[i] = f16_to_f32(load_u16(row + 2 * i));
                break;
            case TensorType::kBF16:
                x[i] = bf16_to_f32(load_u16(row + 2 * i));
                break;
            case TensorType::kQ8_0: {
                const std::byte* block = row + i / kQ8Block * kQ8BlockBytes;
                x[i] = f16_to_f32(load_u16(block)) *
                       static_cast<float>(static_cast<std::int8_t>(block[2 + i % kQ8Block]));
                break;
            }
            }
        }
    });
}

/// Angle of pair i at position p: p / scale * base^(-2i / rope_dims) / factor[i] (factors: Llama 3.1 and
/// later), in f32 by repeated multiplication as llama.cpp has it. Cosine and sine are taken in double, so
/// that every libm agrees.
void ForwardPass::rope_tables() {
    const std::size_t pairs = shape_.rope_dims / 2;
    const float* factors = s_.model.rope_factors();
    const auto step = static_cast<float>(std::pow(shape_.rope_base, -2.0 / shape_.rope_dims));
    const auto scale = static_cast<float>(1.0 / shape_.rope_scale);
    for_tokens([&](std::size_t t) {
        auto theta = static_cast<float>(s_.position + t);
        for (std::size_t i = 0; i < pairs; ++i) {
            const float angle = theta / (factors != nullptr ? factors[i] : 1.0F) * scale;
            w_.cos[t * pairs + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
            w_.sin[t * pairs + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
            theta *= step;
        }
    });
}

void ForwardPass::layer(std::uint32_t index) {
    const LayerWeights& l = s_.model.layer(index);
    const std::size_t width = shape_.width, q_width = shape_.q_width(), ff = shape_.ff_width;
    float* const x = w_.x.get(); // [T][width]
    float* const h = w_.h.get(); // [T][width]

    // Attention: x += Wo · attend(q, k, v), with q, k, v = Wq h, Wk h, Wv h and h = norm(x).
    for_tokens([&](std::size_t t) {
        k_.rms_norm(x + t * width, l.attention_norm, width, shape_.rms_epsilon, h + t * width);
        prepare(h, width, t, {&l.q, &l.k, &l.v});
    });
    multiply(h, T_,
             {{l.q, w_.q.get()}, {l.k, w_.k.get()}, {l.v, w_.v.get()}}); // [T][q_width], [T][kv_width] twice
    for_tokens([&](std::size_t t) { place_keys_and_values(l, index, t); });
    const auto start = Clock::now();
    attend(index); // attention[T][q_width]
    s_.timings.attention_ns += since(start);
    for_tokens([&](std::size_t t) { prepare(w_.attention.get(), q_width, t, {&l.attention_output}); });
    multiply(w_.attention.get(), T_, {{l.attention_output, h}}); // [T][width]

    // Feed-forward: x += Wdown · (silu(Wgate h) * Wup h), with h = norm(x).
    for_tokens([&](std::size_t t) {
        k_.add(x + t * width, h + t * width, width);
        k_.rms_norm(x + t * width, l.ff_norm, width, shape_.rms_epsilon, h + t * width);
        prepare(h, width, t, {&l.gate, &l.up});
    });
    multiply(h, T_, {{l.gate, w_.gate.get()}, {l.up, w_.up.get()}}); // [T][ff_width] twice
    for_tokens([&](std::size_t t) {
        k_.silu_multiply(w_.gate.get() + t * ff, w_.up.get() + t * ff, ff);
        prepare(w_.gate.get(), ff, t, {&l.down});
    });
    multiply(w_.gate.get(), T_, {{l.down, h}}); // [T][width]
    for_tokens([&](std::size_t t) { k_.add(x + t * width, h + t * width, width); });
}

/// Per head: Qwen3 norms q and k; both get their position; k and v go to the cache.
void ForwardPass::place_keys_and_values(const LayerWeights& weights, std::uint32_t index, std::size_t t) {
    const std::size_t head_size = shape_.head_size;
    float* q = w_.q.get() + t * shape_.q_width();  // [heads][head_size]
    float* k = w_.k.get() + t * shape_.kv_width(); // [kv_heads][head_size]
    if (weights.q_norm != nullptr) {
        for (float* head = q; head != q + shape_.q_width(); head += head_size) {
            k_.rms_norm(head, weights.q_norm, head_size, shape_.rms_epsilon, head);
        }
        for (float* head = k; head != k + shape_.kv_width(); head += head_size) {
            k_.rms_norm(head, weights.k_norm, head_size, shape_.rms_epsilon, head);
        }
    }
    rotate(q, shape_.heads, t);
    rotate(k, shape_.kv_heads, t);
    const float* v = w_.v.get() + t * shape_.kv_width(); // [kv_heads][head_size]
    for (std::size_t g = 0; g < shape_.kv_heads; ++g) {
        const std::size_t at =
            index * s_.kv.layer_stride + g * s_.kv.head_stride + (s_.position + t) * head_size;
        std::copy_n(k + g * head_size, head_size, s_.kv.keys.get() + at);
        std::copy_n(v + g * head_size, head_size, s_.kv.values.get() + at);
    }
}

/// RoPE on heads[count][head_size]. Llama's pairs are neighbours (its Q and K rows were permuted at
/// conversion), Qwen3's are half of rope_dims apart. Dimensions from rope_dims on stay as they are.
void ForwardPass::rotate(float* heads, std::size_t count, std::size_t t) const {
    const std::size_t pairs = shape_.rope_dims / 2;
    const bool neighbours = shape_.architecture == Architecture::kLlama;
    const std::size_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : pairs;
    const float* cos = w_.cos.get() + t * pairs;
    const float* sin = w_.sin.get() + t * pairs;
    for (float* head = heads; head != heads + count * shape_.head_size; head += shape_.head_size) {
        for (std::size_t i = 0; i < pairs; ++i) {
            float& a = head[i * step];
            float& b = head[i * step + apart];
            const float rotated = a * cos[i] - b * sin[i];
            b = a * sin[i] + b * cos[i];
            a = rotated;
        }
    }
}

/// attention[t][head] for all heads and tokens. Runs of tokens of one head are a task, so that its keys stay
/// in cache.
void ForwardPass::attend(std::uint32_t index) {
    constexpr std::size_t kRun = 8;
    const std::size_t runs = (T_ + kRun - 1) / kRun;
    s_.pool.run(shape_.heads * runs, [&](std::size_t task, unsigned thread) {
        const std::size_t head = task / runs, first = task % runs * kRun;
        float* scores = w_.scores.get() + std::size_t{thread} * s_.options.context; // [context]
        for (std::size_t t = first; t < std::min(first + kRun, T_); ++t) attend(index, head, t, scores);
    });
}

/// attention[t][head] = softmax(q · K / sqrt(head_size)) V over all positions up to t's own.
void ForwardPass::attend(std::uint32_t index, std::size_t head, std::size_t t, float* scores) {
    const std::size_t head_size = shape_.head_size, group = head / (shape_.heads / shape_.kv_heads);
    const std::size_t count = s_.position + t + 1;
    const std::size_t at = index * s_.kv.layer_stride + group * s_.kv.head_stride;
    const float* keys = s_.kv.keys.get() + at;     // [count][head_size]
    const float* values = s_.kv.values.get() + at; // [count][head_size]
    const std::size_t row = t * shape_.q_width() + head * head_size;
    const float factor = 1.0F / std::sqrt(static_cast<float>(head_size));
    k_.scores(w_.q.get() + row, keys, count, head_size, factor, scores);
    k_.softmax(scores, count);
    k_.weighted_sum(scores, values, count, head_size, w_.attention.get() + row);
}

/// logits[i] = Whead · norm(x[rows[i]]), for the rows that were asked for: [rows][vocabulary].
void ForwardPass::head(std::span<const std::uint32_t> rows, float* logits) {
    const std::size_t width = shape_.width;
    const Matrix& w = s_.model.head();
    for (std::size_t i = 0; i < rows.size(); ++i) {
        float* h = w_.h.get() + i * width; // h is free here: [rows][width]
        k_.rms_norm(w_.x.get() + rows[i] * width, s_.model.output_norm(), width, shape_.rms_epsilon, h);
        prepare(w_.h.get(), width, i, {&w});
    }
    multiply(w_.h.get(), rows.size(), {{w, logits}});
}

/// Brings row t of x[T][columns] into the form that each of the matrices multiplies with.
void ForwardPass::prepare(const float* x, std::size_t columns, std::size_t t,
                          std::initializer_list<const Matrix*> matrices) {
    Activations& a = w_.input;
    const float* from = x + t * columns;
    bool q8 = false, f16 = false, bf16 = false;
    for (const Matrix* m : matrices) {
        q8 |= m->type == TensorType::kQ8_0;
        f16 |= m->type == TensorType::kF16;
        bf16 |= m->type == TensorType::kBF16;
    }
    if (q8) k_.quantize(from, columns, a.q8.get() + t * columns, a.q8_scale.get() + t * (columns / kQ8Block));
    if (f16) k_.round_to_f16(from, columns, a.half.get() + t * columns);
    if (bf16) k_.round_to_bf16(from, columns, a.bhalf.get() + t * columns);
}

/// y[count][rows] = x[count][columns] · W^T for each product, all rows of all products shared out among the
/// threads.
void ForwardPass::multiply(const float* x, std::size_t count, std::initializer_list<Product> products) {
    // Long enough runs to amortise the hand-out, short enough to balance; whole panels of 8 rows.
    const std::size_t run = count == 1 ? 64 : 16;
    std::size_t tasks = 0;
    for (const Product& product : products) tasks += (product.w.rows + run - 1) / run;
    s_.pool.run(tasks, [&](std::size_t task, unsigned thread) {
        for (const Product& product : products) {
            const std::size_t runs = (product.w.rows + run - 1) / run;
            if (task < runs) {
                const std::size_t rows = std::min(run, product.w.rows - task * run);
                std::byte* scratch = w_.kernel.get() + thread * w_.kernel_bytes;
                return multiply_rows(x, count, product, task * run, rows, scratch);
            }
            task -= runs;
        }
    });
}

void ForwardPass::multiply_rows(const float* x, std::size_t count, const Product& product, std::size_t first,
                                std::size_t rows, std::byte* scratch) {
    const Matrix& m = product.w;
    const Activations& a = w_.input;
    const std::size_t row_bytes = std::size_t{m.columns} / block_elements(m.type) * block_bytes(m.type);
    const std::byte* w = m.data + first * row_bytes;
    float* y = product.y + first;
    switch (m.type) {
    case TensorType::kQ8_0:
        k_.matmul_q8_0(w, rows, m.columns, a.q8.get(), a.q8_scale.get(), count, y, m.rows, scratch);
        break;
    case TensorType::kF16:
        k_.matmul_f16(w, rows, m.columns, a.half.get(), count, y, m.rows, scratch);
        break;
    case TensorType::kBF16:
        k_.matmul_bf16(w, rows, m.columns, a.bhalf.get(), count, y, m.rows, scratch);
        break;
    case TensorType::kF32:
        k_.matmul_f32(w, rows, m.columns, x, count, y, m.rows, scratch);
        break;
    }
}

namespace {

Status Held::acquire(SessionState& state, Stage stage) {
    if (WeightGate* gate = state.options.gate; gate != nullptr) {
        const auto start = Clock::now();
        const Status status = gate->acquire(stage);
        state.timings.weights_wait_ns += since(start);
        if (!status.ok()) return status.error();
        gate_ = gate;
        stage_ = stage;
    }
    if (!state.model.bound(stage)) {
        return fail(ErrorCode::kInternal,
                    "the weights of stage " + std::to_string(stage) + " are not in memory");
    }
    return {};
}

} // namespace

Status SessionState::forward(std::span<const TokenId> tokens, std::span<const std::uint32_t> rows,
                             float* logits_out) {
    return ForwardPass(*this, tokens).run(rows, logits_out);
}

} // namespace flex::engine
