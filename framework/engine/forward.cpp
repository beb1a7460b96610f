// The forward pass of Llama 3.x and Qwen3 (dense), from token ids to logits.
// T: tokens of this pass. All arrays are row-major with one row per token; shapes are in brackets.
#include "engine/forward.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "engine/attention.h"
#include "engine/kernels/exact.h"
#include "engine/npu_forward.h"
#include "engine/packing.h"

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

constexpr std::size_t kFewTokens = 8; // up to here the memory is the limit, not the multipliers
constexpr std::size_t kExpectedBytes = std::size_t{256}
                                       << 10; // a quarter of the smallest L2 cache of cores that gain

/// Of Q8_0 a sixteenth of a panel.
std::size_t row_bytes(const Matrix& m) {
    return m.type == TensorType::kQ8_0 ? panel_bytes(m.columns) / kPanelRows
                                       : m.columns * block_bytes(m.type);
}

/// A stage that is bound while this lives.
class Held {
public:
    Held() = default;
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() { release(); }

    Status acquire(BatchState& state, Stage stage) {
        FLEX_TRY(acquire_stage(state, stage));
        state_ = &state;
        stage_ = stage;
        return {};
    }
    void release() {
        if (state_ != nullptr) release_stage(*state_, stage_);
        state_ = nullptr;
    }

private:
    BatchState* state_ = nullptr;
    Stage stage_ = 0;
};

} // namespace

/// BatchState with the names a pass needs close at hand.
class ForwardPass {
public:
    ForwardPass(BatchState& state, std::span<const Row> rows)
        : s_(state), k_(*state.kernels), shape_(state.model.shape()), w_(state.work), rows_(rows),
          T_(rows.size()), attention_(state, rows) {}

    /// From layer `first` on, when the embedding and the layers before it are done already.
    Status run(std::span<const std::uint32_t> wanted, float* logits, std::uint32_t first);

private:
    void embed();
    void layer(std::uint32_t index);
    void norm_and_rotate(const LayerWeights& weights, std::size_t t);
    void rotate(float* heads, std::size_t count, std::size_t t) const;
    void head(std::span<const std::uint32_t> wanted, float* logits);

    void prepare(const float* x, std::size_t columns, std::size_t t,
                 std::initializer_list<const Matrix*> matrices);
    void multiply(const float* x, std::size_t count, std::initializer_list<Product> products);
    [[nodiscard]] FirstReads reads(std::initializer_list<const Matrix*> next) const;
    void expect(const FirstReads& next);
    [[nodiscard]] std::size_t rows_per_task(std::size_t count, std::size_t total) const;
    void multiply_rows(const float* x, std::size_t count, const Product& product, std::size_t first,
                       std::size_t rows, std::byte* scratch);
    template <class Task> void for_tokens(const Task& task) {
        s_.pool.run(T_, [&](std::size_t t, unsigned) { task(t); });
    }

    BatchState& s_;
    const Kernels& k_;
    const ModelShape& shape_;
    Workspace& w_;
    std::span<const Row> rows_;
    std::size_t T_;
    Attention attention_;
};

bool all_cancelled(std::span<const Row> rows) {
    return std::ranges::all_of(
        rows, [](const Row& row) { return row.session->cancelled.load(std::memory_order_relaxed); });
}

Status ForwardPass::run(std::span<const std::uint32_t> wanted, float* logits, std::uint32_t first) {
    Held embedding;
    FLEX_TRY(embedding.acquire(s_, 0));
    if (first == 0) {
        embed();                // x[T][width]
        rope_tables(s_, rows_); // cos, sin[T][rope_dims / 2]
    }
    if (!shape_.tied_head) embedding.release();

    for (std::uint32_t i = first; i < shape_.layers; ++i) {
        if (all_cancelled(rows_)) return fail(ErrorCode::kCancelled, "cancelled");
        Held weights;
        FLEX_TRY(weights.acquire(s_, 1 + i));
        layer(i); // x[T][width] += attention, then += feed-forward
    }

    if (wanted.empty()) return {};
    if (all_cancelled(rows_)) return fail(ErrorCode::kCancelled, "cancelled");
    Held weights;
    FLEX_TRY(weights.acquire(s_, shape_.layers + 1));
    head(wanted, logits); // logits[wanted][vocabulary]
    return {};
}

/// x[t] = row rows[t].token of the embedding, widened.
void ForwardPass::embed() {
    const Matrix& e = s_.model.embedding();
    const std::size_t n = shape_.width;
    for_tokens([&](std::size_t t) {
        float* x = w_.x + t * n;
        if (e.type == TensorType::kQ8_0) return unpack_row(e.data, rows_[t].token, n, x);
        const std::byte* row = e.data + n * block_bytes(e.type) * rows_[t].token;
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
            case TensorType::kQ8_0:
                break;
            }
        }
    });
}

