// What a model is (its shape) and where its weights are (pointers that others fill in, layer by layer if they
// like).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/gguf.h"

namespace flex::engine {

enum class Architecture : std::uint8_t { kLlama, kQwen3 };

/// The numbers of the model. All are checked: non-zero, capped, consistent with each other and with every
/// tensor.
struct ModelShape {
    Architecture architecture = Architecture::kLlama;
    std::uint32_t layers = 0;
    std::uint32_t width = 0;    ///< of the residual stream
    std::uint32_t ff_width = 0; ///< of the feed-forward part
    std::uint32_t heads = 0;    ///< query heads; a multiple of kv_heads
    std::uint32_t kv_heads = 0;
    std::uint32_t head_size = 0; ///< even; heads * head_size need not equal width
    std::uint32_t rope_dims = 0; ///< even, <= head_size
    std::uint32_t context = 0;   ///< tokens the model was trained for
    std::uint32_t vocabulary = 0;
    double rope_base = 0;
    double rope_scale = 1; ///< scaling: angles are divided by it; with YaRN only those of slow dimensions
    bool rope_yarn = false;
    std::uint32_t yarn_context = 0; ///< of the model before it was stretched
    double yarn_fast = 32,
           yarn_slow = 1; ///< turns within yarn_context from which on a dimension is kept, or stretched whole
    double yarn_attention = 1; ///< cosine and sine times this and 0.1 ln(rope_scale) + 1
    float rms_epsilon = 0;
    bool tied_head = false; ///< no output.weight: the embedding is the head

    [[nodiscard]] std::uint32_t q_width() const { return heads * head_size; }
    [[nodiscard]] std::uint32_t kv_width() const { return kv_heads * head_size; }
};

/// YaRN (arXiv 2309.00071, section 3.2): how much of pair `pair` keeps its own angle, 0..1; the rest is
/// divided by rope_scale.
[[nodiscard]] double yarn_share(const ModelShape& shape, std::size_t pair);

/// A stage is a unit of loading and of computing, in this order: the embedding (stage 0), layer i (stage 1 +
/// i), the head (stage layers + 1: final norm and, when not tied, the output matrix).
using Stage = std::uint32_t;

/// One weight the model needs, in the order it will be needed.
struct TensorNeed {
    std::string name;
    Stage stage = 0;
    TensorType type = TensorType::kF32;
    std::uint64_t columns = 0; ///< contiguous dimension: inputs of a matrix, length of a vector
    std::uint64_t rows = 1;    ///< outputs of a matrix; 1 for a vector
    std::uint64_t bytes = 0;   ///< in memory: Q8_0 packed (kernels/q8_layout.h), the others as in the file
    std::uint64_t file_offset = 0; ///< in the GGUF it was planned from
    std::uint64_t file_bytes = 0;
};

/// A matrix of weights: Q8_0 in packed panels (kernels/q8_layout.h), the others row-major. Not owned.
struct Matrix {
    TensorType type = TensorType::kF32;
    std::uint32_t rows = 0;
    std::uint32_t columns = 0;
    const std::byte* data = nullptr;
};

struct LayerWeights {
    const float* attention_norm = nullptr; // [width]
    Matrix q;                              // [q_width, width]
    Matrix k;                              // [kv_width, width]
    Matrix v;                              // [kv_width, width]
    Matrix attention_output;               // [width, q_width]
    const float* q_norm = nullptr;         // [head_size], qwen3 only
    const float* k_norm = nullptr;         // [head_size], qwen3 only
    const float* ff_norm = nullptr;        // [width]
    Matrix gate;                           // [ff_width, width]
    Matrix up;                             // [ff_width, width]
    Matrix down;                           // [width, ff_width]
};

struct Free {
    void operator()(void* p) const { std::free(p); }
};

/// Shape plus weight pointers. plan() needs only the GGUF header; weights are bound later and stay where they
/// are (no copy): the caller owns the bytes and keeps them unchanged while they are bound and in use.
/// Movable. Not synchronised: bind and unbind a stage's tensors only while no session computes that stage
/// (see WeightGate).
class Model {
public:
    /// Checks the hyper-parameters and that exactly the tensors of the architecture are there with the right
    /// shapes and types. Copies what it needs: `gguf` may go afterwards. Errors: kUnsupported (names the
    /// architecture, key or tensor), kCorrupt.
    static Result<Model> plan(const Gguf& gguf);

