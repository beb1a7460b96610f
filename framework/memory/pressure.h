// When it is quiet enough to bring back what was given away. Pure: times are given in.
#pragma once

#include <algorithm>

namespace flex::memory {

/// Whoever brings weights back right after giving them away makes the normal world ask again: each time that
/// happens the patience doubles. Seconds of one clock.
class Pressure {
public:
    static constexpr double kPatience = 5, kMostPatience = 320;

    /// The normal world wants memory.
    void asked(double now) {
        const bool provoked = refilled_ && now - refilled_at_ < 2 * patience_;
        patience_ = provoked ? std::min(2 * patience_, kMostPatience) : kPatience;
        refilled_ = false;
        asked_ = true;
        asked_at_ = now;
    }
    /// Something was brought back, unasked.
    void refilled(double now) {
        refilled_ = true;
        refilled_at_ = now;
    }
    [[nodiscard]] bool calm(double now) const { return !asked_ || now - asked_at_ >= patience_; }
    [[nodiscard]] double patience() const { return patience_; }

private:
    bool asked_ = false, refilled_ = false;
    double asked_at_ = 0, refilled_at_ = 0, patience_ = kPatience;
};

} // namespace flex::memory
