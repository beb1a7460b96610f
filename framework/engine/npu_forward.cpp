// The forward pass in jobs for an NPU. T: tokens of this pass. Shapes are those of forward.cpp, step by step.
#include "engine/npu_forward.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <utility>

namespace flex::engine {

namespace {

using std::chrono::milliseconds;

constexpr std::uint32_t kFewTokens = 8;
// Every job's end wakes a processor, and in the secure world that is a way through three exception levels and
// back: layers are put together to jobs of some 10 ms of a small board's memory (256 MiB), or 30 ms of this
// model of an NPU. A recall waits for the two that are under way, and grants 100 ms.
constexpr double kBytesPerJob = 256 << 20, kMacsPerJob = 6.5e9;
// The next layer needs some, too.
constexpr std::size_t kRegionsEnough = FLEX_NPU_REGIONS_MAX / 2, kCommandsEnough = npu::kJobCommands / 2;
constexpr milliseconds kBusyPause(50), kFailurePause(1000), kLongestPause(60'000);

std::uint64_t since(std::chrono::steady_clock::time_point start) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
            .count());
}

} // namespace

bool NpuForward::chosen(std::size_t tokens, std::size_t wanted) {
    if (s_.options.npu_use == NpuUse::kOff || Clock::now() < not_before_) return false;
    return s_.options.npu_use == NpuUse::kOn || cost_.npu_is_faster(work_of(tokens, wanted));
}

PassWork NpuForward::work_of(std::size_t tokens, std::size_t wanted) const {
    PassWork work;
    work.macs =
        layers_work_.macs * static_cast<double>(tokens) + head_work_.macs * static_cast<double>(wanted);
    work.bytes = layers_work_.bytes + (wanted > 0 ? head_work_.bytes : 0);
    work.few = tokens <= kFewTokens;
    return work;
}

void NpuForward::measured_cpu(std::size_t tokens, std::size_t wanted, std::uint64_t nanoseconds) {
    cost_.measured(NpuCost::kCpu, work_of(tokens, wanted), nanoseconds);
}

Result<NpuForward::Progress> NpuForward::run(std::span<const Row> rows, std::span<const std::uint32_t> wanted,
                                             float* logits) {
    const auto start = Clock::now();
    const std::uint64_t waited = s_.timings.weights_wait_ns;
    layers_done_ = 0;
    npu_failed_ = leave_ = false;
    if (const Status begun = begin(); !begun) {
        if (npu_failed_) failed(begun.error());
        return Progress{};
    }
    cost_.advertise(npu_.info());
    Status status = compute(rows, wanted, logits);
    // Whatever happened: the NPU is done with the pass's memory before anybody else touches it.
    if (Status ended = finish_all(); status.ok()) status = std::move(ended);
    let_go();
    if (begun_) npu_.end(leave_);
    begun_ = false;
    const std::uint64_t spent = since(start) - (s_.timings.weights_wait_ns - waited);
    s_.timings.npu_ns += spent;
    if (npu_failed_) {
        failed(status.error());
        return Progress{};
    }
    if (leave_) return Progress{false, layers_done_};
    if (!status.ok()) return status.error();
    ++s_.timings.npu_passes;
    cost_.measured(NpuCost::kNpu, work_of(rows.size(), wanted.size()), spent);
    pause_ = {};
    return Progress{true, layers_done_};
}

/// For a while the CPU computes. One line a failure would drown everything else: the first, the second, the
/// fourth …
void NpuForward::failed(const Error& error) {
    pause_ = std::clamp(2 * pause_, kFailurePause, kLongestPause);
    not_before_ = Clock::now() + pause_;
    const std::uint64_t count = ++s_.timings.npu_failures;
    if (!std::has_single_bit(count)) return;
    std::fprintf(stderr, "npu: %s; the CPU computes instead (failure %llu)\n", error.message.c_str(),
                 static_cast<unsigned long long>(count));
}

/// Takes the NPU for the pass, or for its rest.
Status NpuForward::begin() {
    Status begun = npu_.begin();
    begun_ = begun.ok();
    if (begun_) return begun;
    const ErrorCode why = begun.error().code;
    leave_ = why == ErrorCode::kBusy || why == ErrorCode::kUnsupported;
    npu_failed_ = !leave_;
    if (why == ErrorCode::kBusy) {
        pause_ = std::clamp(2 * pause_, kBusyPause, kFailurePause);
        not_before_ = Clock::now() + pause_;
    } else if (leave_) {
        not_before_ = Clock::now() + kLongestPause; // there is none, and hardly will be
    }
    return begun;
}

