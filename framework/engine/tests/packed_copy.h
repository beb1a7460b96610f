// A tensor of a GGUF file in memory, in the form that the engine computes with.
#pragma once

#include <algorithm>
#include <span>

#include "engine/forward.h"
#include "engine/packing.h"

namespace flex::engine::testing {

inline Buffer<std::byte> packed_copy(const TensorNeed& need, std::span<const std::byte> file) {
    auto out = allocate<std::byte>(need.bytes);
    const auto read = [&](std::uint64_t offset, std::span<std::byte> to) -> Status {
        const auto from = file.subspan(need.file_offset, need.file_bytes).subspan(offset, to.size());
        std::copy(from.begin(), from.end(), to.begin());
        return {};
    };
    if (!read_tensor(need, 0, std::span(out.get(), need.bytes), read).ok()) return nullptr;
    return out;
}

} // namespace flex::engine::testing
