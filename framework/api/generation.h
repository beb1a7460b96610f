// Text generation: one request from its prompt to its last token. api/generator.h computes several together;
// whoever asked takes the text as it comes.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token.h"
#include "engine/batch.h"
#include "engine/sampler.h"
#include "pipeline/registry.h"

namespace flex::api {

struct GenerationOptions {
    engine::SamplerOptions sampler;
    std::uint32_t max_tokens = 0; ///< at least 1
    std::vector<std::string> stop;
    bool logprobs = false;          ///< also give the log probabilities of the answer's tokens …
    std::uint32_t top_logprobs = 0; ///< … and of this many likeliest tokens at each place
    bool keep_logits = false;       ///< also give what the model computed for the prompt's last token
    /// Requests with the same non-empty scope may reuse each other's computed prefix: see api/caller.h. Reuse
    /// shows in the time and in the counts.
    std::string scope;
    std::string owner; ///< who may list and delete what is kept of it; empty: nobody, and it is not stored
    std::optional<engine::NpuUse> npu; ///< who computes; nothing: as the server was started
};

/// A token of the answer with its log probability and the likeliest tokens at its place.
struct AnswerLogprobs {
    struct Entry {
        std::string bytes; ///< of the token; perhaps only a part of a character
        float logprob = 0;
    };
    Entry token;
    std::vector<Entry> top;
};

/// Milliseconds of wall time.
struct GenerationTimings {
    double prepare_ms = 0; ///< checking the request and, for the first one, opening the model
    double queue_ms = 0;   ///< waiting until there was room among the running requests
    double allocate_ms =
        0; ///< these three: bringing the model in, when this request was the one that needed it
    double load_ms = 0;
    double decrypt_ms = 0;
    double compute_ms = 0; ///< of the prompt, without waiting for weights
    double ttft_ms = 0;    ///< from the arrival of the request to the first token
    double decode_ms = 0;
    double decode_tokens_per_second = 0;
    double npu_ms = 0;            ///< of compute_ms and decode_ms: passes on the NPU, as far as they went
    std::uint64_t npu_passes = 0; ///< that the NPU computed to their end
};

struct GenerationResult {
    std::uint32_t prompt_tokens = 0;
    std::uint32_t cached_tokens = 0; ///< of the prompt, not computed again
    std::vector<TokenId> tokens;     ///< of the answer, without the one that ended it
    std::vector<float> logits; ///< [vocabulary] after the prompt, before sampling; only with keep_logits
    bool stopped = false;      ///< by the model or a stop string; else by max_tokens or the context's end
    GenerationTimings timings;
};

/// Hands out text up to where a stop string may begin.
class StopFilter {
public:
    explicit StopFilter(std::vector<std::string> stop) : stop_(std::move(stop)) {}
    /// What may be shown now; after a stop string was found: nothing more, ever.
    std::string push(const std::string& text);
    std::string finish();
    [[nodiscard]] bool found() const { return found_; }

private:
    std::vector<std::string> stop_;
    std::string held_;
    bool found_ = false;
};

/// What a request came to, whether it ended well or not.
struct Finished {
    std::uint32_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
    double ttft_ms = 0;
};

/// How often a time was at most so many seconds.
struct Histogram {
    static constexpr std::array<double, 12> kBounds = {0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                       2.5,   5,    10,  30,   60,  120};
    std::array<std::uint64_t, kBounds.size() + 1>
        counts{}; ///< by the first bound it is within; the last: none
    double sum = 0;
    void add(double seconds);
};

/// Of one model, since the start.
struct ModelCounters {
    std::uint64_t done = 0, failed = 0, cancelled = 0;
    std::uint64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
    Histogram first_token; ///< of those done
};

/// One request on its way. The asker calls wait() until it is done; any thread may cancel().
class Generation {
public:
    Generation(std::shared_ptr<pipeline::ServedModel> model, std::vector<TokenId> prompt,
               GenerationOptions options, std::chrono::steady_clock::time_point received);

    struct Progress {
        std::string text;                     ///< new since the last call; valid UTF-8
        std::vector<AnswerLogprobs> logprobs; ///< of the tokens since the last call, where asked for
        bool done = false;
    };
    enum class Until : std::uint8_t { kText, kEnd };
    /// Returns as soon as there is text (kText) or the end, or after `timeout` with what there is. One thread.
    Progress wait(std::chrono::milliseconds timeout, Until until = Until::kText);
    /// After done. Errors: kCancelled, and those of loading and computing.
    Result<GenerationResult> result() const;

    /// Called, from another thread and quickly, whenever wait(0) has something new. Before the request is
    /// submitted.
    void set_listener(std::function<void()> listener) { listener_ = std::move(listener); }

    /// The answer is not wanted any more. Soon after, it is done with kCancelled.
    void cancel();

private:
    // For the generator's thread: start(), then compute next() and call advance() until it says done, then
    // finish().
    friend class Generator;
    struct Work;
    [[nodiscard]] Finished summary() const;
    [[nodiscard]] std::size_t most_tokens() const; // that it may hold in the KV cache
    Status start();
    [[nodiscard]] bool in_prompt() const;
    [[nodiscard]] bool begun() const; ///< to answer
    [[nodiscard]] bool waits_for(const Generation& earlier) const;
    /// Until when it waits for the store at most; nothing: it does not.
    [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> waits_for_store() const;
    /// Memory was refused: whether that was so for less than `patience`.
    [[nodiscard]] bool waits_for_memory(std::chrono::milliseconds patience);
    void catch_up();
    [[nodiscard]] engine::BatchPart next(std::size_t most);
    /// What a pass took. Nanoseconds.
    struct PassTimes {
        std::uint64_t wall_ns = 0;
        std::uint64_t wait_ns = 0; ///< of that, for weights
        std::uint64_t npu_ns = 0, npu_passes = 0;
    };
    Result<bool> advance(const engine::BatchPart& part, const PassTimes& times);
    Result<bool> answer(std::span<const float> logits);
    void publish(std::string text);
    void publish_logprobs(std::span<const float> logits, TokenId token);
    void finish(const Status& status);
    [[nodiscard]] bool cancelled() const;

    std::shared_ptr<pipeline::ServedModel> model_;
    const std::vector<TokenId> prompt_;
    const GenerationOptions options_;
    const std::chrono::steady_clock::time_point received_, queued_ = std::chrono::steady_clock::now();
    std::shared_ptr<Work> work_; // from start() to finish()
    std::function<void()> listener_;
    Until until_ = Until::kText; // of the thread in wait(): it is not woken for less

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::string text_;
    std::vector<AnswerLogprobs> logprobs_;
    std::optional<Result<GenerationResult>> result_;
    bool cancelled_ = false;
    engine::Session* running_ = nullptr; // while computing, so that cancel() reaches it
};

/// Of all models.
struct GeneratorStatus {
    std::size_t waiting = 0, running = 0;
    bool busy = false;
    std::uint64_t done = 0, failed = 0, cancelled = 0;
};

} // namespace flex::api
