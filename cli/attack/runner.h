// Runs attacks one by one and looks after each whether the device is still well.
#pragma once

#include <optional>

#include "cli/attack/attack.h"
#include "cli/attack/target.h"

namespace flex::attack {

struct Report {
    const Attack* attack = nullptr;
    Outcome outcome;
    std::string damage; ///< empty: the device answers as before
    double seconds = 0;

    /// Whether the defence held.
    [[nodiscard]] bool good() const {
        return damage.empty() && (outcome.verdict == Verdict::kBlocked || outcome.verdict == Verdict::kSkipped);
    }
};

/// Never throws: a device that is gone is damage.
[[nodiscard]] Report carry_out(const Attack& attack, Target& target);

} // namespace flex::attack
