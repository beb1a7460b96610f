#include "engine/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include <set>

namespace flex::engine {
namespace {

ModelShape shape() {
    ModelShape s;
    s.layers = 3;
    s.kv_heads = 2;
    s.head_size = 64;
    return s;
}

/// Counts what is allocated; refuses when told to.
class CountingMemory final : public KvMemory {
public:
    Result<std::span<std::byte>> allocate(std::size_t bytes, std::uint32_t slot) override {
        slots.insert(slot);
        if (refuse) return fail(ErrorCode::kOutOfMemory, "none left");
        held += bytes;
        return heap_kv_memory().allocate(bytes, slot);
    }
    void free(std::span<std::byte> block) override {
        held -= block.size();
        heap_kv_memory().free(block);
    }
    std::size_t held = 0;
    bool refuse = false;
    std::set<std::uint32_t> slots; ///< that blocks were asked for
};

TEST(KvLayout, a_block_holds_keys_and_values_of_every_layer_and_head) {
    const std::size_t elements = 3ull * 2 * 2 * 64 * kKvBlockTokens;
    EXPECT_EQ(KvLayout::of(shape(), KvType::kF32)->block_bytes(), 4 * elements);
    EXPECT_EQ(KvLayout::of(shape(), KvType::kF16)->block_bytes(), 2 * elements);
    EXPECT_EQ(KvLayout::of(shape(), KvType::kQ8_0)->block_bytes(), (elements / 32 * 34 + 4095) / 4096 * 4096);
    const KvLayout layout = *KvLayout::of(shape(), KvType::kF16);
    EXPECT_EQ(layout.offset(2, 1) + 2 * layout.part_bytes(), 2 * elements);
    EXPECT_EQ(layout.bytes(33), 2 * layout.block_bytes());
}

TEST(KvLayout, q8_0_is_refused_for_heads_it_does_not_divide) {
    ModelShape odd = shape();
    odd.head_size = 80;
    EXPECT_EQ(KvLayout::of(odd, KvType::kQ8_0).error().code, ErrorCode::kUnsupported);
    EXPECT_TRUE(KvLayout::of(odd, KvType::kF16).ok());
}

TEST(KvLayout, kinds_go_by_their_names) {
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8_0})
        EXPECT_EQ(kv_type(name_of(type)).value(), type);
    EXPECT_EQ(kv_type("f8").error().code, ErrorCode::kInvalidArgument);
}

TEST(KvPool, takes_memory_as_it_is_needed_and_no_more_than_its_limit) {
    CountingMemory memory;
    {
        KvPool pool(*KvLayout::of(shape(), KvType::kF16), 2, memory);
        EXPECT_EQ(memory.held, 0u);
        auto a = pool.take().value();
        EXPECT_EQ(memory.held, pool.layout().block_bytes());
        auto b = pool.take().value();
        EXPECT_NE(a.id(), b.id());
        EXPECT_EQ(pool.take().error().code, ErrorCode::kOutOfMemory);
        b = KvBlockRef();
        EXPECT_EQ(pool.status().free, 1u);
        EXPECT_TRUE(pool.take().ok()); // the freed one, nothing new
        EXPECT_EQ(memory.held, 2 * pool.layout().block_bytes());
        EXPECT_EQ(pool.trim(), pool.layout().block_bytes());
        EXPECT_EQ(memory.held, pool.layout().block_bytes()); // what is in use stays
    }
    EXPECT_EQ(memory.held, 0u);
}

TEST(KvPool, a_refusal_from_below_leaves_the_pool_as_it_was) {
    CountingMemory memory;
    KvPool pool(*KvLayout::of(shape(), KvType::kQ8_0), 2, memory);
    memory.refuse = true;
    EXPECT_EQ(pool.take().error().message, "none left");
    memory.refuse = false;
    const auto a = pool.take().value(), b = pool.take().value();
    EXPECT_EQ(pool.status().in_use, 2u);
}

TEST(KvPool, a_shared_block_is_free_when_the_last_holder_lets_go) {
    KvPool pool(*KvLayout::of(shape(), KvType::kF16), 4);
    auto first = pool.take().value();
    {
        const KvBlockRef second = first;
        EXPECT_FALSE(first.alone());
        EXPECT_EQ(pool.status().shared, 1u);
        EXPECT_EQ(pool.status().in_use, 1u);
    }
    EXPECT_TRUE(first.alone());
    const KvBlockRef moved = std::move(first);
    EXPECT_EQ(pool.status().in_use, 1u);
    EXPECT_TRUE(moved.alone());
}

TEST(KvPool, a_block_has_a_slot_below_the_limit_that_no_other_has) {
    CountingMemory memory;
    KvPool pool(*KvLayout::of(shape(), KvType::kF16), 3, memory);
    auto a = pool.take().value(), b = pool.take().value();
    EXPECT_EQ(a.slot(), 0u);
    EXPECT_EQ(b.slot(), 1u);
    const std::uint64_t id = a.id();
    a = {};
    pool.trim();
    memory.refuse = true;
    EXPECT_FALSE(pool.take().ok());
    memory.refuse = false;
    const auto c = pool.take().value(), d = pool.take().value();
    EXPECT_EQ(c.slot(), 0u) << "free again after trim() and a refusal";
    EXPECT_EQ(d.slot(), 2u);
    EXPECT_NE(c.id(), id);
    EXPECT_EQ(memory.slots, (std::set<std::uint32_t>{0, 1, 2}));
    EXPECT_NE(KvPool(pool.layout(), 1).take()->id(), KvPool(pool.layout(), 1).take()->id())
        << "two pools have no block of the same id";
}

} // namespace
} // namespace flex::engine
