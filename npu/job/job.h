// Builds jobs (abi/npu.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "abi/npu.h"

namespace flex::npu {

/// A region that an Npu mapped.
enum class Region : std::uint32_t { kNone = 0 };

/// Bytes of a region, from `offset` on.
struct Place {
    Region region = Region::kNone;
    std::uint64_t offset = 0;
};

struct MatrixPlace {
    Place at;                            ///< packed Q8_0 panels
    std::uint32_t rows = 0, columns = 0; ///< columns: a multiple of 32
};

/// What the rows of a pass need to know of the KV cache.
struct KvPlace {
    Place cache;   ///< block b begins b * block_bytes behind it
    Place rows_of; ///< flex_npu_row[tokens], u32[block_list]
    std::uint32_t tokens = 0, block_list = 0, block_bytes = 0, layers = 0;
    std::uint16_t type = 0, kv_heads = 0, head_size = 0;
};

/// At most kJobCommands commands over FLEX_NPU_REGIONS_MAX regions; what goes beyond, or does not fit the
/// fields of a command, makes it not ok(). Shapes: see enum flex_npu_op. T: tokens.
class Job {
public:
    [[nodiscard]] bool ok() const { return ok_ && !commands_.empty(); }
    [[nodiscard]] bool empty() const { return commands_.empty(); }
    [[nodiscard]] std::span<const Region> regions() const { return regions_; }
    [[nodiscard]] std::span<const flex_npu_command> commands() const { return commands_; }
    void clear();

    /// y[T][columns] = rows ids[T] (u32) of the matrix
    void embed(const MatrixPlace& matrix, Place ids, std::uint32_t tokens, Place y);
    /// y[count][columns] = norm of x[count][columns] with weight[columns]; any count
    void rms_norm(Place x, Place weight, std::uint64_t count, std::uint32_t columns, float epsilon, Place y);
    /// y[T][rows] = matrix . x[T][columns]
    void matmul(const MatrixPlace& matrix, Place x, std::uint32_t tokens, Place y);
    /// y += matrix . x
    void matmul_add(const MatrixPlace& matrix, Place x, std::uint32_t tokens, Place y);
    /// y = silu(gate) * (matrix . x)
    void matmul_gate(const MatrixPlace& matrix, Place x, Place gate, std::uint32_t tokens, Place y);
    /// In place: x[T][heads][head_size] by cosines and sines [T][pairs]
    void rope(Place x, Place cosines, Place sines, std::uint32_t tokens, std::uint32_t heads,
              std::uint32_t head_size, std::uint32_t pairs, bool neighbours);
    /// keys, values: [T][kv_heads][head_size]
    void kv_store(const KvPlace& kv, std::uint32_t layer, Place keys, Place values);
    /// y[T][heads][head_size] = attention of queries [T][heads][head_size]
    void attention(const KvPlace& kv, std::uint32_t layer, std::uint32_t heads, Place queries, Place y);

    /// Header, regions as `resolve(Region)` gives them, commands: how many bytes, at most kJobBytes; 0 when a
    /// region is not known (resolve gave no bytes) or the job not ok().
    template <class Resolve>
    std::size_t write(std::byte* out, std::uint64_t cookie, const Resolve& resolve) const;

private:
    flex_npu_command& add(flex_npu_op op, std::uint64_t count);
    flex_npu_command& add_matmul(const MatrixPlace& matrix, Place x, std::uint32_t tokens, Place y);
    flex_npu_command& add_kv(flex_npu_op op, const KvPlace& kv, std::uint32_t layer);
    flex_npu_operand operand(Place place);

    std::vector<Region> regions_;
    std::vector<flex_npu_command> commands_;
    bool ok_ = true;
};

/// So that a job and its regions fit in kJobPages pages.
inline constexpr std::size_t kJobPages = 15;
inline constexpr std::size_t kJobBytes = kJobPages * FLEX_NPU_PAGE;
inline constexpr std::size_t kJobCommands = 448;
static_assert(sizeof(flex_npu_job) + FLEX_NPU_REGIONS_MAX * sizeof(flex_npu_region) +
                  kJobCommands * sizeof(flex_npu_command) <=
              kJobBytes);
static_assert(kJobCommands <= FLEX_NPU_COMMANDS_MAX && kJobBytes <= FLEX_NPU_JOB_BYTES);

template <class Resolve>
std::size_t Job::write(std::byte* out, std::uint64_t cookie, const Resolve& resolve) const {
    if (!ok()) return 0;
    auto* header = reinterpret_cast<flex_npu_job*>(out);
    *header = {FLEX_NPU_JOB_MAGIC,
               FLEX_NPU_VERSION,
               static_cast<flex_u32>(regions_.size()),
               static_cast<flex_u32>(commands_.size()),
               cookie,
               0};
    auto* region = reinterpret_cast<flex_npu_region*>(header + 1);
    for (const Region one : regions_) {
        *region = resolve(one);
        if (region->bytes == 0) return 0;
        ++region;
    }
    auto* command = reinterpret_cast<flex_npu_command*>(region);
    for (const flex_npu_command& one : commands_) *command++ = one;
    return static_cast<std::size_t>(reinterpret_cast<std::byte*>(command) - out);
}

} // namespace flex::npu
