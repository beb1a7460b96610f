#include "engine/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/kernels/exact.h"

namespace flex::engine {

static_assert(kBlockTokens == kKvBlockTokens);

namespace {

template <class T> T* as(std::byte* p) { return reinterpret_cast<T*>(p); }
template <class T> const T* as(const std::byte* p) { return reinterpret_cast<const T*>(p); }

/// element d of a row goes to to[d * kBlockTokens]
template <class T> void put_column(const T* row, std::size_t count, T* to) {
    for (std::size_t d = 0; d < count; ++d) to[d * kBlockTokens] = row[d];
}

} // namespace

/// Some heads of one KV group, for the rows of one tile. Query row r is row r / heads of the tile, head r %
/// heads.
struct Attention::Task {
    std::size_t rows = 0, heads = 0;
    std::size_t first_count = 0; ///< keys that the tile's first row sees; each further one sees one more
    std::size_t last_count = 0;
    std::array<const float*, kTileRows> queries{};
    std::array<float*, kTileRows> out{};
    float* scores = nullptr;  // [rows][scores_stride]
    float* scratch = nullptr; // [kBlockTokens * head_size]

    [[nodiscard]] std::size_t count(std::size_t r) const { return first_count + r / heads; }
};

Attention::Attention(BatchState& state, std::span<const Row> rows)
    : s_(state), layout_(rows.front().session->kv->layout()), rows_(rows) {
    const ModelShape& shape = s_.model.shape();
    heads_per_tile_ = std::min<std::size_t>(shape.heads / shape.kv_heads, kTileRows);
    const auto most = static_cast<std::uint32_t>(kTileRows / heads_per_tile_);
    for (std::uint32_t t = 0; t < rows_.size(); ++t) {
        const bool joins = !tiles_.empty() && tiles_.back().count < most &&
                           rows_[tiles_.back().first].session == rows_[t].session;
        if (joins)
            ++tiles_.back().count;
        else
            tiles_.push_back({t, 1});
    }
}

void Attention::store(std::uint32_t layer) {
    // A head is a task, so that no two threads write to the same line of transposed keys.
    constexpr std::size_t kFewRows = 4;
    const std::size_t heads = layout_.kv_heads, scratch = std::size_t{kBlockTokens} * layout_.head_size;
    if (rows_.size() < kFewRows) {
        for (std::size_t head = 0; head < heads; ++head) store(layer, head, s_.work.kv_part.get());
        return;
    }
    s_.pool.run(heads, [&](std::size_t head, unsigned thread) {
        store(layer, head, s_.work.kv_part.get() + thread * scratch);
    });
}

void Attention::store(std::uint32_t layer, std::size_t kv_head, float* scratch) {
    const Kernels& kernels = *s_.kernels;
    const std::size_t n = layout_.head_size, kv_width = s_.model.shape().kv_width(), scales = n / kQ8Block;
    for (std::size_t t = 0; t < rows_.size(); ++t) {
        const float* key = s_.work.k + t * kv_width + kv_head * n;
        const float* value = s_.work.v + t * kv_width + kv_head * n;
        const std::size_t slot = rows_[t].position % kBlockTokens;
        std::byte* keys = rows_[t].session->blocks[rows_[t].position / kBlockTokens].data() +
                          layout_.offset(layer, static_cast<std::uint32_t>(kv_head));
        std::byte* values = keys + layout_.part_bytes();
        switch (layout_.type) {
        case KvType::kF32:
            std::copy_n(key, n, as<float>(keys) + slot * n);
            std::copy_n(value, n, as<float>(values) + slot * n);
            break;
        case KvType::kF16: {
            auto* row = reinterpret_cast<std::uint16_t*>(scratch);
            kernels.narrow_f16(key, n, row);
            put_column(row, n, as<std::uint16_t>(keys) + slot);
            kernels.narrow_f16(value, n, as<std::uint16_t>(values) + slot * n);
            break;
        }
        case KvType::kQ8_0: {
            auto* row = reinterpret_cast<Q8Block*>(scratch); // [scales]
            auto* key_scales = as<std::uint16_t>(keys + kBlockTokens * n);
            auto* value_scales = as<std::uint16_t>(values + kBlockTokens * n);
            kernels.quantize(key, n, row);
            for (std::size_t i = 0; i < scales; ++i) {
                put_column(row[i].q, kQ8Block, as<std::int8_t>(keys) + i * kQ8Block * kBlockTokens + slot);
                key_scales[i * kBlockTokens + slot] =
                    f32_to_f16(row[i].scale); // exact: see Kernels::quantize
            }
            kernels.quantize(value, n, row);
            for (std::size_t i = 0; i < scales; ++i) {
                std::copy_n(row[i].q, kQ8Block, as<std::int8_t>(values) + slot * n + i * kQ8Block);
                value_scales[slot * scales + i] = f32_to_f16(row[i].scale);
            }
            break;
        }
        }
    }
}

void Attention::attend(std::uint32_t layer) {
    const ModelShape& shape = s_.model.shape();
    Workspace& w = s_.work;
    const std::size_t n = layout_.head_size, group = shape.heads / shape.kv_heads;
    const std::size_t parts = (group + heads_per_tile_ - 1) / heads_per_tile_; // of a group
    const std::size_t per_tile = shape.kv_heads * parts;
    s_.pool.run(tiles_.size() * per_tile, [&](std::size_t index, unsigned thread) {
        // The last rows of a prompt have the most to do: they go first.
        const Tile& tile = tiles_[tiles_.size() - 1 - index / per_tile];
        const std::size_t kv_head = index % per_tile / parts, part = index % parts;
        const std::size_t first_head = kv_head * group + part * heads_per_tile_;
        SessionState& session = *rows_[tile.first].session;
        Task task;
        task.heads = std::min(heads_per_tile_, group - part * heads_per_tile_);
        task.rows = tile.count * task.heads;
        task.first_count = rows_[tile.first].position + 1;
        task.last_count = task.first_count + tile.count - 1;
        for (std::size_t r = 0; r < task.rows; ++r) {
            const std::size_t at =
                (tile.first + r / task.heads) * shape.q_width() + (first_head + r % task.heads) * n;
            task.queries[r] = w.q + at;
            task.out[r] = w.attention + at;
        }
        task.scores = w.scores.get() + thread * kTileRows * w.scores_stride;
        task.scratch = w.kv_part.get() + thread * kBlockTokens * n;

        const std::size_t offset = layout_.offset(layer, static_cast<std::uint32_t>(kv_head));
        const std::size_t blocks = (task.last_count + kBlockTokens - 1) / kBlockTokens;
        for (std::size_t b = 0; b < blocks; ++b) score(task, b, session.blocks[b].data() + offset);
        for (std::size_t r = 0; r < task.rows; ++r) {
            s_.kernels->softmax(task.scores + r * w.scores_stride, task.count(r));
            std::fill_n(task.out[r], n, 0.0F);
        }
        for (std::size_t b = 0; b < blocks; ++b)
            sum(task, b, session.blocks[b].data() + offset + layout_.part_bytes());
    });
}

/// Scores of all rows with block b. Beyond the keys that are there yet, what is written means nothing.
void Attention::score(const Task& task, std::size_t b, const std::byte* keys) const {
    const Kernels& kernels = *s_.kernels;
    const std::size_t n = layout_.head_size, stride = s_.work.scores_stride;
    const float factor = 1.0F / std::sqrt(static_cast<float>(n));
    float* out = task.scores + b * kBlockTokens;
    switch (layout_.type) {
    case KvType::kF32: {
        const std::size_t count = std::min(kBlockTokens, task.last_count - b * kBlockTokens);
        for (std::size_t r = 0; r < task.rows; ++r)
            kernels.scores(task.queries[r], as<float>(keys), count, n, factor, out + r * stride);
        return;
    }
    case KvType::kF16:
        kernels.widen_f16(as<std::uint16_t>(keys), kBlockTokens * n, task.scratch);
        break;
    case KvType::kQ8_0:
        kernels.widen_q8_columns(as<std::int8_t>(keys), as<std::uint16_t>(keys + kBlockTokens * n), n,
                                 task.scratch);
        break;
    }
    kernels.block_scores(task.queries.data(), task.rows, task.scratch, n, factor, out, stride);
}

/// Adds block b's weighted values to all rows.
void Attention::sum(const Task& task, std::size_t b, const std::byte* values) const {
    const Kernels& kernels = *s_.kernels;
    const std::size_t n = layout_.head_size, stride = s_.work.scores_stride, first = b * kBlockTokens;
    const auto seen = [&](std::size_t count) {
        return std::min(kBlockTokens, count - std::min(count, first));
    };
    const std::size_t most = seen(task.last_count), shared = seen(task.first_count);
    const float* wide = task.scratch;
    switch (layout_.type) {
    case KvType::kF32:
        wide = as<float>(values);
        break;
    case KvType::kF16:
        kernels.widen_f16(as<std::uint16_t>(values), most * n, task.scratch);
        break;
    case KvType::kQ8_0:
        kernels.widen_q8(as<std::int8_t>(values), as<std::uint16_t>(values + kBlockTokens * n), most * n,
                         task.scratch);
        break;
    }
    const float* weights = task.scores + first;
    if (shared > 0) kernels.add_weighted(weights, stride, task.rows, wide, shared, n, task.out.data());
    for (std::size_t r = 0; r < task.rows; ++r) {
        const std::size_t own = seen(task.count(r));
        if (own > shared)
            kernels.add_weighted(weights + r * stride + shared, stride, 1, wide + shared * n, own - shared, n,
                                 &task.out[r]);
    }
}

} // namespace flex::engine
