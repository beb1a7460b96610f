// Several sessions computed together: one pass over the weights serves a token of each, or a piece of a
// prompt.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "base/token.h"
#include "engine/model.h"

namespace flex::npu {
class Npu;
}

namespace flex::engine {

class Session;
class ThreadPool;
struct Kernels;
struct BatchState;

/// Who computes a pass. The bits are the same.
enum class NpuUse : std::uint8_t {
    kAuto, ///< the NPU where it is likely to be faster
    kOn,   ///< the NPU whenever it is to be had
    kOff,  ///< the CPU
};
/// From its name: "auto", "on", "off". Error: kInvalidArgument.
Result<NpuUse> npu_use(std::string_view name);

struct BatchOptions {
    std::uint32_t rows = 512;   ///< tokens computed per pass, over all sessions; 1..4096
    std::uint32_t context = 0;  ///< of the longest session; 0: what the model was trained for, at most 4096
    WeightGate* gate = nullptr; ///< not owned; see WeightGate
    const Kernels* kernels = nullptr; ///< null: the best this CPU has (kernels/kernels.h)
    npu::Npu* npu = nullptr; ///< not owned; null: none. Models with other than Q8_0 matrices do without
    NpuUse npu_use = NpuUse::kAuto;
};

/// What one session computes in a pass.
struct BatchPart {
    Session* session = nullptr;        ///< made with this batch; at most once in a pass
    std::span<const TokenId> tokens{}; ///< appended to the session; at least one
    bool wants_logits = false;         ///< after the last of them
    // Filled in by the pass:
    Status status{}; ///< kContextFull, kOutOfMemory, kCancelled, kInvalidArgument: this session's alone
    std::span<const float> logits{}; ///< [vocabulary], valid until the next pass
};

/// Summed since creation. Nanoseconds of wall time.
struct BatchTimings {
    std::uint64_t weights_wait_ns = 0; ///< inside WeightGate::acquire
    std::uint64_t attention_ns = 0;    ///< in attention proper, on the CPU
    std::uint64_t npu_ns = 0;          ///< in passes on the NPU, without waiting for weights
    std::uint64_t npu_passes = 0;      ///< that the NPU computed to their end
    std::uint64_t npu_failures = 0;    ///< passes that the CPU did again because the NPU failed
};

/// The memory that a pass needs, for any number of sessions. What a session gets does not depend on which
/// others are in the pass. One thread at a time.
class Batch {
public:
    /// `model` and `pool` must outlive the batch. Errors: kInvalidArgument, kOutOfMemory.
    static Result<std::shared_ptr<Batch>> create(const Model& model, ThreadPool& pool,
                                                 BatchOptions options = {});
    ~Batch();

    /// One pass. The sessions whose part has a good status have moved on by their tokens; the others stand
    /// where they stood. Error: kInvalidArgument (more than rows() tokens), and whatever the gate returns;
    /// then nobody has moved.
    Status run(std::span<BatchPart> parts);

    /// For the passes from now on, instead of what the options say.
    void use_npu(NpuUse use);

    [[nodiscard]] std::uint32_t rows() const;
    [[nodiscard]] std::uint32_t context() const;
    [[nodiscard]] const Model& model() const;
    [[nodiscard]] const BatchTimings& timings() const;

private:
    friend class Session;
    explicit Batch(std::unique_ptr<BatchState> state);
    std::unique_ptr<BatchState> state_;
};

} // namespace flex::engine
