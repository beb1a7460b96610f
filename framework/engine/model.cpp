#include "engine/model.h"

#include <algorithm>
#include <cmath>

#include "engine/kernels/q8_layout.h"
#include "engine/packing.h"

namespace flex::engine {

namespace {

// Far above any model this engine will meet; they keep every later product inside its type.
constexpr std::uint64_t kMaxLayers = 1024;
constexpr std::uint64_t kMaxWidth = 1u << 17;
constexpr std::uint64_t kMaxFfWidth = 1u << 19;
constexpr std::uint64_t kMaxHeads = 1024;
constexpr std::uint64_t kMaxHeadSize = 1024;
constexpr std::uint64_t kMaxContext = 1u << 24;
constexpr std::uint64_t kMaxVocabulary = 1u << 22;

Error unsupported(std::string what) { return fail(ErrorCode::kUnsupported, std::move(what)); }
Error corrupt(std::string what) { return fail(ErrorCode::kCorrupt, std::move(what)); }

} // namespace

/// Fills a Model from a header: shape first, then one need after the other in the order of computing.
class ModelPlanner {
public:
    explicit ModelPlanner(const Gguf& gguf) : gguf_(gguf) {}

    Result<Model> run() {
        FLEX_TRY(read_architecture());
        FLEX_TRY(read_shape());
        FLEX_TRY(read_rope());
        FLEX_TRY(list_tensors());
        return std::move(model_);
    }

private:
    [[nodiscard]] std::string key(const char* name) const { return prefix_ + name; }

    Status read_architecture() {
        FLEX_ASSIGN(const auto architecture, gguf_.string_value("general.architecture"));
        if (!architecture) return corrupt("GGUF: no general.architecture");
        if (*architecture == "llama") {
            model_.shape_.architecture = Architecture::kLlama;
        } else if (*architecture == "qwen3") {
            model_.shape_.architecture = Architecture::kQwen3;
        } else {
            std::string shown;
            for (const char c : architecture->substr(0, 40)) shown += (c >= 0x20 && c < 0x7f) ? c : '?';
            return unsupported("architecture '" + shown + "' is not supported, only llama and qwen3 (dense)");
        }
        prefix_ = std::string(*architecture) + ".";
        FLEX_ASSIGN(const auto name, gguf_.string_value("general.name"));
        model_.name_ = std::string(name.value_or("").substr(0, 256));
        return {};
    }

    /// A count that has to be there, from 1 to `most`.
    Result<std::uint32_t> count(const char* name, std::uint64_t most) {
        FLEX_ASSIGN(const auto value, gguf_.unsigned_value(key(name)));
        if (!value) return corrupt("GGUF: no " + key(name));
        return in_range(name, *value, most);
    }
    Result<std::uint32_t> count_or(const char* name, std::uint64_t otherwise, std::uint64_t most) {
        FLEX_ASSIGN(const auto value, gguf_.unsigned_value(key(name)));
        return in_range(name, value.value_or(otherwise), most);
    }
    Result<std::uint32_t> in_range(const char* name, std::uint64_t value, std::uint64_t most) {
        if (value < 1 || value > most) {
            return corrupt("GGUF: " + key(name) + " is " + std::to_string(value) + ", not within 1.." +
                           std::to_string(most));
        }
        return static_cast<std::uint32_t>(value);
    }

