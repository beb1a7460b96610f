// Looking for secrets in all memory the normal world can read, with a control that shows the search finds what is there.
#pragma once

#include <string>
#include <vector>

#include "cli/attack/target.h"

namespace flex::attack {

/// Something that must not be found.
struct Pattern {
    std::string label; ///< for people
    std::string bytes; ///< 16..64
};

/// `count` pieces of 64 bytes out of a GGUF's quantised tensors, spread over the model, as the engine holds them in memory.
/// Throws platform::DeviceError when the file cannot be read or has no such tensors.
[[nodiscard]] std::vector<Pattern> weight_pieces(const std::filesystem::path& gguf, std::size_t count);

/// Has the hostile module search every frame that the normal world can read. Patterns go into the device masked, so that the search
/// does not find itself; the module plants a pattern of its own in normal memory, and a scan that misses that one is an error.
[[nodiscard]] Outcome scan(Target& target, const std::vector<Pattern>& secrets);

} // namespace flex::attack
