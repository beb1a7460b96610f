#include "api/generation.h"

#include <algorithm>
#include <new>

namespace flex::api {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

double milliseconds(std::uint64_t ns) { return static_cast<double>(ns) * 1e-6; }

} // namespace

void Histogram::add(double seconds) {
    const auto bound = std::ranges::lower_bound(kBounds, seconds);
    ++counts[static_cast<std::size_t>(bound - kBounds.begin())];
    sum += seconds;
}

std::string StopFilter::push(const std::string& text) {
    if (found_) return {};
    held_ += text;
    std::size_t cut = std::string::npos;
    for (const std::string& stop : stop_) cut = std::min(cut, held_.find(stop));
    if (cut != std::string::npos) {
        found_ = true;
        std::string shown = held_.substr(0, cut);
        held_.clear();
        return shown;
    }
    // Keep the longest end that a stop string may begin with.
    std::size_t keep = 0;
    for (const std::string& stop : stop_) {
        for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
            if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
        }
    }
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, shown.size());
    return shown;
}

std::string StopFilter::finish() { return std::exchange(held_, {}); }

Generation::Generation(std::shared_ptr<pipeline::ServedModel> model, std::vector<TokenId> prompt,
                       GenerationOptions options, Clock::time_point received)
    : model_(std::move(model)), prompt_(std::move(prompt)), options_(std::move(options)),
      received_(received) {}

Generation::Progress Generation::wait(std::chrono::milliseconds timeout, Until until) {
    std::unique_lock lock(mutex_);
    until_ = until;
    changed_.wait_for(lock, timeout, [&] {
        return result_.has_value() || (until == Until::kText && !text_.empty());
    });
    return {std::exchange(text_, {}), std::exchange(logprobs_, {}), result_.has_value()};
}

Result<GenerationResult> Generation::result() const {
    const std::lock_guard lock(mutex_);
    if (!result_) return fail(ErrorCode::kInternal, "the generation is not done");
    return *result_;
}

void Generation::cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (running_ == nullptr) return;
    running_->cancel();
    model_->weights->give_way(); // if it waits for weights, it need not any more
    model_->conversations->wake();
}

bool Generation::cancelled() const {
    const std::lock_guard lock(mutex_);
    return cancelled_;
}

void Generation::publish(std::string text) {
    if (text.empty()) return;
    const std::lock_guard lock(mutex_);
    text_ += text;
    if (until_ == Until::kText) changed_.notify_all();
    if (listener_) listener_();
}

/// Nobody is woken for them: they go out with the text they belong to.
void Generation::publish_logprobs(std::span<const float> logits, TokenId token) {
    const tokenizer::Tokenizer& tokenizer = model_->weights->tokenizer();
    const auto entry = [&](const engine::TokenLogprob& t) {
        return AnswerLogprobs::Entry{std::string(tokenizer.bytes_of(t.id, true)), t.logprob};
    };
    const auto found = engine::logprobs_of(logits, token, options_.top_logprobs);
    AnswerLogprobs out{entry(found.token), {}};
    for (const engine::TokenLogprob& t : found.top) out.top.push_back(entry(t));
    const std::lock_guard lock(mutex_);
    logprobs_.push_back(std::move(out));
}

/// What a request needs while it runs.
struct Generation::Work {
    Work(const GenerationOptions& options, std::span<const TokenId> prompt,
         const tokenizer::Tokenizer& tokenizer)
        : sampler(options.sampler, prompt), detokenizer(tokenizer), filter(options.stop) {}

    std::unique_ptr<pipeline::Conversation> conversation;
    std::optional<Clock::time_point> refused_since; // memory, in this pass and all before it up to then
    std::size_t prompt_done = 0;                    // tokens of the prompt in the KV cache
    TokenId last = 0;                               // sampled, not yet computed
    engine::Sampler sampler;
    tokenizer::Detokenizer detokenizer;
    StopFilter filter;
    GenerationResult result;
    std::uint64_t prompt_ns = 0, decode_ns = 0, decoded = 0, npu_ns = 0;
};

std::size_t Generation::most_tokens() const {
    return std::min<std::size_t>(model_->context, prompt_.size() + options_.max_tokens);
}

Status Generation::start() {
    if (cancelled()) return fail(ErrorCode::kCancelled, "cancelled");
    work_ = std::make_shared<Work>(options_, prompt_, model_->weights->tokenizer());
    FLEX_ASSIGN(work_->conversation,
                model_->conversations->take(prompt_, {options_.scope, options_.owner}, most_tokens()));
    work_->prompt_done = work_->conversation->tokens.size();
    GenerationResult& result = work_->result;
    result.timings.prepare_ms = std::chrono::duration<double, std::milli>(queued_ - received_).count();
    result.timings.queue_ms = milliseconds_since(queued_);
    result.prompt_tokens = static_cast<std::uint32_t>(prompt_.size());
    result.cached_tokens = static_cast<std::uint32_t>(work_->prompt_done);
    const std::lock_guard lock(mutex_);
    running_ = work_->conversation->session.get();
    if (cancelled_) running_->cancel();
    return {};
}

bool Generation::begun() const { return !work_->result.tokens.empty(); }

bool Generation::in_prompt() const { return work_->prompt_done < prompt_.size(); }