    Status read_shape() {
        ModelShape& s = model_.shape_;
        FLEX_ASSIGN(s.layers, count("block_count", kMaxLayers));
        FLEX_ASSIGN(s.width, count("embedding_length", kMaxWidth));
        FLEX_ASSIGN(s.ff_width, count("feed_forward_length", kMaxFfWidth));
        FLEX_ASSIGN(s.heads, count("attention.head_count", kMaxHeads));
        FLEX_ASSIGN(s.kv_heads, count_or("attention.head_count_kv", s.heads, kMaxHeads));
        FLEX_ASSIGN(s.context, count("context_length", kMaxContext));
        if (s.heads % s.kv_heads != 0) {
            return corrupt("GGUF: " + std::to_string(s.heads) + " heads are not a multiple of " +
                           std::to_string(s.kv_heads) + " KV heads");
        }
        FLEX_ASSIGN(s.head_size, count_or("attention.key_length", s.width / s.heads, kMaxHeadSize));
        FLEX_ASSIGN(const auto value_length, count_or("attention.value_length", s.head_size, kMaxHeadSize));
        if (value_length != s.head_size)
            return unsupported("value heads of another size than key heads are not supported");
        if (s.head_size % 2 != 0) return corrupt("GGUF: odd head size " + std::to_string(s.head_size));
        FLEX_ASSIGN(const auto epsilon, gguf_.float_value(key("attention.layer_norm_rms_epsilon")));
        if (!epsilon) return corrupt("GGUF: no " + key("attention.layer_norm_rms_epsilon"));
        if (!(*epsilon > 0 && *epsilon < 1))
            return corrupt("GGUF: " + key("attention.layer_norm_rms_epsilon") + " is not within 0..1");
        s.rms_epsilon = static_cast<float>(*epsilon);
        FLEX_ASSIGN(const auto experts, gguf_.unsigned_value(key("expert_count")));
        if (experts.value_or(0) != 0) return unsupported("mixture-of-experts models are not supported");
        FLEX_ASSIGN(const auto window, gguf_.unsigned_value(key("attention.sliding_window")));
        if (window.value_or(0) != 0) return unsupported("sliding-window attention is not supported");
        return {};
    }

    Status read_rope() {
        ModelShape& s = model_.shape_;
        FLEX_ASSIGN(s.rope_dims, count_or("rope.dimension_count", s.head_size, s.head_size));
        if (s.rope_dims % 2 != 0) return corrupt("GGUF: odd " + key("rope.dimension_count"));
        FLEX_ASSIGN(const auto base, gguf_.float_value(key("rope.freq_base")));
        s.rope_base = base.value_or(10000.0);
        if (!(s.rope_base > 1 && s.rope_base < 1e12)) return corrupt("GGUF: absurd " + key("rope.freq_base"));
        FLEX_ASSIGN(const auto scaling, gguf_.string_value(key("rope.scaling.type")));
        const std::string_view type = scaling.value_or("none");
        if (type == "none") return {};
        if (type != "linear" && type != "yarn")
            return unsupported(key("rope.scaling.type") + ": only none, linear and yarn are supported");
        FLEX_ASSIGN(s.rope_scale, number_or("rope.scaling.factor", 1, 1, 1e6));
        if (type == "linear") return {};
        s.rope_yarn = true;
        FLEX_ASSIGN(s.yarn_context, count_or("rope.scaling.original_context_length", s.context, kMaxContext));
        FLEX_ASSIGN(s.yarn_fast, number_or("rope.scaling.yarn_beta_fast", 32, 1e-3, 1e6));
        FLEX_ASSIGN(s.yarn_slow, number_or("rope.scaling.yarn_beta_slow", 1, 1e-3, 1e6));
        FLEX_ASSIGN(s.yarn_attention, number_or("rope.scaling.attn_factor", 1, 1e-3, 1e3));
        for (const char* other : {"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
                                  "rope.scaling.yarn_log_multiplier"}) {
            if (gguf_.has(key(other))) return unsupported(key(other) + " is not supported");
        }
        return {};
    }

    Result<double> number_or(const char* name, double otherwise, double least, double most) {
        FLEX_ASSIGN(const auto value, gguf_.float_value(key(name)));
        const double number = value.value_or(otherwise);
        if (!(number >= least && number <= most)) return corrupt("GGUF: absurd " + key(name));
        return number;
    }

