#include "pipeline/fair_share.h"

#include <algorithm>
#include <chrono>

namespace flex::pipeline {

std::uint64_t FairShare::steady_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

/// mutex_ is held.
bool FairShare::is_next(const Member& member) const {
    if (inside_ != nullptr) return false;
    const auto next =
        std::ranges::min_element(waiting_, {}, [](const Member* waits) { return waits->used_ns_; });
    return *next == &member;
}

/// Whether somebody who used less will be back in a moment. mutex_ is held.
bool FairShare::awaits_another(const Member& member) const {
    return left_ != nullptr && left_used_ns_ < member.used_ns_ &&
           std::chrono::steady_clock::now() < left_until_;
}

void FairShare::enter(Member& member) {
    std::unique_lock lock(mutex_);
    if (left_ == &member) left_ = nullptr;
    member.used_ns_ = std::max(member.used_ns_, floor_ns_);
    waiting_.push_back(&member);
    while (!is_next(member) || awaits_another(member)) {
        if (is_next(member))
            changed_.wait_until(lock, left_until_);
        else
            changed_.wait(lock);
    }
    std::erase(waiting_, &member);
    inside_ = &member;
    floor_ns_ = std::max(floor_ns_, member.used_ns_);
    since_ns_ = clock_();
}

void FairShare::leave(Member& member) {
    const std::lock_guard lock(mutex_);
    member.used_ns_ += clock_() - since_ns_;
    inside_ = nullptr;
    left_ = &member;
    left_used_ns_ = member.used_ns_;
    left_until_ = std::chrono::steady_clock::now() + grace_;
    changed_.notify_all();
}

std::size_t FairShare::waiting() const {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
}

/// The embedding (stage 0) is held through a whole pass where it is the head, too, and looking a row up is no
/// work to speak of: it takes no turn.
Status SharedGate::acquire(engine::Stage stage) {
    if (stage == 0) return weights_.acquire(stage);
    if (held_ > 0) share_.leave(member_);
    const Status there = weights_.acquire(stage); // may take long: nobody waits for us meanwhile
    if (there.ok() || held_ > 0) share_.enter(member_);
    if (there.ok()) ++held_;
    return there;
}

void SharedGate::release(engine::Stage stage) {
    if (stage > 0 && --held_ == 0) share_.leave(member_);
    weights_.release(stage);
}

} // namespace flex::pipeline
