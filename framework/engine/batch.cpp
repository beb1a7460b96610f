#include "engine/batch.h"

#include <algorithm>

#include "engine/attention.h"
#include "engine/forward.h"
#include "engine/kernels/exact.h"
#include "engine/npu_forward.h"

namespace flex::engine {

namespace {

constexpr std::uint32_t kDefaultContext = 4096;
constexpr std::uint32_t kMaxRows = 4096;

/// Allocates, remembering how much was asked for and whether all of it was given.
class Allocator {
public:
    template <class T> Buffer<T> array(std::uint64_t count) {
        bytes_ += count * sizeof(T);
        Buffer<T> buffer = allocate<T>(count);
        failed_ |= buffer == nullptr;
        return buffer;
    }
    [[nodiscard]] Status status() const {
        if (!failed_) return {};
        return fail(ErrorCode::kOutOfMemory,
                    "no memory to compute with: " + std::to_string((bytes_ >> 20) + 1) +
                        " MiB; use a smaller context or batch");
    }

private:
    std::uint64_t bytes_ = 0;
    bool failed_ = false;
};

bool uses(const Model& model, TensorType type) {
    return std::any_of(model.tensors().begin(), model.tensors().end(),
                       [&](const TensorNeed& need) { return need.type == type && need.rows > 1; });
}

/// The part that an NPU reaches, too: all or none, so that it can be one region.
Status allocate_shared(BatchState& s) {
    const ModelShape& shape = s.model.shape();
    Workspace& w = s.work;
    const std::pair<float**, std::uint64_t> arrays[] = {
        {&w.x, shape.width},          {&w.h, shape.width},      {&w.q, shape.q_width()},
        {&w.k, shape.kv_width()},     {&w.v, shape.kv_width()}, {&w.attention, shape.q_width()},
        {&w.gate, shape.ff_width},    {&w.up, shape.ff_width},  {&w.cos, shape.rope_dims / 2},
        {&w.sin, shape.rope_dims / 2}};
    const auto bytes_of = [&](std::uint64_t columns) {
        return (s.options.rows * columns * sizeof(float) + 63) / 64 * 64;
    };
    for (const auto& [array, columns] : arrays) w.shared_bytes += bytes_of(columns);
    if (npu::Npu* npu = s.options.npu; npu != nullptr) {
        FLEX_ASSIGN(const auto memory, npu->allocate(w.shared_bytes));
        w.shared = {memory.data(), [npu, memory](std::byte*) { npu->free(memory); }};
    } else {
        w.shared = {allocate<std::byte>(w.shared_bytes).release(), Free()};
    }
    if (w.shared == nullptr) {
        return fail(ErrorCode::kOutOfMemory,
                    "no memory to compute with: " + std::to_string((w.shared_bytes >> 20) + 1) +
                        " MiB; use a smaller batch");
    }
    std::uint64_t offset = 0;
    for (const auto& [array, columns] : arrays) {
        *array = reinterpret_cast<float*>(w.shared.get() + offset);
        offset += bytes_of(columns);
    }
    return {};
}

Status allocate_all(BatchState& s) {
    const ModelShape& shape = s.model.shape();
    const std::uint64_t T = s.options.rows, threads = s.pool.threads();
    const std::uint64_t columns = std::max({shape.width, shape.q_width(), shape.ff_width});
    Allocator make;
    Workspace& w = s.work;
    FLEX_TRY(allocate_shared(s));
    if (uses(s.model, TensorType::kQ8_0)) {
        w.input.q8 = make.array<Q8Block>(T * columns / kQ8Block);
    }
    if (uses(s.model, TensorType::kF16)) w.input.half = make.array<float>(T * columns);
    if (uses(s.model, TensorType::kBF16)) w.input.bhalf = make.array<float>(T * columns);
    w.scores_stride = (s.options.context + kKvBlockTokens - 1) / kKvBlockTokens * kKvBlockTokens;
    w.scores = make.array<float>(threads * Attention::kTileRows * w.scores_stride);
    w.kv_part = make.array<float>(threads * kKvBlockTokens * shape.head_size);
    w.kernel_bytes = (scratch_bytes(columns) + 63) / 64 * 64;
    w.kernel = make.array<std::byte>(threads * w.kernel_bytes);
    return make.status();
}

} // namespace

BatchState::BatchState(const Model& m, ThreadPool& p, const BatchOptions& o)
    : model(m), pool(p), options(o), rope_positions(o.rows, ~0u), first_reads(m.shape().layers + 1) {}
BatchState::~BatchState() = default;

Batch::Batch(std::unique_ptr<BatchState> state) : state_(std::move(state)) {}
Batch::~Batch() = default;

Result<std::shared_ptr<Batch>> Batch::create(const Model& model, ThreadPool& pool, BatchOptions options) {
    const ModelShape& shape = model.shape();
    if (options.context == 0) options.context = std::min(shape.context, kDefaultContext);
    if (options.context > shape.context) {
        return fail(ErrorCode::kInvalidArgument, "a context of " + std::to_string(options.context) +
                                                     " tokens is more than the model's " +
                                                     std::to_string(shape.context));
    }
    options.rows = std::clamp(options.rows, 1u, kMaxRows);
    if (options.npu != nullptr && !NpuForward::supports(model)) options.npu = nullptr;
    auto state = std::make_unique<BatchState>(model, pool, options);
    state->kernels = options.kernels != nullptr ? options.kernels : select_kernels();
    FLEX_TRY(allocate_all(*state));
    if (options.npu != nullptr) {
        FLEX_ASSIGN(state->npu, NpuForward::create(*state));
    }
    return std::shared_ptr<Batch>(new Batch(std::move(state)));
}

Status Batch::run(std::span<BatchPart> parts) {
    BatchState& s = *state_;
    s.rows.clear();
    std::vector<std::uint32_t> wanted;
    for (BatchPart& part : parts) {
        SessionState& session = *part.session->state_;
        part.logits = {};
        part.status = session.check(part.tokens);
        if (part.status.ok() && s.rows.size() + part.tokens.size() > s.options.rows) {
            return fail(ErrorCode::kInvalidArgument,
                        "more than " + std::to_string(s.options.rows) + " tokens in one pass");
        }
        if (part.status.ok()) part.status = session.make_room(part.tokens.size());
        if (!part.status.ok()) continue;
        std::uint32_t position = session.position;
        for (const TokenId token : part.tokens) s.rows.push_back({&session, token, position++});
        if (part.wants_logits) wanted.push_back(static_cast<std::uint32_t>(s.rows.size() - 1));
    }
    if (s.rows.empty()) return {};
    const std::size_t vocabulary = s.model.shape().vocabulary;
    s.logits.resize(std::max(s.logits.size(), wanted.size() * vocabulary));
    const Status computed = s.forward(s.rows, wanted, s.logits.data());
    if (!computed.ok() && computed.error().code != ErrorCode::kCancelled) return computed.error();
    const float* logits = s.logits.data();
    for (BatchPart& part : parts) {
        if (!part.status.ok()) continue;
        SessionState& session = *part.session->state_;
        if (part.wants_logits) part.logits = {std::exchange(logits, logits + vocabulary), vocabulary};
        if (!computed.ok() || session.cancelled.load(std::memory_order_relaxed)) {
            part.status = fail(ErrorCode::kCancelled, "cancelled");
            part.logits = {};
        } else {
            session.position += static_cast<std::uint32_t>(part.tokens.size());
        }
    }
    return {};
}

Result<NpuUse> npu_use(std::string_view name) {
    if (name == "auto") return NpuUse::kAuto;
    if (name == "on") return NpuUse::kOn;
    if (name == "off") return NpuUse::kOff;
    return fail(ErrorCode::kInvalidArgument,
                "the NPU can be on, off or auto, not \"" + std::string(name) + "\"");
}

void Batch::use_npu(NpuUse use) { state_->options.npu_use = use; }
std::uint32_t Batch::rows() const { return state_->options.rows; }
std::uint32_t Batch::context() const { return state_->options.context; }
const Model& Batch::model() const { return state_->model; }
const BatchTimings& Batch::timings() const { return state_->timings; }

} // namespace flex::engine
