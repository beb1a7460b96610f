// One conversation with a model: its KV cache, its position, and the calls that move it on.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/token.h"
#include "engine/model.h"

namespace flex::engine {

class ThreadPool;
struct Kernels;
struct SessionState;

struct SessionOptions {
    std::uint32_t context = 0; ///< tokens the KV cache holds; 0: what the model was trained for, at most 4096
    std::uint32_t batch = 512; ///< prompt tokens computed per pass through the layers
    WeightGate* gate = nullptr;       ///< not owned; see WeightGate
    const Kernels* kernels = nullptr; ///< null: the best this CPU has (kernels/kernels.h)
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
/// or on which kernel table computes them: all of these give the same bits. One thread at a time; only
/// cancel() may be called from another.
class Session {
public:
    /// `model` and `pool` must outlive the session. Allocates the KV cache and the scratch space once.
    /// Errors: kInvalidArgument, kOutOfMemory (says how many MiB it wanted).
    static Result<std::unique_ptr<Session>> create(const Model& model, ThreadPool& pool,
                                                   SessionOptions options = {});
    ~Session();

    /// Appends `tokens` and returns the logits after the last one: [vocabulary], valid until the next call.
    /// On an error the session stands where it stood before.
    /// Errors: kInvalidArgument (no tokens, an id outside the vocabulary), kContextFull (message has both
    /// numbers), kCancelled, and whatever the gate returns.
    Result<std::span<const float>> prefill(std::span<const TokenId> tokens);

    /// Appends one token: the same as prefill with one, counted as decoding.
    Result<std::span<const float>> decode(TokenId token);

    /// prefill() that returns logits after several of the tokens: `rows` are indices into `tokens`, rising.
    /// The result is [rows.size()][vocabulary].
    Result<std::vector<float>> logits(std::span<const TokenId> tokens, std::span<const std::uint32_t> rows);

    /// Tokens in the KV cache.
    [[nodiscard]] std::uint32_t position() const;
    [[nodiscard]] std::uint32_t context() const;
    /// Forgets every token from `position` on (cheap). `position` <= position().
    void rewind(std::uint32_t position);

    /// Makes the call under way (or the next one) return kCancelled at the next layer boundary. Any thread.
    void cancel();
    /// Takes a cancel() back.
    void clear_cancel();

    [[nodiscard]] const Timings& timings() const;
    void reset_timings();

private:
    explicit Session(std::unique_ptr<SessionState> state);
    std::unique_ptr<SessionState> state_;
};

} // namespace flex::engine
