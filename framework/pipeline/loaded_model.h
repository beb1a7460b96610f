// A model coming into memory, stage by stage, while it may already compute: allocate and load on one thread,
// decrypt on a second, compute on a third. Successive stages overlap; they meet at the engine's WeightGate.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/model.h"
#include "pipeline/source.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace flex::pipeline {

/// After open() the tokenizer and the model's shape are there; the weights follow once start_loading() was
/// called and stay until the object goes. If one stage fails, that and every later stage stays refused with
/// its error: the owner drops the object and may open the model anew.
///
/// Thread-safety: acquire() and release() from the thread that computes; the rest from any thread.
class LoadedModel final : public engine::WeightGate {
public:
    /// Reads and checks the metadata. Errors: those of the source, and kUnsupported/kCorrupt of engine and
    /// tokenizer.
    static Result<std::unique_ptr<LoadedModel>> open(std::unique_ptr<WeightSource> source);
    ~LoadedModel() override; // stops loading, forgets the weights

    [[nodiscard]] const SourceInfo& info() const { return source_->info(); }
    /// The store may hold a newer version of this model.
    [[nodiscard]] bool may_be_outdated() const { return source_->claimed_version() > info().version; }
    [[nodiscard]] const engine::Model& model() const { return *model_; }
    [[nodiscard]] const tokenizer::Tokenizer& tokenizer() const { return *tokenizer_; }
    [[nodiscard]] const tokenizer::ChatTemplate& chat_template() const { return *chat_template_; }

    /// Begins to bring in the weights in the background; further calls do nothing.
    void start_loading();
    [[nodiscard]] bool failed() const;
    /// Loading has ended, one way or the other: the loader waits for nothing any more.
    [[nodiscard]] bool settled() const;
    [[nodiscard]] engine::Stage stages_loaded() const;
    [[nodiscard]] std::uint64_t bytes_loaded() const { return bytes_; }

    /// Called (on the fetching thread) when memory is short; returns what it freed. Set before
    /// start_loading().
    void set_make_room(std::function<std::uint64_t(std::uint64_t bytes)> make_room) {
        make_room_ = std::move(make_room);
    }

    /// Time spent on bringing in this model since the last call (so each nanosecond is reported once).
    package::LoadTimes take_times();
    /// Adds the time of something else that this model needed.
    void add_times(const package::LoadTimes& times);

    /// From now on acquire() of a stage that is not there yet fails with kBusy instead of waiting, also one
    /// that waits already: whoever computes can do something else meanwhile. Until wait_again(). Any thread.
    void give_way();
    void wait_again();

    // engine::WeightGate
    Status acquire(engine::Stage stage) override;
    void release(engine::Stage stage) override;

private:
    explicit LoadedModel(std::unique_ptr<WeightSource> source) : source_(std::move(source)) {}
    Status load_metadata();
    void fetch_all();
    void open_all();
    Result<memory::FlexBuffer> fetch(engine::Stage stage);
    Status open_stage(engine::Stage stage, memory::FlexBuffer& buffer);
    void fail_with(const Error& error);

    std::unique_ptr<WeightSource> source_; // used by load_metadata, then by the two loaders
    std::optional<engine::Model> model_;
    std::optional<tokenizer::Tokenizer> tokenizer_;
    std::optional<tokenizer::ChatTemplate> chat_template_;
    std::vector<package::TensorPlace> places_;
    std::function<std::uint64_t(std::uint64_t)> make_room_;

    mutable std::mutex mutex_;
    std::condition_variable arrived_;
    std::condition_variable handed_on_; // between the two loaders
    std::vector<memory::FlexBuffer>
        buffers_; // by stage; the first `loaded_` are bound, those up to `fetched_` are sealed
    engine::Stage fetched_ = 0;
    engine::Stage loaded_ = 0;
    std::optional<Error> error_;
    package::LoadTimes times_;
    bool started_ = false;
    bool give_way_ = false;
    bool fetching_ = false; // the thread that fetches is still at it
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> bytes_{0};
    std::thread fetcher_, opener_;
};

} // namespace flex::pipeline
