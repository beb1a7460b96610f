#include "engine/session.h"

#include <algorithm>
#include <chrono>

#include "engine/batch.h"
#include "engine/forward.h"

namespace flex::engine {

Session::Session(std::unique_ptr<SessionState> state) : state_(std::move(state)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::create(const Model& model, ThreadPool& pool,
                                                 SessionOptions options) {
    FLEX_ASSIGN(const KvLayout layout, KvLayout::of(model.shape(), options.kv));
    const std::uint32_t most = options.context != 0 ? options.context : model.shape().context;
    const BatchOptions batch_options{std::min(options.batch, most),
                                     options.context,
                                     options.gate,
                                     options.kernels,
                                     options.npu,
                                     options.npu_use};
    FLEX_ASSIGN(auto batch, Batch::create(model, pool, batch_options));
    const std::size_t blocks = (batch->context() + kKvBlockTokens - 1) / kKvBlockTokens;
    return create(std::move(batch), std::make_shared<KvPool>(layout, blocks));
}

Result<std::unique_ptr<Session>> Session::create(std::shared_ptr<Batch> batch, std::shared_ptr<KvPool> kv,
                                                 std::uint32_t context) {
    if (context == 0) context = batch->context();
    if (context > batch->context()) {
        return fail(ErrorCode::kInvalidArgument, "a context of " + std::to_string(context) +
                                                     " tokens is more than the batch's " +
                                                     std::to_string(batch->context()));
    }
    auto state = std::make_unique<SessionState>(std::move(batch), std::move(kv), context);
    return std::unique_ptr<Session>(new Session(std::move(state)));
}

Status SessionState::check(std::span<const TokenId> tokens) const {
    if (tokens.empty()) return fail(ErrorCode::kInvalidArgument, "no tokens to compute");
    const std::uint32_t vocabulary = batch->model().shape().vocabulary;
    for (const TokenId token : tokens) {
        if (token >= vocabulary) {
            return fail(ErrorCode::kInvalidArgument, "token " + std::to_string(token) +
                                                         " is outside the vocabulary of " +
                                                         std::to_string(vocabulary));
        }
    }
    if (tokens.size() > context - position) {
        return fail(ErrorCode::kContextFull,
                    std::to_string(position + tokens.size()) + " tokens do not fit in the context of " +
                        std::to_string(context) + "; shorten the prompt or use a larger context");
    }
    return {};
}

Status SessionState::make_room(std::size_t count) {
    const std::size_t first = position / kKvBlockTokens;
    const std::size_t end = (position + count + kKvBlockTokens - 1) / kKvBlockTokens;
    for (std::size_t i = first; i < end; ++i) {
        if (i < blocks.size() && blocks[i].alone()) continue;
        FLEX_ASSIGN(KvBlockRef block, kv->take());
        if (i == blocks.size()) {
            blocks.push_back(std::move(block));
        } else { // others go on reading the old one
            std::copy_n(blocks[i].data(), kv->layout().block_bytes(), block.data());
            blocks[i] = std::move(block);
        }
    }
    return {};
}

void SessionState::rewind(std::uint32_t to) {
    position = std::min(position, to);
    blocks.resize(std::min<std::size_t>(blocks.size(), (position + kKvBlockTokens - 1) / kKvBlockTokens));
}

namespace {

/// The whole of `tokens` in passes of at most as many as the batch takes; moves the position only when every
/// pass succeeded.
Status compute(SessionState& s, BatchState& batch, std::span<const TokenId> tokens,
               std::span<const std::uint32_t> wanted, float* logits) {
    FLEX_TRY(s.check(tokens));
    const std::uint32_t start = s.position;
    const BatchTimings before = batch.timings;
    std::vector<std::uint32_t> local;
    Status status;
    for (std::size_t done = 0; done < tokens.size() && status.ok();) {
        const std::size_t count = std::min<std::size_t>(batch.options.rows, tokens.size() - done);
        local.clear();
        while (!wanted.empty() && wanted.front() < done + count) {
            local.push_back(static_cast<std::uint32_t>(wanted.front() - done));
            wanted = wanted.subspan(1);
        }
        status = s.make_room(count);
        if (!status.ok()) break;
        batch.rows.clear();
        for (std::size_t i = 0; i < count; ++i)
            batch.rows.push_back({&s, tokens[done + i], s.position + static_cast<std::uint32_t>(i)});
        status = batch.forward(batch.rows, local, logits);
        logits += local.size() * batch.model.shape().vocabulary;
        done += count;
        s.position += static_cast<std::uint32_t>(count);
    }
    s.timings.attention_ns += batch.timings.attention_ns - before.attention_ns;
    s.timings.weights_wait_ns += batch.timings.weights_wait_ns - before.weights_wait_ns;
    if (!status.ok()) s.rewind(start);
    return status;
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

Result<std::span<const float>> after_last(SessionState& s, BatchState& batch,
                                          std::span<const TokenId> tokens) {
    s.logits.resize(batch.model.shape().vocabulary);
    const std::uint32_t last = tokens.empty() ? 0 : static_cast<std::uint32_t>(tokens.size() - 1);
    FLEX_TRY(compute(s, batch, tokens, std::span(&last, 1), s.logits.data()));
    return std::span<const float>(s.logits);
}

} // namespace

Result<std::span<const float>> Session::prefill(std::span<const TokenId> tokens) {
    const Stopwatch watch(state_->timings.prefill_ns);
    auto out = after_last(*state_, *state_->batch->state_, tokens);
    if (out.ok()) state_->timings.prefill_tokens += tokens.size();
    return out;
}

Result<std::span<const float>> Session::decode(TokenId token) {
    const Stopwatch watch(state_->timings.decode_ns);
    auto out = after_last(*state_, *state_->batch->state_, std::span(&token, 1));
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
    std::vector<float> out(rows.size() * state_->batch->model().shape().vocabulary);
    FLEX_TRY(compute(*state_, *state_->batch->state_, tokens, rows, out.data()));
    state_->timings.prefill_tokens += tokens.size();
    return out;
}

std::uint32_t Session::position() const { return state_->position; }
std::uint32_t Session::context() const { return state_->context; }
void Session::rewind(std::uint32_t position) { state_->rewind(position); }
void Session::share_prefix(const Session& other, std::uint32_t tokens) {
    const std::size_t blocks = (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
    state_->blocks.assign(other.state_->blocks.begin(),
                          other.state_->blocks.begin() + static_cast<std::ptrdiff_t>(blocks));
    state_->position = tokens;
}
std::size_t Session::blocks() const { return state_->blocks.size(); }
KvBlockRef Session::block(std::size_t index) const { return state_->blocks[index]; }
void Session::adopt(std::size_t index, KvBlockRef block, std::uint32_t position) {
    state_->blocks.resize(index + 1);
    state_->blocks[index] = std::move(block);
    state_->position = position;
}
void Session::cancel() { state_->cancelled.store(true); }
void Session::clear_cancel() { state_->cancelled.store(false); }
const Timings& Session::timings() const { return state_->timings; }
const BatchTimings& Session::batch_timings() const { return state_->batch->timings(); }
void Session::reset_timings() { state_->timings = {}; }

} // namespace flex::engine
