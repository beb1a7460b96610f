// What to keep in Flex-Mem, what to give back and what to bring in, aware of how a language model uses its
// weights. Pure: no clock, no I/O, no threads; the device, the tests and the simulator (sim/) run this same
// source. docs/memory.md has the formulas and a picture.
//
// Everything follows from one ranking of units (a stage of a model, or an idle conversation), most worth
// keeping first. What to keep is the ranking's beginning, as far as the budget reaches; what to give back is
// taken from its end; what to bring in is what is missing at its beginning.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flex::memory {

struct PolicyOptions {
    double hot_share = 0.25;        ///< of the recent invocations, from which on a model is hot
    std::uint32_t top = 3;          ///< models that are hot where none has that share
    double half_life_seconds = 600; ///< after which an invocation counts half
    double recent_weight = 0.75;    ///< of the recent share in a model's weight; the rest: of all invocations
};

/// How often, and with what prompts, one model was asked. Seconds of any clock that does not run backwards.
class UseHistory {
public:
    static constexpr std::size_t kPrompts = 16; ///< whose lengths are remembered

    void note(double now, std::uint32_t prompt_tokens, const PolicyOptions& options);
    /// Invocations, each counted 2^(-age / half_life).
    [[nodiscard]] double recent(double now, const PolicyOptions& options) const;
    [[nodiscard]] std::uint64_t count() const { return count_; }
    /// Tokens of the last prompts, in no order.
    [[nodiscard]] std::span<const std::uint32_t> prompts() const {
        return std::span(prompts_).first(count_ < kPrompts ? count_ : kPrompts);
    }

private:
    double decayed_ = 0, at_ = 0;
    std::uint64_t count_ = 0;
    std::array<std::uint32_t, kPrompts> prompts_{};
};

/// How much likelier than by chance the next request is to the model of the last one: turns of a conversation
/// follow each other. 0: models are asked independently; 1: always the same.
class Repetition {
public:
    /// A request to a model; `again`: it is the last request's. `chance`: the last one's share of the recent
    /// invocations, which is how often that would happen if requests were independent.
    void note(bool again, double chance);
    [[nodiscard]] double excess() const;

private:
    double again_ = 0, by_chance_ = 0, all_ = 0; // decaying with each request
};

/// One model as the policy sees it. Its resident stages are the first ones, always.
struct ModelView {
    std::span<const std::uint64_t> stages{}; ///< bytes of each, in the order of computing
    std::uint32_t resident = 0;              ///< stages in memory
    bool pinned = false;                     ///< a request runs: nothing of it may go, all of it is needed
    bool last = false;                       ///< the last request was to it
    bool next = false;                       ///< known to be called next (a workflow says so): hottest of all
    double recent = 0;                       ///< UseHistory::recent
    std::uint64_t count = 0;                 ///< UseHistory::count
    std::span<const std::uint32_t> prompts{}; ///< UseHistory::prompts; empty: nothing is hidden by computing
    double bandwidth = 0;                     ///< bytes/s of bringing weights in, decrypted; 0: unknown
    double prefill_rate = 0;                  ///< prompt tokens/s; 0: unknown, nothing is hidden by computing
};

/// A conversation in the KV cache.
struct SessionView {
    std::uint64_t bytes = 0;
    double idle_seconds = 0;      ///< since its last turn
    double recompute_seconds = 0; ///< to compute its tokens again
    bool pinned = false;          ///< its request runs
};

struct MemoryView {
    std::span<const ModelView> models{};
    std::span<const SessionView> sessions{};
    double repetition = 0; ///< Repetition::excess
};

/// Most worth keeping first. "Hidden" is what arrives in time when it is brought in while the earlier stages
/// compute.
enum class Tier : std::uint8_t {
    kPinned,
    kHot,        ///< of a hot model, what computing does not hide: its budget
    kHotHidden,  ///< the rest of hot models
    kSession,    ///< idle conversations
    kCold,       ///< of the other models, what computing does not hide
    kColdHidden, ///< the rest of them
};

/// What is kept or goes as a whole.
struct Unit {
    Tier tier = Tier::kCold;
    bool is_session = false;
    bool resident = false;
    std::uint32_t index = 0;  ///< of the model or session in the view
    std::uint32_t stage = 0;  ///< of a model
    std::uint64_t offset = 0; ///< bytes of the model's stages before this one
    std::uint64_t bytes = 0;
    double value = 0; ///< seconds of waiting that a byte saves, expected for the next request
};

/// Bytes that must be resident so that the rest arrives in time: the deadline form,
/// prefix >= weights - bandwidth * prefill time; 0 when computing hides everything.
[[nodiscard]] double deadline_prefix(double weight_bytes, double bandwidth, double prefill_seconds);

/// The models that are hot, by the view's index: those with options.hot_share of the recent invocations; if
/// none has it, the options.top most invoked ones; and those that are `next`. Where requests repeat, the
/// shares are (1 - repetition) of what was counted, and the last model has the rest.
[[nodiscard]] std::vector<bool> hot_models(const MemoryView& view, const PolicyOptions& options);

/// All units, resident or not, most worth keeping first. The stages of a model are in rising order.
[[nodiscard]] std::vector<Unit> ranking(const MemoryView& view, const PolicyOptions& options);

struct Target {
    std::vector<std::uint32_t> stages; ///< by model: how many of its first stages
    std::vector<bool> sessions;        ///< which are kept
    std::uint64_t bytes = 0;           ///< of all that; over the budget only when what is pinned is
};

/// The best use of `budget` bytes: the longest beginning of the ranking that fits. More budget never takes
/// anything away.
[[nodiscard]] Target target(const MemoryView& view, const PolicyOptions& options, std::uint64_t budget);

/// One step of giving back or bringing in, of exactly `bytes`.
struct Step {
    bool is_session = false;
    std::uint32_t index = 0;  ///< of the model or session
    std::uint32_t stages = 0; ///< of a model: how many are resident after this step
    std::uint64_t bytes = 0;
};

/// What to drop, in this order, to free at least `bytes`; everything that may go when that is less. Never
/// what is pinned. Steps free one unit each.
[[nodiscard]] std::vector<Step> victims(const MemoryView& view, const PolicyOptions& options,
                                        std::uint64_t bytes);

struct Plan {
    std::vector<Step> drops; ///< first these, in this order
    std::vector<Step> loads; ///< then these
};

/// The way to the best use of `budget` bytes: what is resident beyond it goes, and of hot models the missing
/// stages of the target come. Cold ones wait for their request. Nothing goes without need.
[[nodiscard]] Plan balance(const MemoryView& view, const PolicyOptions& options, std::uint64_t budget);

/// Bytes resident, pinned or not.
[[nodiscard]] std::uint64_t resident_bytes(const MemoryView& view);

} // namespace flex::memory
