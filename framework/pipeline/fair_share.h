// Several models that compute on the same cores: a stage at a time, in turn, and each gets the same time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/model.h"

namespace flex::pipeline {

/// Who has used least of the cores is next, also when it left only a moment ago: between two of its layers,
/// or two passes, it is away for some microseconds, and if that gave the others their turn, each would get as
/// many layers instead of as much time. Whoever was away for longer comes back with what the least of the
/// others has used, so that idling saves up nothing. Any thread.
class FairShare {
public:
    using ClockNs = std::uint64_t (*)();
    static std::uint64_t steady_ns();
    static constexpr std::chrono::milliseconds kGrace{2};

    /// One that computes: a model. Not copied or moved while it takes part.
    class Member {
    public:
        [[nodiscard]] std::uint64_t used_ns() const { return used_ns_; }

    private:
        friend class FairShare;
        std::uint64_t used_ns_ = 0; // guarded by the share's mutex
    };

    explicit FairShare(ClockNs clock = steady_ns, std::chrono::milliseconds grace = kGrace)
        : clock_(clock), grace_(grace) {}

    /// Waits for its turn. A turn is short (a layer), so nobody can be called off while waiting.
    void enter(Member& member);
    void leave(Member& member);
    /// How many wait.
    [[nodiscard]] std::size_t waiting() const;

private:
    [[nodiscard]] bool is_next(const Member& member) const;
    [[nodiscard]] bool awaits_another(const Member& member) const;

    const ClockNs clock_;
    const std::chrono::milliseconds grace_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Member*> waiting_; // in the order of coming
    Member* inside_ = nullptr;
    std::uint64_t since_ns_ = 0;   // when the one inside came in
    std::uint64_t floor_ns_ = 0;   // what whoever comes back has used at least
    const Member* left_ = nullptr; // who left last and is not back: perhaps gone, only compared
    std::uint64_t left_used_ns_ = 0;
    std::chrono::steady_clock::time_point left_until_{}; // it is waited for
};

/// A model's weights, to be computed with in turns. Not owned; both must outlive it. For the one thread that
/// computes the model. It may hold several stages: a turn is its first hold to its last release, with a
/// chance for others whenever a stage is added.
class SharedGate final : public engine::WeightGate {
public:
    SharedGate(engine::WeightGate& weights, FairShare& share) : weights_(weights), share_(share) {}
    Status acquire(engine::Stage stage) override;
    void release(engine::Stage stage) override;
    [[nodiscard]] bool ready(engine::Stage stage) const override { return weights_.ready(stage); }

private:
    engine::WeightGate& weights_;
    FairShare& share_;
    FairShare::Member member_;
    std::size_t held_ = 0; // stages, but for the embedding
};

} // namespace flex::pipeline
