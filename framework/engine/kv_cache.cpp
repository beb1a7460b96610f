#include "engine/kv_cache.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace flex::engine {

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kPage = 4096;

constexpr std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

class HeapMemory final : public KvMemory {
public:
    Result<std::span<std::byte>> allocate(std::size_t bytes, std::uint32_t) override {
        auto* data = static_cast<std::byte*>(std::aligned_alloc(kPage, round_up(bytes, kPage)));
        if (data == nullptr) {
            return fail(ErrorCode::kOutOfMemory,
                        "no memory for " + std::to_string((bytes >> 20) + 1) + " MiB of KV cache");
        }
        return std::span(data, bytes);
    }
    void free(std::span<std::byte> block) override { std::free(block.data()); }
};

} // namespace

KvMemory& heap_kv_memory() {
    static HeapMemory memory;
    return memory;
}

const char* name_of(KvType type) {
    switch (type) {
    case KvType::kF32:
        return "f32";
    case KvType::kF16:
        return "f16";
    case KvType::kQ8_0:
        return "q8_0";
    }
    return "?";
}

Result<KvType> kv_type(std::string_view name) {
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
        if (name == name_of(type)) return type;
    }
    return fail(ErrorCode::kInvalidArgument,
                "\"" + std::string(name) + "\" is not a kind of KV cache: f32, f16, q8_0");
}

Result<KvLayout> KvLayout::of(const ModelShape& shape, KvType type) {
    if (type == KvType::kQ8_0 && shape.head_size % 32 != 0) {
        return fail(ErrorCode::kUnsupported,
                    "a Q8_0 KV cache needs heads of a multiple of 32; this model's are " +
                        std::to_string(shape.head_size) + ": use f16");
    }
    return KvLayout{type, shape.layers, shape.kv_heads, shape.head_size};
}

std::size_t KvLayout::part_bytes() const {
    const std::size_t elements = std::size_t{kKvBlockTokens} * head_size;
    switch (type) {
    case KvType::kF32:
        return 4 * elements;
    case KvType::kF16:
        return round_up(2 * elements, kLine);
    case KvType::kQ8_0:
        return round_up(elements + elements / 32 * 2, kLine);
    }
    return 0;
}

std::size_t KvLayout::block_bytes() const {
    return round_up(std::size_t{layers} * kv_heads * 2 * part_bytes(), kPage);
}

KvBlockRef::KvBlockRef(const KvBlockRef& other) : pool_(other.pool_), block_(other.block_) {
    if (block_ != nullptr) pool_->hold(*block_);
}

KvBlockRef::~KvBlockRef() {
    if (block_ != nullptr) pool_->drop(*block_);
}

bool KvBlockRef::alone() const { return pool_->alone(*block_); }

/// mutex_ is held. The lowest that is free.
std::uint32_t KvPool::take_slot() {
    const auto found = std::ranges::find(taken_, false);
    const auto slot = static_cast<std::uint32_t>(found - taken_.begin());
    if (found == taken_.end()) taken_.push_back(false);
    taken_[slot] = true;
    return slot;
}

Result<KvBlockRef> KvPool::take() {
    static std::atomic<std::uint64_t> next_id{1};
    std::unique_lock lock(mutex_);
    if (free_.empty()) {
        if (blocks_.size() + coming_ >= limit_) {
            return fail(ErrorCode::kOutOfMemory, "all " + std::to_string(limit_) + " blocks of " +
                                                     std::to_string(kKvBlockTokens) +
                                                     " tokens of the KV cache are in use");
        }
        // Without the lock: the memory below may ask others to make room, this pool among them.
        ++coming_;
        const std::uint32_t slot = take_slot();
        lock.unlock();
        auto memory = memory_.allocate(layout_.block_bytes(), slot);
        lock.lock();
        --coming_;
        if (!memory) {
            taken_[slot] = false;
            return memory.error();
        }
        auto block = std::make_unique<KvBlock>();
        block->bytes = *memory;
        block->id = next_id++;
        block->slot = slot;
        free_.push_back(block.get());
        blocks_.push_back(std::move(block));
    }
    KvBlock* block = free_.back();
    free_.pop_back();
    block->state = KvBlockState::kInUse;
    block->references = 1;
    return KvBlockRef(this, block);
}

void KvPool::hold(KvBlock& block) {
    const std::lock_guard lock(mutex_);
    ++block.references;
}

void KvPool::drop(KvBlock& block) {
    const std::lock_guard lock(mutex_);
    if (--block.references > 0) return;
    block.state = KvBlockState::kFree;
    free_.push_back(&block);
}

bool KvPool::alone(const KvBlock& block) const {
    const std::lock_guard lock(mutex_);
    return block.references == 1;
}

KvPoolStatus KvPool::status() const {
    const std::lock_guard lock(mutex_);
    const auto shared =
        std::ranges::count_if(blocks_, [](const auto& block) { return block->references > 1; });
    return {blocks_.size() - free_.size(), free_.size(), limit_, static_cast<std::size_t>(shared)};
}

std::uint64_t KvPool::trim() {
    const std::lock_guard lock(mutex_);
    std::uint64_t bytes = 0;
    for (const KvBlock* block : free_) {
        bytes += block->bytes.size();
        memory_.free(block->bytes);
        taken_[block->slot] = false;
    }
    free_.clear();
    std::erase_if(blocks_, [](const auto& block) { return block->state == KvBlockState::kFree; });
    return bytes;
}

} // namespace flex::engine
