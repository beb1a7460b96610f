// A prompt nobody has asked before, its answer, and pieces of the weights: what the normal world must never see.
#pragma once

#include <vector>

#include "cli/attack/scan.h"

namespace flex::attack {

struct Secrets {
    Query query;
    Completion answer;
    std::vector<Pattern> weights;

    /// Asks the device once, over TLS. Throws platform::DeviceError when it does not answer.
    [[nodiscard]] static Secrets make(Target& target);
    [[nodiscard]] std::vector<Pattern> patterns() const;
};

} // namespace flex::attack
