// From a tensor as a GGUF file stores it to the form the kernels compute with (kernels/q8_layout.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "engine/model.h"

namespace flex::engine {

/// Reads bytes of one tensor as the file has them, from `offset` within the tensor.
using TensorReader = std::function<Status(std::uint64_t offset, std::span<std::byte> out)>;

/// Fills `out` with what lies at `at` within the tensor's TensorNeed::bytes: Q8_0 packed, the others as they
/// are. Any part may be asked for; whole tensors and large parts are cheapest. Errors: those of `read`.
Status read_tensor(const TensorNeed& need, std::uint64_t at, std::span<std::byte> out,
                   const TensorReader& read);

/// Up to 16 rows of Q8_0 blocks, one after the other -> one panel of panel_bytes(columns).
void pack_panel(const std::byte* q8_0, std::size_t rows, std::size_t columns, std::byte* panel);

/// Row `row` of a packed matrix, widened to x[columns].
void unpack_row(const std::byte* packed, std::size_t row, std::size_t columns, float* x);

} // namespace flex::engine