    /// Adds a need after checking the tensor against it. A vector has rows = 1 and must be F32.
    Status need(std::string name, Stage stage, std::uint64_t columns, std::uint64_t rows, bool vector,
                Model::Slot slot) {
        const GgufTensor* tensor = gguf_.tensor(name);
        if (tensor == nullptr) return corrupt("GGUF: tensor '" + name + "' is missing");
        const bool shape_fits = tensor->dims[0] == columns && tensor->dims[1] == rows &&
                                tensor->dims[2] == 1 && tensor->dims[3] == 1;
        if (!shape_fits) {
            return corrupt("GGUF: tensor '" + name + "' is " + std::to_string(tensor->dims[0]) + " x " +
                           std::to_string(tensor->dims[1]) + ", expected " + std::to_string(columns) + " x " +
                           std::to_string(rows));
        }
        if (vector && tensor->type != TensorType::kF32)
            return unsupported("tensor '" + name + "' is not F32");
        const std::uint64_t bytes =
            tensor->type == TensorType::kQ8_0 ? packed_bytes(rows, columns) : tensor->bytes;
        slot.need = model_.needs_.size();
        model_.need_by_name_.emplace(name, slot.need);
        model_.needs_.push_back(
            {std::move(name), stage, tensor->type, columns, rows, bytes, tensor->offset, tensor->bytes});
        model_.slots_.push_back(slot);
        return {};
    }

    Status vector(std::string name, Stage stage, std::uint64_t length, Model::Slot slot) {
        return need(std::move(name), stage, length, 1, true, slot);
    }

    Status matrix(std::string name, Stage stage, std::uint64_t columns, std::uint64_t rows,
                  Model::Slot slot) {
        Matrix m;
        m.columns = static_cast<std::uint32_t>(columns);
        m.rows = static_cast<std::uint32_t>(rows);
        FLEX_TRY(need(std::move(name), stage, columns, rows, false, slot));
        m.type = model_.needs_.back().type;
        if (slot.matrix != nullptr) model_.layers_[slot.layer].*slot.matrix = m;
        if (slot.model_matrix != nullptr) model_.*slot.model_matrix = m;
        return {};
    }

    Status list_layer(std::uint32_t i) {
        const ModelShape& s = model_.shape_;
        const Stage stage = 1 + i;
        const std::string blk = "blk." + std::to_string(i) + ".";
        using L = LayerWeights;
        const auto at = [i](const float* L::*member) {
            Model::Slot slot;
            slot.layer = i;
            slot.vector = member;
            return slot;
        };
        const auto in = [i](Matrix L::*member) {
            Model::Slot slot;
            slot.layer = i;
            slot.matrix = member;
            return slot;
        };
        FLEX_TRY(vector(blk + "attn_norm.weight", stage, s.width, at(&L::attention_norm)));
        FLEX_TRY(matrix(blk + "attn_q.weight", stage, s.width, s.q_width(), in(&L::q)));
        FLEX_TRY(matrix(blk + "attn_k.weight", stage, s.width, s.kv_width(), in(&L::k)));
        FLEX_TRY(matrix(blk + "attn_v.weight", stage, s.width, s.kv_width(), in(&L::v)));
        if (s.architecture == Architecture::kQwen3) {
            FLEX_TRY(vector(blk + "attn_q_norm.weight", stage, s.head_size, at(&L::q_norm)));
            FLEX_TRY(vector(blk + "attn_k_norm.weight", stage, s.head_size, at(&L::k_norm)));
        }
        FLEX_TRY(matrix(blk + "attn_output.weight", stage, s.q_width(), s.width, in(&L::attention_output)));
        FLEX_TRY(vector(blk + "ffn_norm.weight", stage, s.width, at(&L::ff_norm)));
        FLEX_TRY(matrix(blk + "ffn_gate.weight", stage, s.width, s.ff_width, in(&L::gate)));
        FLEX_TRY(matrix(blk + "ffn_up.weight", stage, s.width, s.ff_width, in(&L::up)));
        FLEX_TRY(matrix(blk + "ffn_down.weight", stage, s.ff_width, s.width, in(&L::down)));
        return {};
    }

