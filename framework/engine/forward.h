// Private to the engine: the memory of a session and the forward pass over it.
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
#include "engine/kernels/kernels.h"
#include "engine/model.h"
#include "engine/session.h"
#include "engine/thread_pool.h"

namespace flex::engine {

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T> using Buffer = std::unique_ptr<T[], Free>;

/// 64-byte aligned, not initialised; null when memory is refused.
template <class T> Buffer<T> allocate(std::uint64_t count) {
    const std::uint64_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
}

/// Keys and values of the tokens so far: [layer][kv_head][context][head_size] each.
struct KvCache {
    Buffer<float> keys, values;
    std::uint64_t head_stride = 0;  // context * head_size
    std::uint64_t layer_stride = 0; // kv_heads * head_stride
};

/// A vector per token as the matrices want it: [T][columns]. Only the forms that are needed are filled in.
struct Activations {
    Buffer<std::int8_t> q8; // [T][columns]
    Buffer<float> q8_scale; // [T][columns / 32]
    Buffer<float> half;     // [T][columns], rounded to f16
    Buffer<float> bhalf;    // [T][columns], rounded to bf16
};

/// Scratch for one pass over T <= batch tokens. Row-major, one row per token.
struct Workspace {
    Buffer<float> x;          // [T][width]      the residual stream
    Buffer<float> h;          // [T][width]      normed input of a block, then its output
    Buffer<float> q;          // [T][q_width]
    Buffer<float> k, v;       // [T][kv_width]
    Buffer<float> attention;  // [T][q_width]    output of the heads
    Buffer<float> gate, up;   // [T][ff_width]
    Buffer<float> cos, sin;   // [T][rope_dims / 2]
    Activations input;        // [T][largest number of columns]
    Buffer<float> scores;     // [threads][context]
    Buffer<std::byte> kernel; // [threads][kernel_bytes]
    std::size_t kernel_bytes = 0;
};

struct SessionState {
    SessionState(const Model& m, ThreadPool& p, const SessionOptions& o) : model(m), pool(p), options(o) {}

    const Model& model;
    ThreadPool& pool;
    SessionOptions options;
    const Kernels* kernels = nullptr;
    KvCache kv;
    Workspace work;
    std::vector<float> logits; // [vocabulary]
    std::uint32_t position = 0;
    std::atomic<bool> cancelled{false};
    Timings timings;

    /// Runs `tokens` (at most `batch`, checked ids, room in the cache) at positions position, position + 1, …
    /// and writes logits after tokens[rows[i]] to logits_out + i * vocabulary. Does not move `position`.
    Status forward(std::span<const TokenId> tokens, std::span<const std::uint32_t> rows, float* logits_out);
};

} // namespace flex::engine
