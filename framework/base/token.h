#pragma once

#include <cstdint>

namespace flex {

/// Index into a model's vocabulary. The engine and the tokenizer check it against the vocabulary's size.
using TokenId = std::uint32_t;

} // namespace flex