Status NpuForward::compute(std::span<const Row> rows, std::span<const std::uint32_t> wanted, float* logits) {
    const auto T = static_cast<std::uint32_t>(rows.size());
    const ModelShape& shape = s_.model.shape();
    FLEX_TRY(keep(0));
    FLEX_TRY(write_rows(rows));
    rope_tables(s_, rows);                                                      // cos, sin[T][rope_dims / 2]
    job_.embed(matrix(0, s_.model.embedding()), own(ids_), T, work(s_.work.x)); // x[T][width]

    const std::uint32_t together = layers_per_job(T);
    for (std::uint32_t i = 0; i < shape.layers; ++i) {
        if (all_cancelled(rows)) return fail(ErrorCode::kCancelled, "cancelled");
        // Once a job: begin() has asked for the first, and each time is a call of the trusted OS.
        if (i > 0 && job_.empty() && npu_.wanted_back()) return leave("the normal world wants the NPU back");
        FLEX_TRY(hold(1 + i));
        layer(i, T); // x[T][width] += attention, then += feed-forward
        const bool enough = collected_.end - collected_.first >= together ||
                            job_.regions().size() >= kRegionsEnough ||
                            job_.commands().size() >= kCommandsEnough;
        if (enough && i + 1 < shape.layers)
            FLEX_TRY(submit()); // the head, if there is one, goes with the last
    }
    if (wanted.empty()) return submit();
    if (all_cancelled(rows)) return fail(ErrorCode::kCancelled, "cancelled");
    FLEX_TRY(keep(shape.layers + 1));
    return head(wanted, logits); // logits[wanted][vocabulary]
}

std::uint32_t NpuForward::layers_per_job(std::uint32_t tokens) const {
    const double layers = s_.model.shape().layers;
    const double most = std::min(kBytesPerJob * layers / layers_work_.bytes,
                                 kMacsPerJob * layers / (layers_work_.macs * tokens));
    return static_cast<std::uint32_t>(std::clamp(most, 1.0, layers));
}

void NpuForward::layer(std::uint32_t index, std::uint32_t T) {
    const ModelShape& shape = s_.model.shape();
    const LayerWeights& l = s_.model.layer(index);
    const Stage stage = 1 + index;
    const npu::Place x = work(s_.work.x), h = work(s_.work.h), out = work(s_.work.attention);
    const npu::Place gate = work(s_.work.gate), up = work(s_.work.up);

    // Attention: x += Wo · attend(q, k, v), with q, k, v = Wq h, Wk h, Wv h and h = norm(x).
    job_.rms_norm(x, weight(stage, l.attention_norm), T, shape.width, shape.rms_epsilon, h);
    job_.matmul(matrix(stage, l.q), h, T, work(s_.work.q)); // [T][q_width]
    job_.matmul(matrix(stage, l.k), h, T, work(s_.work.k)); // [T][kv_width]
    job_.matmul(matrix(stage, l.v), h, T, work(s_.work.v)); // [T][kv_width]
    attention(index, T);                                    // attention[T][q_width]
    job_.matmul_add(matrix(stage, l.attention_output), out, T, x);

    // Feed-forward: x += Wdown · (silu(Wgate h) * Wup h), with h = norm(x).
    job_.rms_norm(x, weight(stage, l.ff_norm), T, shape.width, shape.rms_epsilon, h);
    job_.matmul(matrix(stage, l.gate), h, T, gate);        // [T][ff_width]
    job_.matmul_gate(matrix(stage, l.up), h, gate, T, up); // [T][ff_width]
    job_.matmul_add(matrix(stage, l.down), up, T, x);
}

/// Per head: Qwen3 norms q and k; both get their position; then the heads look back.
void NpuForward::attention(std::uint32_t index, std::uint32_t T) {
    const ModelShape& shape = s_.model.shape();
    const LayerWeights& l = s_.model.layer(index);
    const npu::Place q = work(s_.work.q), k = work(s_.work.k), v = work(s_.work.v);
    const std::uint64_t q_heads = std::uint64_t{T} * shape.heads, k_heads = std::uint64_t{T} * shape.kv_heads;
    if (l.q_norm != nullptr) {
        const npu::Place q_norm = weight(1 + index, l.q_norm), k_norm = weight(1 + index, l.k_norm);
        job_.rms_norm(q, q_norm, q_heads, shape.head_size, shape.rms_epsilon, q);
        job_.rms_norm(k, k_norm, k_heads, shape.head_size, shape.rms_epsilon, k);
    }
    const npu::Place cos = work(s_.work.cos), sin = work(s_.work.sin);
    const std::uint32_t pairs = shape.rope_dims / 2;
    const bool neighbours = shape.architecture == Architecture::kLlama;
    job_.rope(q, cos, sin, T, shape.heads, shape.head_size, pairs, neighbours);
    job_.rope(k, cos, sin, T, shape.kv_heads, shape.head_size, pairs, neighbours);
    job_.kv_store(kv_, index, k, v);
    job_.attention(kv_, index, shape.heads, q, work(s_.work.attention));
}

