#include "engine/session.h"

#include <algorithm>
#include <chrono>

#include "engine/forward.h"

namespace flex::engine {

namespace {

constexpr std::uint32_t kDefaultContext = 4096;
constexpr std::uint32_t kMaxBatch = 4096;

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
        return fail(ErrorCode::kOutOfMemory, "no memory for a session of " +
                                                 std::to_string((bytes_ >> 20) + 1) +
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

Status allocate_all(SessionState& s);

} // namespace

Session::Session(std::unique_ptr<SessionState> state) : state_(std::move(state)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::create(const Model& model, ThreadPool& pool,
                                                 SessionOptions options) {
    const ModelShape& shape = model.shape();
    if (options.context == 0) options.context = std::min(shape.context, kDefaultContext);
    if (options.context > shape.context) {
        return fail(ErrorCode::kInvalidArgument, "a context of " + std::to_string(options.context) +
                                                     " tokens is more than the model's " +
                                                     std::to_string(shape.context));
    }
    options.batch = std::clamp(options.batch, 1u, std::min(options.context, kMaxBatch));
    auto state = std::make_unique<SessionState>(model, pool, options);
    state->kernels = options.kernels != nullptr ? options.kernels : select_kernels();
    FLEX_TRY(allocate_all(*state));
    return std::unique_ptr<Session>(new Session(std::move(state)));
}

namespace {

Status allocate_all(SessionState& s) {
    const ModelShape& shape = s.model.shape();
    const std::uint64_t T = s.options.batch, threads = s.pool.threads();
    const std::uint64_t columns = std::max({shape.width, shape.q_width(), shape.ff_width});
    Allocator make;
    s.kv.head_stride = std::uint64_t{s.options.context} * shape.head_size;
    s.kv.layer_stride = shape.kv_heads * s.kv.head_stride;
    s.kv.keys = make.array<float>(shape.layers * s.kv.layer_stride);
    s.kv.values = make.array<float>(shape.layers * s.kv.layer_stride);
    Workspace& w = s.work;
    w.x = make.array<float>(T * shape.width);
    w.h = make.array<float>(T * shape.width);
    w.q = make.array<float>(T * shape.q_width());
    w.k = make.array<float>(T * shape.kv_width());
    w.v = make.array<float>(T * shape.kv_width());
    w.attention = make.array<float>(T * shape.q_width());
    w.gate = make.array<float>(T * shape.ff_width);
    w.up = make.array<float>(T * shape.ff_width);
    w.cos = make.array<float>(T * shape.rope_dims / 2);
    w.sin = make.array<float>(T * shape.rope_dims / 2);
    if (uses(s.model, TensorType::kQ8_0)) {
        w.input.q8 = make.array<std::int8_t>(T * columns);
        w.input.q8_scale = make.array<float>(T * columns / 32);
    }
    if (uses(s.model, TensorType::kF16)) w.input.half = make.array<float>(T * columns);
    if (uses(s.model, TensorType::kBF16)) w.input.bhalf = make.array<float>(T * columns);
    w.scores = make.array<float>(threads * s.options.context);
    w.kernel_bytes = (scratch_bytes(columns) + 63) / 64 * 64;
    w.kernel = make.array<std::byte>(threads * w.kernel_bytes);
    return make.status();
}

Status check_call(const SessionState& s, std::span<const TokenId> tokens) {
    if (tokens.empty()) return fail(ErrorCode::kInvalidArgument, "no tokens to compute");
    const std::uint32_t vocabulary = s.model.shape().vocabulary;
    for (const TokenId token : tokens) {
        if (token >= vocabulary) {
            return fail(ErrorCode::kInvalidArgument, "token " + std::to_string(token) +
                                                         " is outside the vocabulary of " +
                                                         std::to_string(vocabulary));
        }
    }
    if (tokens.size() > s.options.context - s.position) {
        return fail(ErrorCode::kContextFull,
                    std::to_string(s.position + tokens.size()) + " tokens do not fit in the context of " +
                        std::to_string(s.options.context) + "; shorten the prompt or use a larger context");
    }
    return {};
}

/// The whole of `tokens` in passes of at most `batch`; moves the position only when every pass succeeded.
Status compute(SessionState& s, std::span<const TokenId> tokens, std::span<const std::uint32_t> rows,
               float* logits) {
    FLEX_TRY(check_call(s, tokens));
    const std::uint32_t start = s.position;
    std::vector<std::uint32_t> local;
    for (std::size_t done = 0; done < tokens.size();) {
        const std::size_t count = std::min<std::size_t>(s.options.batch, tokens.size() - done);
        local.clear();
        while (!rows.empty() && rows.front() < done + count) {
            local.push_back(static_cast<std::uint32_t>(rows.front() - done));
            rows = rows.subspan(1);
        }
        if (const Status status = s.forward(tokens.subspan(done, count), local, logits); !status.ok()) {
            s.position = start;
            return status.error();
        }
        logits += local.size() * s.model.shape().vocabulary;
        done += count;
        s.position += static_cast<std::uint32_t>(count);
    }
    return {};
}

/// Adds the time it lives to a total.
class Stopwatch {
public:
    explicit Stopwatch(std::uint64_t& total) : total_(total), start_(std::chrono::steady_clock::now()) {}
    ~Stopwatch() {
        const auto spent = std::chrono::steady_clock::now() - start_;
        total_ +=
            static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

private:
    std::uint64_t& total_;
    std::chrono::steady_clock::time_point start_;
};

Result<std::span<const float>> after_last(SessionState& s, std::span<const TokenId> tokens) {
    s.logits.resize(s.model.shape().vocabulary);
    const std::uint32_t last = tokens.empty() ? 0 : static_cast<std::uint32_t>(tokens.size() - 1);
    FLEX_TRY(compute(s, tokens, std::span(&last, 1), s.logits.data()));
    return std::span<const float>(s.logits);
}

} // namespace

Result<std::span<const float>> Session::prefill(std::span<const TokenId> tokens) {
    const Stopwatch watch(state_->timings.prefill_ns);
    auto out = after_last(*state_, tokens);
    if (out.ok()) state_->timings.prefill_tokens += tokens.size();
    return out;
}

Result<std::span<const float>> Session::decode(TokenId token) {
    const Stopwatch watch(state_->timings.decode_ns);
    auto out = after_last(*state_, std::span(&token, 1));
    if (out.ok()) ++state_->timings.decode_tokens;
    return out;
}

Result<std::vector<float>> Session::logits(std::span<const TokenId> tokens,
                                           std::span<const std::uint32_t> rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] >= tokens.size() || (i > 0 && rows[i] <= rows[i - 1])) {
            return fail(ErrorCode::kInvalidArgument, "position " + std::to_string(rows[i]) +
                                                         " is not a rising position within " +
                                                         std::to_string(tokens.size()) + " tokens");
        }
    }
    const Stopwatch watch(state_->timings.prefill_ns);
    std::vector<float> out(rows.size() * state_->model.shape().vocabulary);
    FLEX_TRY(compute(*state_, tokens, rows, out.data()));
    state_->timings.prefill_tokens += tokens.size();
    return out;
}

std::uint32_t Session::position() const { return state_->position; }
std::uint32_t Session::context() const { return state_->options.context; }
void Session::rewind(std::uint32_t position) { state_->position = std::min(position, state_->position); }
void Session::cancel() { state_->cancelled.store(true); }
void Session::clear_cancel() { state_->cancelled.store(false); }
const Timings& Session::timings() const { return state_->timings; }
void Session::reset_timings() { state_->timings = {}; }

} // namespace flex::engine