    static Model::Slot of(Matrix Model::*member) {
        Model::Slot slot;
        slot.model_matrix = member;
        return slot;
    }
    static Model::Slot of(const float* Model::*member) {
        Model::Slot slot;
        slot.model_vector = member;
        return slot;
    }

    Status list_tensors() {
        ModelShape& s = model_.shape_;
        const GgufTensor* embedding = gguf_.tensor("token_embd.weight");
        if (embedding == nullptr)
            return corrupt("GGUF: tensor 'token_embd.weight' is missing (a vocabulary-only file?)");
        if (embedding->dims[1] > kMaxVocabulary) return corrupt("GGUF: absurd vocabulary");
        s.vocabulary = static_cast<std::uint32_t>(embedding->dims[1]);
        s.tied_head = gguf_.tensor("output.weight") == nullptr;
        // Every layer needs 9 tensors at least: an absurd layer count ends here, before anything is allocated
        // for it.
        if (gguf_.tensors().size() < 9ull * s.layers) {
            return corrupt("GGUF: " + std::to_string(gguf_.tensors().size()) + " tensors are too few for " +
                           std::to_string(s.layers) + " layers");
        }
        model_.layers_.resize(s.layers);
        model_.stage_begin_.push_back(0);
        FLEX_TRY(matrix("token_embd.weight", 0, s.width, s.vocabulary, of(&Model::embedding_)));
        if (gguf_.tensor("rope_freqs.weight") != nullptr && s.architecture == Architecture::kLlama) {
            FLEX_TRY(vector("rope_freqs.weight", 0, s.rope_dims / 2, of(&Model::rope_factors_)));
            model_.has_rope_factors_ = true;
        }
        for (std::uint32_t i = 0; i < s.layers; ++i) {
            model_.stage_begin_.push_back(model_.needs_.size());
            FLEX_TRY(list_layer(i));
        }
        model_.stage_begin_.push_back(model_.needs_.size());
        FLEX_TRY(vector("output_norm.weight", s.layers + 1, s.width, of(&Model::output_norm_)));
        if (!s.tied_head) {
            FLEX_TRY(matrix("output.weight", s.layers + 1, s.width, s.vocabulary, of(&Model::head_)));
        }
        model_.stage_begin_.push_back(model_.needs_.size());
        model_.bindings_.assign(model_.stages(), 0);
        return refuse_others();
    }

    /// A tensor nobody computes with (a bias, a factor table) would silently change the answers.
    Status refuse_others() {
        for (const GgufTensor& tensor : gguf_.tensors()) {
            if (model_.need_by_name_.contains(std::string(tensor.name))) continue;
            std::string shown;
            for (const char c : tensor.name.substr(0, 80)) shown += (c >= 0x20 && c < 0x7f) ? c : '?';
            return unsupported("tensor '" + shown +
                               "' is not part of the architectures this engine computes");
        }
        return {};
    }