/// logits[i] = Whead · norm(x[wanted[i]]): [wanted][vocabulary], some at a time. The first go with the last
/// layers.
Status NpuForward::head(std::span<const std::uint32_t> wanted, float* logits) {
    const ModelShape& shape = s_.model.shape();
    const Stage stage = shape.layers + 1;
    const npu::MatrixPlace w = matrix(shape.tied_head ? 0 : stage, s_.model.head());
    const npu::Place norm = weight(stage, s_.model.output_norm()), h = work(s_.work.h);
    const std::size_t row_bytes = std::size_t{shape.width} * sizeof(float);
    while (!wanted.empty()) {
        const auto some = wanted.first(std::min<std::size_t>(wanted.size(), head_rows_));
        for (std::size_t i = 0; i < some.size(); ++i) {
            job_.rms_norm(work(s_.work.x + some[i] * std::size_t{shape.width}), norm, 1, shape.width,
                          shape.rms_epsilon, {h.region, h.offset + i * row_bytes});
        }
        job_.matmul(w, h, static_cast<std::uint32_t>(some.size()), own(logits_));
        FLEX_TRY(submit());
        FLEX_TRY(finish_all());
        logits = std::copy_n(logits_, some.size() * shape.vocabulary, logits);
        wanted = wanted.subspan(some.size());
    }
    return {};
}

/// The CPU goes on, after what is under way has ended.
Error NpuForward::leave(const char* why) {
    leave_ = true;
    return fail(ErrorCode::kBusy, why);
}

Status NpuForward::npu_status(Status status) {
    if (!status.ok()) npu_failed_ = true;
    return status;
}

/// Gives job_ to the NPU, as soon as that has room.
Status NpuForward::submit() {
    if (job_.empty()) return {};
    if (under_way_.size() == npu::kJobsInFlight) FLEX_TRY(finish_one());
    FLEX_TRY(npu_status(npu_.submit(job_)));
    job_.clear();
    under_way_.push_back(std::exchange(collected_, Stages()));
    return {};
}

Status NpuForward::finish_one() {
    const auto result = npu_.wait();
    if (!result.ok()) {
        npu_failed_ = true;
        return result.error();
    }
    const Stages done = under_way_.front();
    under_way_.pop_front();
    for (Stage stage = done.first; stage < done.end; ++stage) release_stage(s_, stage);
    if (done.end > 0) layers_done_ = done.end - 1;
    return {};
}

/// Waits for the jobs that are under way. After an error of the NPU there are none.
Status NpuForward::finish_all() {
    while (!under_way_.empty() && !npu_failed_) FLEX_TRY(finish_one());
    return {};
}

/// The end of the pass, no job under way: nothing is held any more.
void NpuForward::let_go() {
    under_way_.push_back(std::exchange(collected_, Stages()));
    for (const Stages& some : under_way_)
        for (Stage stage = some.first; stage < some.end; ++stage) release_stage(s_, stage);
    under_way_.clear();
    for (const Stage stage : kept_) release_stage(s_, stage);
    kept_.clear();
    job_.clear();
}

/// Waits for the weights of a stage. While they are not there, somebody else may have the NPU.
Status NpuForward::wait_for(Stage stage) {
    if (s_.options.gate == nullptr || s_.options.gate->ready(stage)) return acquire_stage(s_, stage);
    FLEX_TRY(submit());
    FLEX_TRY(finish_all());
    npu_.end(false);
    begun_ = false;
    FLEX_TRY(acquire_stage(s_, stage));
    Status begun = begin();
    if (!begun.ok()) release_stage(s_, stage);
    return begun;
}

/// A stage that the job being built needs.
Status NpuForward::hold(Stage stage) {
    FLEX_TRY(wait_for(stage));
    if (collected_.end == 0) collected_.first = stage;
    collected_.end = stage + 1;
    return map_stage(stage);
}

/// A stage that is needed until the end of the pass.
Status NpuForward::keep(Stage stage) {
    FLEX_TRY(wait_for(stage));
    kept_.push_back(stage);
    return map_stage(stage);
}

} // namespace flex::engine