/// Whether `earlier` is computing what this one's prompt, of the same scope, begins with: then it pays to
/// wait for it and take that over.
bool Generation::waits_for(const Generation& earlier) const {
    if (options_.scope.empty() || options_.scope != earlier.options_.scope) return false;
    if (!in_prompt() || !earlier.in_prompt()) return false;
    // What the store may never bring is waited for only by those who would be reading it themselves.
    if (const auto& coming = earlier.work_->conversation->coming;
        coming && work_->conversation->comes_with != coming->found.session)
        return false;
    const auto usable = std::span(prompt_).first(prompt_.size() - 1);
    const auto common =
        static_cast<std::size_t>(std::ranges::mismatch(usable, earlier.prompt_).in1 - usable.begin()) /
        engine::kKvBlockTokens * engine::kKvBlockTokens;
    return earlier.work_->prompt_done < common && common >= work_->prompt_done + engine::kKvBlockTokens;
}

std::optional<Clock::time_point> Generation::waits_for_store() const {
    const auto& coming = work_->conversation->coming;
    return coming ? std::optional(coming->until) : std::nullopt;
}

bool Generation::waits_for_memory(std::chrono::milliseconds patience) {
    if (!work_->refused_since) work_->refused_since = Clock::now();
    return Clock::now() - *work_->refused_since < patience;
}

/// Takes over what another of the same scope has computed of this prompt meanwhile.
void Generation::catch_up() {
    if (!in_prompt() || options_.scope.empty()) return;
    model_->conversations->catch_up(*work_->conversation, prompt_);
    const std::size_t gained = work_->conversation->tokens.size() - work_->prompt_done;
    work_->prompt_done += gained;
    work_->result.cached_tokens += static_cast<std::uint32_t>(gained);
}

/// At most `most` tokens of the prompt, or the last token.
engine::BatchPart Generation::next(std::size_t most) {
    engine::Session* session = work_->conversation->session.get();
    if (!in_prompt()) return {session, std::span(&work_->last, 1), true};
    const auto rest = std::span(prompt_).subspan(work_->prompt_done);
    most = std::min(most, work_->conversation->until_ahead());
    const auto piece = rest.first(std::min(most, rest.size()));
    return {session, piece, piece.size() == rest.size()};
}

/// Takes in what a pass computed; true when the answer is complete.
Result<bool> Generation::advance(const engine::BatchPart& part, const PassTimes& times) {
    FLEX_TRY(part.status);
    work_->refused_since.reset();
    work_->npu_ns += times.npu_ns;
    work_->result.timings.npu_passes += times.npu_passes;
    auto& tokens = work_->conversation->tokens;
    tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
    if (!in_prompt()) {
        work_->decode_ns += times.wall_ns;
        ++work_->decoded;
        return answer(part.logits);
    }
    work_->prompt_done += part.tokens.size();
    work_->prompt_ns += times.wall_ns - std::min(times.wall_ns, times.wait_ns);
    if (in_prompt()) return false;
    model_->use->note_prompt(prompt_.size(), prompt_.size() - work_->result.cached_tokens, work_->prompt_ns);
    const package::LoadTimes loading = model_->weights->take_times();
    GenerationTimings& timings = work_->result.timings;
    timings.allocate_ms = milliseconds(loading.allocate_ns);
    timings.load_ms = milliseconds(loading.load_ns);
    timings.decrypt_ms = milliseconds(loading.decrypt_ns);
    timings.compute_ms = milliseconds(work_->prompt_ns);
    if (options_.keep_logits) work_->result.logits.assign(part.logits.begin(), part.logits.end());
    return answer(part.logits);
}

/// The next token of the answer; true when it was the last.
Result<bool> Generation::answer(std::span<const float> logits) {
    Work& w = *work_;
    const tokenizer::Tokenizer& tokenizer = model_->weights->tokenizer();
    FLEX_ASSIGN(w.last, w.sampler.sample(logits));
    if (w.result.tokens.empty()) w.result.timings.ttft_ms = milliseconds_since(received_);
    w.result.stopped = tokenizer.ends_generation(w.last);
    if (!w.result.stopped) {
        w.result.tokens.push_back(w.last);
        if (options_.logprobs) publish_logprobs(logits, w.last);
        publish(w.filter.push(w.detokenizer.push(w.last)));
        if (w.filter.found()) {
            w.result.stopped = true;
            return true;
        }
        const engine::Session& session = *w.conversation->session;
        if (w.result.tokens.size() < options_.max_tokens && session.position() < session.context())
            return false;
    }
    publish(w.filter.push(w.detokenizer.finish()));
    publish(w.filter.finish());
    return true;
}

Finished Generation::summary() const {
    if (!work_) return {static_cast<std::uint32_t>(prompt_.size()), 0, 0, 0};
    const GenerationResult& result = work_->result;
    return {result.prompt_tokens, result.cached_tokens, static_cast<std::uint32_t>(result.tokens.size()),
            result.timings.ttft_ms};
}

void Generation::finish(const Status& status) {
    Result<GenerationResult> result = fail(ErrorCode::kInternal, "no result");
    if (!status.ok()) {
        result = status.error();
    } else {
        GenerationTimings& timings = work_->result.timings;
        timings.decode_ms = milliseconds(work_->decode_ns);
        timings.npu_ms = milliseconds(work_->npu_ns);
        if (work_->decode_ns > 0) {
            timings.decode_tokens_per_second =
                static_cast<double>(work_->decoded) * 1e9 / static_cast<double>(work_->decode_ns);
        }
        result = std::move(work_->result);
    }
    const std::lock_guard lock(mutex_);
    running_ = nullptr;
    if (work_ && work_->conversation) model_->conversations->put_back(std::move(work_->conversation));
    work_.reset();
    model_.reset(); // an idle model may be dropped
    result_ = std::move(result);
    changed_.notify_all();
    if (listener_) listener_();
}

} // namespace flex::api
