// A model coming into memory, stage by stage, while it may already compute: allocate and load on one thread,
// decrypt on a second, compute on a third. Successive stages overlap; they meet at the engine's WeightGate.
// It may also leave again, the last stage first: what is in memory is always a model's first stages.
#pragma once

#include <atomic>
#include <chrono>
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

/// How much a model brought in since it was opened, and how long its two loaders worked for that.
struct StreamCounters {
    std::uint64_t stages = 0, bytes = 0;
    std::uint64_t fetch_ns = 0; ///< allocate and load
    std::uint64_t open_ns = 0;  ///< decrypt and bind
    /// Bytes a second, as the loaders overlap; 0: not known yet.
    [[nodiscard]] double bandwidth() const;
};

/// What came of looking for memory.
enum class Room {
    kFreed, ///< try again
    kLater, ///< nothing now, but what others hold may come: wait a moment and try again
    kNone,
};

/// After open() the tokenizer and the model's shape are there; the weights follow once start_loading() was
/// called. If a stage fails, that and every later stage stays refused with its error until start_loading() is
/// called again; if the model is damaged() that does not help: the owner drops the object and may open it
/// anew.
///
/// Invariant: stages 0..stages_loaded()-1 are bound, the others are not; those up to stages_held() have
/// memory.
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

    /// Begins to bring in the weights that are missing, in the background; others may be asked to make room.
    void start_loading();
    /// Begins to bring in the first `stages` stages as far as there is memory; nobody is asked to make room,
    /// and a refusal is no failure. False: they come already.
    bool prefetch(engine::Stage stages);
    /// Whether a prefetch was refused memory since the last call.
    bool take_refusal();
    /// Ends a prefetch after the stage that it is at.
    void stop_prefetch();
    /// Takes the memory of all but the first `keep` stages and puts it into `taken`; returns how much that
    /// is. What a loader has in its hands goes a little later. Quick. Only while nobody computes.
    std::uint64_t drop(engine::Stage keep, std::vector<memory::FlexBuffer>& taken);

    [[nodiscard]] bool failed() const;
    /// Failed in a way that more memory does not mend.
    [[nodiscard]] bool damaged() const;
    /// Nothing is to be waited for: all is there, or an error.
    [[nodiscard]] bool settled() const;
    /// No loader is at work: destroying the object waits for nobody.
    [[nodiscard]] bool quiet() const;
    [[nodiscard]] engine::Stage stages_loaded() const;
    [[nodiscard]] engine::Stage stages_held() const;
    /// Bytes of each stage.
    [[nodiscard]] std::span<const std::uint64_t> stage_bytes() const { return stage_bytes_; }
    /// In memory.
    [[nodiscard]] std::uint64_t bytes_loaded() const { return bytes_; }
    [[nodiscard]] StreamCounters streamed() const;

    /// Called (on the fetching thread, without a lock) when memory for a stage that a request waits for was
    /// refused, the first time that long ago. Set before start_loading().
    using MakeRoom = std::function<Room(std::uint64_t bytes, std::chrono::nanoseconds refused_for)>;
    void set_make_room(MakeRoom make_room) { make_room_ = std::move(make_room); }

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
    [[nodiscard]] bool ready(engine::Stage stage) const override;

private:
    explicit LoadedModel(std::unique_ptr<WeightSource> source) : source_(std::move(source)) {}
    Status load_metadata();
    /// A thread that comes when there is something to bring in and ends when that is done.
    struct Loader {
        std::thread thread;
        bool running = false;
        std::optional<engine::Stage> at{}; ///< the stage in its hands
        bool discard = false;              ///< which is not wanted any more
        /// Whether the stage it had in its hands was dropped meanwhile; now it has none.
        bool let_go() {
            at.reset();
            return std::exchange(discard, false);
        }
    };
    bool bring_in(engine::Stage stages, bool demanded);
    void start(Loader& loader, void (LoadedModel::*work)());
    void fetch_all();
    bool fetch_next(std::unique_lock<std::mutex>& lock);
    void open_all();
    bool open_next(std::unique_lock<std::mutex>& lock);
    Status bind_stage(engine::Stage stage, const memory::FlexBuffer& buffer);
    void fail_with(const Error& error);

    std::unique_ptr<WeightSource> source_; // used by load_metadata, then by the two loaders
    std::optional<engine::Model> model_;
    std::optional<tokenizer::Tokenizer> tokenizer_;
    std::optional<tokenizer::ChatTemplate> chat_template_;
    std::vector<package::TensorPlace> places_;
    MakeRoom make_room_;

    std::vector<std::uint64_t> stage_bytes_;

    mutable std::mutex mutex_;
    std::condition_variable arrived_;
    std::condition_variable handed_on_; // between the two loaders
    // By stage; the first `loaded_` are bound, those up to `fetched_` are sealed. The one that the opener is
    // at is in its hands.
    std::vector<memory::FlexBuffer> buffers_;
    engine::Stage goal_ = 0;   // the loaders bring in the stages before this one,
    engine::Stage demand_ = 0; // and for those before this one others make room
    engine::Stage fetched_ = 0;
    engine::Stage loaded_ = 0;
    std::optional<Error> error_;
    package::LoadTimes times_;
    StreamCounters streamed_;
    bool give_way_ = false;
    bool refused_ = false; // a prefetch
    std::optional<std::chrono::steady_clock::time_point> refused_since_; // by the fetching thread: a stage
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> bytes_{0};
    Loader fetcher_, opener_;
};

} // namespace flex::pipeline