    const Gguf& gguf_;
    std::string prefix_;
    Model model_;
};

double yarn_share(const ModelShape& shape, std::size_t pair) {
    // The dimension whose wave turns `turns` times within the original context.
    const auto dimension = [&](double turns) {
        constexpr double kTwoPi = 6.283185307179586;
        return shape.rope_dims * std::log(shape.yarn_context / (turns * kTwoPi)) /
               (2 * std::log(shape.rope_base));
    };
    const double low = std::max(0.0, std::floor(dimension(shape.yarn_fast)));
    const double high = std::min(shape.rope_dims - 1.0, std::ceil(dimension(shape.yarn_slow)));
    return 1.0 - std::clamp((static_cast<double>(pair) - low) / std::max(0.001, high - low), 0.0, 1.0);
}

Result<Model> Model::plan(const Gguf& gguf) { return ModelPlanner(gguf).run(); }

Result<Model> Model::from_gguf(const Gguf& gguf, std::span<const std::byte> file) {
    if (file.size() != gguf.file_size())
        return fail(ErrorCode::kInvalidArgument, "these are not the bytes that were parsed");
    FLEX_ASSIGN(Model model, plan(gguf));
    for (const TensorNeed& need : model.needs_) {
        const auto stored = file.subspan(need.file_offset, need.file_bytes);
        if (need.type != TensorType::kQ8_0) {
            FLEX_TRY(model.bind(need.name, stored));
            continue;
        }
        model.owned_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(64, need.bytes)));
        if (model.owned_.back() == nullptr) {
            return fail(ErrorCode::kOutOfMemory,
                        "no memory for the " + std::to_string(need.bytes) + " bytes of " + need.name);
        }
        const std::span packed(model.owned_.back().get(), need.bytes);
        FLEX_TRY(read_tensor(need, 0, packed, [&](std::uint64_t offset, std::span<std::byte> out) -> Status {
            std::copy_n(stored.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
            return {};
        }));
        FLEX_TRY(model.bind(need.name, packed));
    }
    return model;
}

std::span<const TensorNeed> Model::tensors(Stage stage) const {
    if (stage >= stages()) return {};
    return std::span(needs_).subspan(stage_begin_[stage], stage_begin_[stage + 1] - stage_begin_[stage]);
}

void Model::point(const Slot& slot, const std::byte* data) {
    const auto* floats = reinterpret_cast<const float*>(data);
    if (slot.matrix != nullptr) (layers_[slot.layer].*slot.matrix).data = data;
    if (slot.vector != nullptr) layers_[slot.layer].*slot.vector = floats;
    if (slot.model_matrix != nullptr) (this->*slot.model_matrix).data = data;
    if (slot.model_vector != nullptr) this->*slot.model_vector = floats;
}

const std::byte* Model::pointee(const Slot& slot) const {
    if (slot.matrix != nullptr) return (layers_[slot.layer].*slot.matrix).data;
    if (slot.model_matrix != nullptr) return (this->*slot.model_matrix).data;
    const float* floats =
        slot.vector != nullptr ? layers_[slot.layer].*slot.vector : this->*slot.model_vector;
    return reinterpret_cast<const std::byte*>(floats);
}

Status Model::bind(std::string_view name, std::span<const std::byte> bytes) {
    const auto found = need_by_name_.find(std::string(name));
    if (found == need_by_name_.end()) return fail(ErrorCode::kNotFound, "the model has no such tensor");
    const TensorNeed& need = needs_[found->second];
    if (bytes.size() != need.bytes) {
        return fail(ErrorCode::kInvalidArgument, "tensor '" + need.name + "' is " +
                                                     std::to_string(need.bytes) + " bytes, not " +
                                                     std::to_string(bytes.size()));
    }
    const std::uintptr_t alignment = need.type == TensorType::kQ8_0  ? 64
                                     : need.type == TensorType::kF32 ? 4
                                                                     : 2;
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignment != 0) {
        return fail(ErrorCode::kInvalidArgument, "tensor '" + need.name + "' is not aligned in memory");
    }
    point(slots_[found->second], bytes.data());
    ++bindings_[need.stage];
    return {};
}

void Model::unbind(Stage stage) {
    if (stage >= stages()) return;
    for (std::size_t i = stage_begin_[stage]; i < stage_begin_[stage + 1]; ++i) point(slots_[i], nullptr);
    ++bindings_[stage];
}

std::span<const std::byte> Model::bytes_of(std::size_t tensor) const {
    const std::byte* data = pointee(slots_[tensor]);
    return {data, data == nullptr ? 0 : static_cast<std::size_t>(needs_[tensor].bytes)};
}

bool Model::bound(Stage stage) const {
    if (stage >= stages()) return false;
    for (std::size_t i = stage_begin_[stage]; i < stage_begin_[stage + 1]; ++i) {
        if (pointee(slots_[i]) == nullptr) return false;
    }
    return true;
}

} // namespace flex::engine
