// One conversation with a model: its KV cache, its position, and the calls that move it on.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/token.h"
#include "engine/batch.h"
#include "engine/kv_cache.h"
#include "engine/model.h"

namespace flex::engine {

class ThreadPool;
struct Kernels;
struct SessionState;
class Batch;

struct SessionOptions {
    std::uint32_t context = 0; ///< tokens the KV cache holds; 0: what the model was trained for, at most 4096
    std::uint32_t batch = 512; ///< prompt tokens computed per pass through the layers
    WeightGate* gate = nullptr;       ///< not owned; see WeightGate
    const Kernels* kernels = nullptr; ///< null: the best this CPU has (kernels/kernels.h)
    KvType kv = KvType::kF16;         ///< how the KV cache is stored; see kv_cache.h
    npu::Npu* npu = nullptr;          ///< see BatchOptions
    NpuUse npu_use = NpuUse::kAuto;
};

/// Where the time of a session went, summed since creation or reset_timings(). Nanoseconds of wall time.
struct Timings {
    std::uint64_t prefill_ns = 0; ///< whole prefill calls, waiting included
    std::uint64_t prefill_tokens = 0;
    std::uint64_t decode_ns = 0;
    std::uint64_t decode_tokens = 0;
    std::uint64_t weights_wait_ns = 0; ///< inside WeightGate::acquire
    std::uint64_t attention_ns = 0;    ///< part of prefill + decode spent in attention proper
};

/// Results do not depend on the number of threads, on the batch size, on how the prompt was cut into calls,
/// on which other sessions are computed in the same pass (Batch), or on which kernel table computes them: all
/// of these give the same bits. One thread at a time, together with the others of its batch; only cancel()
/// may be called from another.
class Session {
public:
    /// A session by itself, with a batch and blocks of its own. `model` and `pool` must outlive it. The KV
    /// cache is allocated as it fills. Errors: kInvalidArgument, kUnsupported, kOutOfMemory (says how many
    /// MiB it wanted).
    static Result<std::unique_ptr<Session>> create(const Model& model, ThreadPool& pool,
                                                   SessionOptions options = {});
    /// One of several that share the memory of `batch` and the blocks of `kv`, which is of the same model.
    /// `context` tokens at most; 0: as the batch. Errors: kInvalidArgument.
    static Result<std::unique_ptr<Session>> create(std::shared_ptr<Batch> batch, std::shared_ptr<KvPool> kv,
                                                   std::uint32_t context = 0);
    ~Session();

    /// Appends `tokens` and returns the logits after the last one: [vocabulary], valid until the next call.
    /// On an error the session stands where it stood before.
    /// Errors: kInvalidArgument (no tokens, an id outside the vocabulary), kContextFull (message has both
    /// numbers), kOutOfMemory (no block to be had), kCancelled, and whatever the gate returns.
    Result<std::span<const float>> prefill(std::span<const TokenId> tokens);

    /// Appends one token: the same as prefill with one, counted as decoding.
    Result<std::span<const float>> decode(TokenId token);

    /// prefill() that returns logits after several of the tokens: `rows` are indices into `tokens`, rising.
    /// The result is [rows.size()][vocabulary].
    Result<std::vector<float>> logits(std::span<const TokenId> tokens, std::span<const std::uint32_t> rows);

    /// Tokens in the KV cache.
    [[nodiscard]] std::uint32_t position() const;
    [[nodiscard]] std::uint32_t context() const;
    /// Forgets every token from `position` on and gives up its blocks (cheap). `position` <= position().
    void rewind(std::uint32_t position);
    /// Forgets everything and takes on the first `tokens` tokens of `other`, sharing its blocks (cheap): as
    /// if they had been computed here. `tokens` <= other.position(); both have the same pool and this one
    /// room for them.
    void share_prefix(const Session& other, std::uint32_t tokens);
    /// Blocks of KV cache it holds.
    [[nodiscard]] std::size_t blocks() const;
    /// A share in one of them.
    [[nodiscard]] KvBlockRef block(std::size_t index) const;
    /// Puts `block`, which holds what would be computed, in the place of block `index` <= position() / 32,
    /// and stands at `position`, which lies in or behind it: as if the tokens up to there had been computed.
    void adopt(std::size_t index, KvBlockRef block, std::uint32_t position);

    /// Makes the call under way (or the next one) return kCancelled at the next layer boundary. Any thread.
    void cancel();
    /// Takes a cancel() back.
    void clear_cancel();

    [[nodiscard]] const Timings& timings() const;
    void reset_timings();
    /// Of the batch it is computed in.
    [[nodiscard]] const BatchTimings& batch_timings() const;

private:
    friend class Batch;
    explicit Session(std::unique_ptr<SessionState> state);
    std::unique_ptr<SessionState> state_;
};

} // namespace flex::engine
