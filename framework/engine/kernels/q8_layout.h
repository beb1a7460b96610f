// How Q8_0 matrices and the activations they multiply lie in memory: one layout for every kernel table
// (docs/package-format.md has the same for packages).
//
// A matrix is cut into panels of 16 rows; the last one is filled up with zero rows. A panel is cut along its
// columns into pairs of blocks, and a pair is 1088 bytes:
//   2 x 16 f16      the scales: of the first block for the 16 rows, then of the second
//   16 x 16 x 4     the weights: group of four columns, row, column within the group
// A matrix with an odd number of blocks has zeros for the second block of its last pair.
//
// 64 bytes of weights are thus four columns of 16 rows. AVX-512 takes them as one register, AVX2 as two, NEON
// as four, and each lane is one row: a group of four activations is broadcast, and nothing is ever summed
// across lanes. For FEAT_I8MM two neighbouring groups are zipped into rows of eight. Pairs of blocks keep the
// weights aligned to a cache line without spending a byte more than Q8_0 does.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flex::engine {

inline constexpr std::size_t kPanelRows = 16;
inline constexpr std::size_t kPanelScaleBytes = kPanelRows * 2;  // of one block
inline constexpr std::size_t kPanelBlockBytes = kPanelRows * 32; // weights of one block
inline constexpr std::size_t kPanelPairBytes = 2 * (kPanelScaleBytes + kPanelBlockBytes);
static_assert(kPanelPairBytes == 1088 && kPanelPairBytes % 64 == 0);

/// Of one panel with `columns` (a multiple of 32) columns.
[[nodiscard]] constexpr std::size_t panel_bytes(std::size_t columns) {
    return (columns / 32 + 1) / 2 * kPanelPairBytes;
}
[[nodiscard]] constexpr std::size_t packed_bytes(std::size_t rows, std::size_t columns) {
    return (rows + kPanelRows - 1) / kPanelRows * panel_bytes(columns);
}

/// How far ahead a kernel that the memory limits asks for weights: 2 to 4 pairs are equally good, 6 and more
/// cost 5 % (docs/performance.md).
inline constexpr std::size_t kPairsAhead = 3;

/// Where the parts of block b of a panel begin.
[[nodiscard]] constexpr std::size_t panel_scales(std::size_t b) {
    return b / 2 * kPanelPairBytes + b % 2 * kPanelScaleBytes;
}
[[nodiscard]] constexpr std::size_t panel_weights(std::size_t b) {
    return b / 2 * kPanelPairBytes + 2 * kPanelScaleBytes + b % 2 * kPanelBlockBytes;
}

/// 32 activations. What belongs together lies together: a kernel reads one stream per token.
struct alignas(8) Q8Block {
    std::int8_t q[32]; ///< -127..127
    float scale;
    std::int32_t offset; ///< -128 * sum of q: takes off what weights shifted to 0..255 add to a product
};
static_assert(sizeof(Q8Block) == 40);

} // namespace flex::engine
