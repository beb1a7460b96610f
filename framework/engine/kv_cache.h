// The KV cache in blocks: where the keys and values of past tokens lie, so that a sequence takes memory as it
// grows, can share what it has in common with another, and can give it back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/model.h"

namespace flex::engine {

/// How keys and values are stored. kF32 is exact: what it is stored as is what was computed.
enum class KvType : std::uint8_t { kF32, kF16, kQ8_0 };
[[nodiscard]] const char* name_of(KvType type);
/// From its name. Error: kInvalidArgument.
Result<KvType> kv_type(std::string_view name);

/// Raised by whoever changes what the engine computes or how a block holds it, in any bit: what an earlier
/// program stored is then not used.
inline constexpr std::uint32_t kKvRevision = 1;

/// Tokens in a block.
inline constexpr std::uint32_t kKvBlockTokens = 32;

/// The bytes of a block: [layer][kv_head] of a key part followed by a value part, each 64-byte aligned.
///   kF32   keys [token][head_size] f32                                           values [token][head_size]
///   kF16   keys [head_size][token] f16                                           values [token][head_size]
///   kQ8_0  keys [head_size][token] int8, then scales [head_size / 32][token] f16
///          values [token][head_size] int8, then scales [token][head_size / 32] f16
/// (keys of the small types lie transposed, because a row of tokens is what SIMD multiplies with).
struct KvLayout {
    KvType type = KvType::kF16;
    std::uint32_t layers = 0, kv_heads = 0, head_size = 0;

    /// Error: kUnsupported (kQ8_0 needs heads of a multiple of 32).
    static Result<KvLayout> of(const ModelShape& shape, KvType type);
    /// Of the keys of one head of one layer, and as many of the values.
    [[nodiscard]] std::size_t part_bytes() const;
    /// Rounded up to 4 KiB.
    [[nodiscard]] std::size_t block_bytes() const;
    [[nodiscard]] std::size_t offset(std::uint32_t layer, std::uint32_t kv_head) const {
        return (std::size_t{layer} * kv_heads + kv_head) * 2 * part_bytes();
    }
    /// Bytes for `tokens` tokens, in whole blocks.
    [[nodiscard]] std::uint64_t bytes(std::uint64_t tokens) const {
        return (tokens + kKvBlockTokens - 1) / kKvBlockTokens * block_bytes();
    }
};

/// Where blocks come from. Thread-safe.
class KvMemory {
public:
    virtual ~KvMemory() = default;
    /// 4 KiB aligned, for the block that gets this slot (KvBlock). Error: kOutOfMemory.
    virtual Result<std::span<std::byte>> allocate(std::size_t bytes, std::uint32_t slot) = 0;
    virtual void free(std::span<std::byte> block) = 0;
};

/// The process's own heap.
KvMemory& heap_kv_memory();

/// A block is in one of these states; its reference count is 0 exactly when it is kFree.
enum class KvBlockState : std::uint8_t {
    kFree,  ///< has memory, but no sequence uses it
    kInUse, ///< some sequences hold it; one that is not alone must not write
};

struct KvBlock {
    std::uint64_t id = 0;   ///< unique in this process, never used again for another block
    std::uint32_t slot = 0; ///< below the pool's limit; no other block of the pool has it now
    KvBlockState state = KvBlockState::kFree;
    std::uint32_t references = 0; ///< guarded by the pool
    std::span<std::byte> bytes;   ///< [KvLayout::block_bytes()]
};

struct KvPoolStatus {
    std::size_t in_use = 0, free = 0, limit = 0; ///< blocks
    std::size_t shared = 0;                      ///< of those in use, held more than once
};

class KvPool;

/// A share in a block; copying it is how sequences share. Empty after a move.
class KvBlockRef {
public:
    KvBlockRef() = default;
    KvBlockRef(const KvBlockRef& other);
    KvBlockRef(KvBlockRef&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), block_(std::exchange(other.block_, nullptr)) {}
    KvBlockRef& operator=(KvBlockRef other) noexcept {
        std::swap(pool_, other.pool_);
        std::swap(block_, other.block_);
        return *this;
    }
    ~KvBlockRef();
    [[nodiscard]] bool empty() const { return block_ == nullptr; }
    [[nodiscard]] std::byte* data() const { return block_->bytes.data(); }
    [[nodiscard]] std::uint64_t id() const { return block_->id; }
    [[nodiscard]] std::uint32_t slot() const { return block_->slot; }
    [[nodiscard]] std::span<std::byte> bytes() const { return block_->bytes; }
    /// Nobody else holds the block, so its holder may write.
    [[nodiscard]] bool alone() const;

private:
    friend class KvPool;
    KvBlockRef(KvPool* pool, KvBlock* block) : pool_(pool), block_(block) {}
    KvPool* pool_ = nullptr;
    KvBlock* block_ = nullptr;
};

/// All blocks of one model. Any thread. Must outlive the references it gave.
class KvPool {
public:
    /// At most `limit` blocks at a time; they are allocated when needed. `memory` is not owned.
    KvPool(const KvLayout& layout, std::size_t limit, KvMemory& memory = heap_kv_memory())
        : layout_(layout), limit_(limit), memory_(memory) {}
    ~KvPool() { trim(); }
    KvPool(const KvPool&) = delete;
    KvPool& operator=(const KvPool&) = delete;

    [[nodiscard]] const KvLayout& layout() const { return layout_; }
    [[nodiscard]] std::size_t limit() const { return limit_; }
    [[nodiscard]] KvPoolStatus status() const;

    /// A block with unspecified content. Error: kOutOfMemory (the limit, or the memory below).
    Result<KvBlockRef> take();
    /// Returns free blocks to where they came from: how many bytes that were.
    std::uint64_t trim();

private:
    friend class KvBlockRef;
    void hold(KvBlock& block);
    void drop(KvBlock& block);
    [[nodiscard]] bool alone(const KvBlock& block) const;
    std::uint32_t take_slot();

    const KvLayout layout_;
    const std::size_t limit_;
    KvMemory& memory_;
    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<KvBlock>> blocks_;
    std::vector<KvBlock*> free_; // the last one was used last
    std::size_t coming_ = 0;     // being allocated, not yet in blocks_
    std::vector<bool> taken_;    // by slot: of a block, or of one that is coming
};

} // namespace flex::engine