/// Angle of pair i at position p: p * base^(-2i / rope_dims) / factor[i] / scale (factors: Llama 3.1 and
/// later), in f32 by repeated multiplication as llama.cpp has it. Cosine and sine are taken in double, so
/// that every libm agrees. YaRN (arXiv 2309.00071) stretches slow pairs only: see yarn_share().
void rope_tables(BatchState& state, std::span<const Row> rows) {
    const ModelShape& shape = state.model.shape();
    const Workspace& work = state.work;
    const std::size_t pairs = shape.rope_dims / 2;
    const float* factors = state.model.rope_factors();
    const auto step = static_cast<float>(std::pow(shape.rope_base, -2.0 / shape.rope_dims));
    const auto scale = static_cast<float>(1.0 / shape.rope_scale);
    const double magnitude =
        shape.rope_yarn ? shape.yarn_attention * (1.0 + 0.1 * std::log(shape.rope_scale)) : 1.0;
    const auto angles = [&](std::size_t t, unsigned) {
        // Most passes of a prompt's beginning have the positions of the last one's.
        if (std::exchange(state.rope_positions[t], rows[t].position) == rows[t].position) return;
        auto theta = static_cast<float>(rows[t].position);
        for (std::size_t i = 0; i < pairs; ++i) {
            const float kept = theta / (factors != nullptr ? factors[i] : 1.0F);
            float angle = kept * scale;
            if (shape.rope_yarn) {
                const auto share = static_cast<float>(yarn_share(shape, i));
                angle = angle * (1.0F - share) + kept * share;
            }
            work.cos[t * pairs + i] = static_cast<float>(std::cos(static_cast<double>(angle)) * magnitude);
            work.sin[t * pairs + i] = static_cast<float>(std::sin(static_cast<double>(angle)) * magnitude);
            theta *= step;
        }
    };
    // Less than it costs to wake a thread that may be asleep, as all are while the NPU computes.
    if (rows.size() <= kFewTokens) {
        for (std::size_t t = 0; t < rows.size(); ++t) angles(t, 0);
    } else {
        state.pool.run(rows.size(), angles);
    }
}

void ForwardPass::layer(std::uint32_t index) {
    const LayerWeights& l = s_.model.layer(index);
    const std::size_t width = shape_.width, q_width = shape_.q_width(), ff = shape_.ff_width;
    float* const x = w_.x; // [T][width]
    float* const h = w_.h; // [T][width]

    // Attention: x += Wo · attend(q, k, v), with q, k, v = Wq h, Wk h, Wv h and h = norm(x).
    expect(s_.first_reads[index] = reads({&l.q, &l.k, &l.v}));
    for_tokens([&](std::size_t t) {
        k_.rms_norm(x + t * width, l.attention_norm, width, shape_.rms_epsilon, h + t * width);
        prepare(h, width, t, {&l.q, &l.k, &l.v});
    });
    expect(reads({&l.attention_output}));
    multiply(h, T_, {{l.q, w_.q}, {l.k, w_.k}, {l.v, w_.v}}); // [T][q_width], [T][kv_width] twice
    for_tokens([&](std::size_t t) { norm_and_rotate(l, t); });
    const auto start = Clock::now();
    attention_.store(index);
    attention_.attend(index); // attention[T][q_width]
    s_.timings.attention_ns += since(start);
    for_tokens([&](std::size_t t) { prepare(w_.attention, q_width, t, {&l.attention_output}); });
    expect(reads({&l.gate, &l.up}));
    multiply(w_.attention, T_, {{l.attention_output, h}}); // [T][width]

    // Feed-forward: x += Wdown · (silu(Wgate h) * Wup h), with h = norm(x).
    for_tokens([&](std::size_t t) {
        k_.add(x + t * width, h + t * width, width);
        k_.rms_norm(x + t * width, l.ff_norm, width, shape_.rms_epsilon, h + t * width);
        prepare(h, width, t, {&l.gate, &l.up});
    });
    expect(reads({&l.down}));
    multiply(h, T_, {{l.gate, w_.gate}, {l.up, w_.up}}); // [T][ff_width] twice
    for_tokens([&](std::size_t t) {
        k_.silu_multiply(w_.gate + t * ff, w_.up + t * ff, ff);
        prepare(w_.gate, ff, t, {&l.down});
    });
    expect(s_.first_reads[index + 1]);    // its stage is not held yet
    multiply(w_.gate, T_, {{l.down, h}}); // [T][width]
    for_tokens([&](std::size_t t) { k_.add(x + t * width, h + t * width, width); });
}

/// Per head: Qwen3 norms q and k; both get their position.
void ForwardPass::norm_and_rotate(const LayerWeights& weights, std::size_t t) {
    const std::size_t head_size = shape_.head_size;
    float* q = w_.q + t * shape_.q_width();  // [heads][head_size]
    float* k = w_.k + t * shape_.kv_width(); // [kv_heads][head_size]
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
}

