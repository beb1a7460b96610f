// Private to the engine: the memory of sessions and batches, and the forward pass over it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/token.h"
#include "engine/batch.h"
#include "engine/kernels/kernels.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/session.h"
#include "engine/thread_pool.h"

namespace flex::engine {

class NpuForward;

template <class T> using Buffer = std::unique_ptr<T[], Free>;

/// 64-byte aligned, not initialised; null when memory is refused.
template <class T> Buffer<T> allocate(std::uint64_t count) {
    const std::uint64_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
}

/// A vector per token as the matrices want it: [T][columns]. Only the forms that are needed are filled in.
struct Activations {
    Buffer<Q8Block> q8;  // [T][columns / 32]
    Buffer<float> half;  // [T][columns], rounded to f16
    Buffer<float> bhalf; // [T][columns], rounded to bf16
};

/// Scratch for one pass over T <= BatchOptions::rows tokens. Row-major, one row per token.
struct Workspace {
    std::shared_ptr<std::byte> shared; // the memory of what follows up to sin; an NPU can reach it, too
    std::size_t shared_bytes = 0;
    float* x = nullptr;                   // [T][width]      the residual stream
    float* h = nullptr;                   // [T][width]      normed input of a block, then its output
    float* q = nullptr;                   // [T][q_width]
    float *k = nullptr, *v = nullptr;     // [T][kv_width]
    float* attention = nullptr;           // [T][q_width]    output of the heads
    float *gate = nullptr, *up = nullptr; // [T][ff_width]
    float *cos = nullptr, *sin = nullptr; // [T][rope_dims / 2]

    Activations input;        // [T][largest number of columns]
    Buffer<float> scores;     // [threads][Attention::kTileRows][scores_stride]
    Buffer<float> kv_part;    // [threads][kKvBlockTokens * head_size]: keys or values of a block as f32
    Buffer<std::byte> kernel; // [threads][kernel_bytes]
    std::size_t kernel_bytes = 0;
    std::size_t scores_stride = 0; // the context in whole blocks
};

struct SessionState {
    SessionState(std::shared_ptr<Batch> b, std::shared_ptr<KvPool> p, std::uint32_t c)
        : batch(std::move(b)), kv(std::move(p)), context(c) {}

    std::shared_ptr<Batch> batch;
    std::shared_ptr<KvPool> kv;
    std::uint32_t context;
    std::uint32_t position = 0;
    std::vector<KvBlockRef> blocks; // at least those of the tokens before `position`, in order
    std::vector<float> logits;      // [vocabulary]
    std::atomic<bool> cancelled{false};
    Timings timings;

    /// Whether `tokens` can follow: known ids, room in the context.
    [[nodiscard]] Status check(std::span<const TokenId> tokens) const;
    /// Gets blocks for `count` more tokens, and makes those that will be written its own.
    Status make_room(std::size_t count);
    void rewind(std::uint32_t to);
};

/// One token in a pass.
struct Row {
    SessionState* session = nullptr; // has room at `position`
    TokenId token = 0;               // checked
    std::uint32_t position = 0;
};

/// Where the reading of a product's weights begins: thread t's at data + t * stride.
struct FirstReads {
    const std::byte* data = nullptr;
    std::size_t stride = 0;
};

struct BatchState {
    BatchState(const Model& m, ThreadPool& p, const BatchOptions& o);
    ~BatchState();

    const Model& model;
    ThreadPool& pool;
    BatchOptions options;
    const Kernels* kernels = nullptr;
    Workspace work;
    std::vector<Row> rows;     // of the pass
    std::vector<float> logits; // [sessions that want them][vocabulary]
    BatchTimings timings;
    std::vector<std::uint32_t> rope_positions; // of the rows of cos and sin; all ones: none yet
    /// [layers + 1] of each layer and the head, as it was when last computed with: no more than a hint of
    /// where the next pass will read, since by now the stage may be elsewhere or gone.
    std::vector<FirstReads> first_reads;
    std::unique_ptr<NpuForward> npu; // null: everything is computed here

    /// Computes `rows` (at most options.rows; a session's rows lie together, in rising order) and writes
    /// logits after rows[wanted[i]] to logits_out + i * vocabulary. Moves no session's position. Error:
    /// kCancelled when every session of the pass is cancelled, and those of the gate.
    Status forward(std::span<const Row> rows, std::span<const std::uint32_t> wanted, float* logits_out);
};

/// Waits until the stage is there; it stays until release_stage(). Errors: those of the gate.
Status acquire_stage(BatchState& state, Stage stage);
void release_stage(BatchState& state, Stage stage);

/// Fills in cos and sin for these rows, as far as they are not there from an earlier pass. Stage 0 is held.
void rope_tables(BatchState& state, std::span<const Row> rows);

/// Nobody wants the result of the pass any more.
[[nodiscard]] bool all_cancelled(std::span<const Row> rows);

} // namespace flex::engine