    /// plan() and bind every tensor of `file` (a whole GGUF file, e.g. mmap'ed, which must outlive the
    /// model): in place, but Q8_0 in packed copies that the model owns. Errors: those of plan(),
    /// kOutOfMemory.
    static Result<Model> from_gguf(const Gguf& gguf, std::span<const std::byte> file);

    [[nodiscard]] const ModelShape& shape() const { return shape_; }
    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] Stage stages() const { return shape_.layers + 2; }

    /// Every tensor, ordered by stage.
    [[nodiscard]] std::span<const TensorNeed> tensors() const { return needs_; }
    /// The tensors of one stage (a part of tensors()).
    [[nodiscard]] std::span<const TensorNeed> tensors(Stage stage) const;

    /// `bytes` must be exactly TensorNeed::bytes long and aligned to 64 (Q8_0), 4 (F32) or 2 bytes (the
    /// others). Errors: kNotFound, kInvalidArgument.
    Status bind(std::string_view name, std::span<const std::byte> bytes);
    /// Forgets the pointers of a stage, so that computing it is refused until it is bound again.
    void unbind(Stage stage);
    [[nodiscard]] bool bound(Stage stage) const;
    /// What tensors()[tensor] is bound to; empty when it is not.
    [[nodiscard]] std::span<const std::byte> bytes_of(std::size_t tensor) const;
    /// Another number whenever a tensor of the stage was bound, or the stage unbound: its memory may be
    /// another.
    [[nodiscard]] std::uint64_t binding(Stage stage) const { return bindings_[stage]; }
    /// Index in tensors() of the first of a stage; stages(): of the end.
    [[nodiscard]] std::size_t first_tensor(Stage stage) const { return stage_begin_[stage]; }

    // For the forward pass. With a tied head, head() is the embedding matrix.
    [[nodiscard]] const Matrix& embedding() const { return embedding_; } // [vocabulary, width]
    [[nodiscard]] const LayerWeights& layer(std::uint32_t i) const { return layers_[i]; }
    [[nodiscard]] const float* output_norm() const { return output_norm_; } // [width]
    [[nodiscard]] const Matrix& head() const {
        return shape_.tied_head ? embedding_ : head_;
    }                                                                         // [vocabulary, width]
    [[nodiscard]] const float* rope_factors() const { return rope_factors_; } // [rope_dims / 2] or null
    [[nodiscard]] bool wants_rope_factors() const { return has_rope_factors_; }

private:
    friend class ModelPlanner;
    struct Slot { ///< where the pointer of one tensor goes
        std::size_t need = 0;
        std::uint32_t layer = 0;
        Matrix LayerWeights::*matrix = nullptr;
        const float* LayerWeights::*vector = nullptr;
        Matrix Model::*model_matrix = nullptr;
        const float* Model::*model_vector = nullptr;
    };
    void point(const Slot& slot, const std::byte* data);
    [[nodiscard]] const std::byte* pointee(const Slot& slot) const;

    ModelShape shape_;
    std::string name_;
    std::vector<TensorNeed> needs_;
    std::vector<Slot> slots_;              // parallel to needs_
    std::vector<std::size_t> stage_begin_; // [stages + 1] into needs_
    std::vector<std::uint64_t> bindings_;  // [stages]
    std::unordered_map<std::string, std::size_t> need_by_name_;
    std::vector<LayerWeights> layers_;
    Matrix embedding_, head_;
    const float* output_norm_ = nullptr;
    const float* rope_factors_ = nullptr;
    bool has_rope_factors_ = false;
    std::vector<std::unique_ptr<std::byte[], Free>> owned_; // packed copies, see from_gguf()
};

/// Lets weights arrive while the model computes. A session calls acquire(s) before it touches stage s and
/// release(s) when it is done with it for this pass, stages in rising order, always from the thread that
/// called prefill/decode. When acquire returns success the tensors of the stage are bound and stay so until
/// release. With a tied head, stage 0 is released only after the last stage. Sessions without a gate expect
/// everything bound.
class WeightGate {
public:
    virtual ~WeightGate() = default;
    virtual Status acquire(Stage stage) = 0;
    virtual void release(Stage stage) = 0;
    /// Whether acquire() would return at once.
    [[nodiscard]] virtual bool ready(Stage) const { return true; }
};

} // namespace flex::engine
