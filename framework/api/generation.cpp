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

Generation::Progress Generation::wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return !text_.empty() || result_.has_value(); });
    return {std::exchange(text_, {}), result_.has_value()};
}

Result<GenerationResult> Generation::result() const {
    const std::lock_guard lock(mutex_);
    if (!result_) return fail(ErrorCode::kInternal, "the generation is not done");
    return *result_;
}

void Generation::cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (running_ != nullptr) running_->cancel();
}

bool Generation::cancelled() {
    const std::lock_guard lock(mutex_);
    return cancelled_;
}

void Generation::publish(std::string text) {
    if (text.empty()) return;
    const std::lock_guard lock(mutex_);
    text_ += text;
    changed_.notify_all();
}

void Generation::finish(Result<GenerationResult> result) {
    const std::lock_guard lock(mutex_);
    result_ = std::move(result);
    model_.reset(); // an idle model may be dropped
    changed_.notify_all();
}

void Generation::run() {
    engine::Session& session = *model_->session;
    session.clear_cancel();
    {
        const std::lock_guard lock(mutex_);
        running_ = &session;
        if (cancelled_) session.cancel();
    }
    auto result = [&]() -> Result<GenerationResult> {
        try {
            return generate();
        } catch (const std::bad_alloc&) {
            return fail(ErrorCode::kOutOfMemory, "the answer needs more memory than there is");
        }
    }();
    {
        const std::lock_guard lock(mutex_);
        running_ = nullptr;
    }
    finish(std::move(result));
}

Result<GenerationResult> Generation::generate() {
    if (cancelled()) return fail(ErrorCode::kCancelled, "cancelled");
    GenerationResult result;
    result.timings.prepare_ms = std::chrono::duration<double, std::milli>(queued_ - received_).count();
    result.timings.queue_ms = milliseconds_since(queued_);
    result.prompt_tokens = static_cast<std::uint32_t>(prompt_.size());
    engine::Session& session = *model_->session;
    session.reset_timings();
    FLEX_ASSIGN(const auto logits, prefill(result));
    const engine::Timings prefilled = session.timings();
    const package::LoadTimes loading = model_->weights->take_times();
    result.timings.allocate_ms = milliseconds(loading.allocate_ns);
    result.timings.load_ms = milliseconds(loading.load_ns);
    result.timings.decrypt_ms = milliseconds(loading.decrypt_ns);
    result.timings.compute_ms =
        milliseconds(prefilled.prefill_ns - std::min(prefilled.prefill_ns, prefilled.weights_wait_ns));
    if (options_.keep_logits) result.logits.assign(logits.begin(), logits.end());
    FLEX_TRY(answer(logits, result));
    const std::uint64_t decode_ns = session.timings().decode_ns;
    result.timings.decode_ms = milliseconds(decode_ns);
    if (decode_ns > 0) {
        result.timings.decode_tokens_per_second =
            static_cast<double>(session.timings().decode_tokens) * 1e9 / static_cast<double>(decode_ns);
    }
    return result;
}

/// Computes what of the prompt the session does not hold already.
Result<std::span<const float>> Generation::prefill(GenerationResult& result) {
    engine::Session& session = *model_->session;
    auto& cached = model_->cached_tokens;
    std::size_t common = 0;
    if (!options_.cache_key.empty() && options_.cache_key == model_->cache_key) {
        const std::size_t limit =
            std::min({cached.size(), prompt_.size() - 1, std::size_t{session.position()}});
        while (common < limit && cached[common] == prompt_[common]) ++common;
    }
    session.rewind(static_cast<std::uint32_t>(common));
    cached.resize(common);
    model_->cache_key = options_.cache_key;
    result.cached_tokens = static_cast<std::uint32_t>(common);
    const auto rest = std::span(prompt_).subspan(common);
    auto logits = session.prefill(rest);
    if (logits) cached.insert(cached.end(), rest.begin(), rest.end());
    return logits;
}

Status Generation::answer(std::span<const float> logits, GenerationResult& result) {
    engine::Session& session = *model_->session;
    const tokenizer::Tokenizer& tokenizer = model_->weights->tokenizer();
    engine::Sampler sampler(options_.sampler);
    tokenizer::Detokenizer detokenizer(tokenizer);
    StopFilter filter(options_.stop);
    for (;;) {
        FLEX_ASSIGN(const TokenId token, sampler.sample(logits));
        if (result.tokens.empty()) result.timings.ttft_ms = milliseconds_since(received_);
        if (tokenizer.ends_generation(token)) {
            result.stopped = true;
            break;
        }
        result.tokens.push_back(token);
        publish(filter.push(detokenizer.push(token)));
        if (filter.found()) {
            result.stopped = true;
            return {};
        }
        if (result.tokens.size() >= options_.max_tokens || session.position() >= session.context()) break;
        FLEX_ASSIGN(logits, session.decode(token));
        model_->cached_tokens.push_back(token);
    }
    publish(filter.push(detokenizer.finish()));
    publish(filter.finish());
    return {};
}

Generator::~Generator() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        for (const auto& generation : queue_) generation->cancel();
        if (current_) current_->cancel();
        wake_.notify_all();
    }
    thread_.join();
}

Status Generator::submit(std::shared_ptr<Generation> generation) {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= max_waiting_) {
        return fail(ErrorCode::kBusy,
                    std::to_string(queue_.size()) + " requests are waiting already; try again later");
    }
    queue_.push_back(std::move(generation));
    wake_.notify_all();
    return {};
}

GeneratorStatus Generator::status() const {
    const std::lock_guard lock(mutex_);
    GeneratorStatus status = status_;
    status.waiting = queue_.size();
    status.busy = current_ != nullptr;
    return status;
}

void Generator::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
        if (queue_.empty()) return;
        current_ = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        current_->run();
        const auto result = current_->result();
        lock.lock();
        if (result)
            ++status_.done;
        else if (result.error().code == ErrorCode::kCancelled)
            ++status_.cancelled;
        else
            ++status_.failed;
        current_.reset();
    }
}

} // namespace flex::api
