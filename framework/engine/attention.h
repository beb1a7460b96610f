// Private to the engine: attention of one pass over the paged KV cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/forward.h"

namespace flex::engine {

/// softmax(q · K / sqrt(head_size)) V for rows of any sessions. What a row gets depends on its session's past
/// alone: the order of every sum is that of the positions, however rows are put into tiles.
class Attention {
public:
    Attention(BatchState& state, std::span<const Row> rows);

    /// Puts k and v of every row, [T][kv_width] in the workspace, where the session's blocks have their
    /// place.
    void store(std::uint32_t layer);
    /// attention[T][q_width] from q[T][q_width], over all positions of a row's session up to its own.
    void attend(std::uint32_t layer);

    /// Most query rows (a row's heads count each) that one task works on.
    static constexpr std::size_t kTileRows = 24;

private:
    /// Neighbouring rows of one session.
    struct Tile {
        std::uint32_t first = 0, count = 0;
    };
    struct Task;
    void store(std::uint32_t layer, std::size_t kv_head, float* scratch);
    void score(const Task& task, std::size_t block, const std::byte* keys) const;
    void sum(const Task& task, std::size_t block, const std::byte* values) const;

    BatchState& s_;
    const KvLayout layout_;
    std::span<const Row> rows_;
    std::size_t heads_per_tile_ = 0; // of one KV group
    std::vector<Tile> tiles_;
};

} // namespace flex::engine