/// RoPE on heads[count][head_size]. Llama's pairs are neighbours (its Q and K rows were permuted at
/// conversion), Qwen3's are half of rope_dims apart. Dimensions from rope_dims on stay as they are.
void ForwardPass::rotate(float* heads, std::size_t count, std::size_t t) const {
    const std::size_t pairs = shape_.rope_dims / 2;
    const bool neighbours = shape_.architecture == Architecture::kLlama;
    const std::size_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : pairs;
    const float* cos = w_.cos + t * pairs;
    const float* sin = w_.sin + t * pairs;
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

/// logits[i] = Whead · norm(x[wanted[i]]): [wanted][vocabulary].
void ForwardPass::head(std::span<const std::uint32_t> wanted, float* logits) {
    const std::size_t width = shape_.width;
    const Matrix& w = s_.model.head();
    expect(s_.first_reads[shape_.layers] = reads({&w}));
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        float* h = w_.h + i * width; // h is free here: [wanted][width]
        k_.rms_norm(w_.x + wanted[i] * width, s_.model.output_norm(), width, shape_.rms_epsilon, h);
        prepare(w_.h, width, i, {&w});
    }
    expect(s_.first_reads[0]); // of the next token
    multiply(w_.h, wanted.size(), {{w, logits}});
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
    if (q8) k_.quantize(from, columns, a.q8.get() + t * (columns / kQ8Block));
    if (f16) k_.round_to_f16(from, columns, a.half.get() + t * columns);
    if (bf16) k_.round_to_bf16(from, columns, a.bhalf.get() + t * columns);
}

/// Of `total` rows that are multiplied with `count` tokens. Many tokens: runs long enough to use a token's
/// activations again, short enough to stay in a core's L2 cache while all tokens pass. Few: the memory is the
/// limit, and it is fastest in long runs, as long as every thread gets some. Whole panels.
std::size_t ForwardPass::rows_per_task(std::size_t count, std::size_t total) const {
    const std::size_t fair = total / (std::size_t{2} * s_.pool.threads()) / kPanelRows * kPanelRows;
    return count > kFewTokens ? 4 * kPanelRows : std::clamp<std::size_t>(fair, kPanelRows, 32 * kPanelRows);
}

/// Of a multiply() with these matrices.
FirstReads ForwardPass::reads(std::initializer_list<const Matrix*> next) const {
    std::size_t total = 0;
    for (const Matrix* m : next) total += m->rows;
    const Matrix& m = **next.begin();
    return {m.data, std::min<std::size_t>(rows_per_task(T_, total), m.rows) * row_bytes(m)};
}

/// What the next multiply() will read, for threads that wait for it: with few tokens the memory would idle
/// meanwhile.
void ForwardPass::expect(const FirstReads& next) {
    if (T_ <= kFewTokens) s_.pool.expect_reads(next.data, next.stride, std::min(next.stride, kExpectedBytes));
}

/// y[count][rows] = x[count][columns] · W^T for each product, all rows of all products shared out among the
/// threads.
void ForwardPass::multiply(const float* x, std::size_t count, std::initializer_list<Product> products) {
    std::size_t total = 0;
    for (const Product& product : products) total += product.w.rows;
    const std::size_t run = rows_per_task(count, total);
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
    const std::byte* w = m.data + first * row_bytes(m);
    float* y = product.y + first;
    switch (m.type) {
    case TensorType::kQ8_0:
        k_.matmul_q8_0(w, rows, m.columns, a.q8.get(), count, y, m.rows);
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

Status acquire_stage(BatchState& state, Stage stage) {
    if (WeightGate* gate = state.options.gate; gate != nullptr) {
        const auto start = Clock::now();
        const Status status = gate->acquire(stage);
        state.timings.weights_wait_ns += since(start);
        if (!status.ok()) return status.error();
    }
    if (state.model.bound(stage)) return {};
    release_stage(state, stage);
    return fail(ErrorCode::kInternal, "the weights of stage " + std::to_string(stage) + " are not in memory");
}

void release_stage(BatchState& state, Stage stage) {
    if (state.options.gate != nullptr) state.options.gate->release(stage);
}

Status BatchState::forward(std::span<const Row> some, std::span<const std::uint32_t> wanted,
                           float* logits_out) {
    std::uint32_t layers_done = 0;
    if (npu != nullptr && npu->chosen(some.size(), wanted.size())) {
        FLEX_ASSIGN(const NpuForward::Progress progress, npu->run(some, wanted, logits_out));
        if (progress.done) return {};
        layers_done = progress.layers;
    }
    const auto start = Clock::now();
    const std::uint64_t waited = timings.weights_wait_ns;
    const Status computed = ForwardPass(*this, some).run(wanted, logits_out, layers_done);
    if (npu != nullptr && computed.ok() && layers_done == 0)
        npu->measured_cpu(some.size(), wanted.size(), since(start) - (timings.weights_wait_ns - waited));
    return computed;
}

} // namespace flex::engine
