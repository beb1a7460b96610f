// Several models in little memory.
#include "registry_fixture.h"

namespace flex::pipeline {
namespace {

TEST_F(RegistryTest, a_model_is_opened_once_and_stays) {
    const auto first = registry_->get("a").value();
    EXPECT_EQ(first, registry_->get("a").value());
    ASSERT_TRUE(load(*first).ok());
    EXPECT_EQ(registry_->names().value(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(registry_->status().size(), 1u);
}

TEST(DefaultKv, is_exact_where_that_costs_little) {
    engine::ModelShape shape;
    shape.layers = 4;
    shape.kv_heads = 2;
    shape.heads = 4;
    shape.head_size = 32;
    EXPECT_EQ(default_kv(shape, 4096), engine::KvType::kF32); // 8 MiB
    EXPECT_EQ(default_kv(shape, 16384), engine::KvType::kF32);
    EXPECT_EQ(default_kv(shape, 16384 + 32), engine::KvType::kF16);
}

TEST_F(RegistryTest, a_newer_package_takes_the_place_of_the_loaded_one) {
    const auto old = registry_->get("a").value();
    seal("a", 6);
    const auto now = registry_->get("a").value();
    EXPECT_NE(now, old);
    EXPECT_EQ(now->weights->info().version, 6u);
    EXPECT_TRUE(load(*now).ok());
    EXPECT_TRUE(load(*old).ok()); // who still computes with the old one goes on
}

TEST_F(RegistryTest, a_file_that_only_claims_to_be_newer_changes_nothing) {
    const auto loaded = registry_->get("a").value();
    ASSERT_TRUE(load(*loaded).ok());
    auto content = port::read_file(path("a"), 1u << 30).value();
    content[package::kHeaderBytes + 16] ^= std::byte{0x80}; // the version, without the publisher's signature
    ASSERT_TRUE(port::write_file(path("a"), content).ok());
    EXPECT_EQ(registry_->get("a").value(), loaded);
    ASSERT_TRUE(port::write_file(path("a"), std::span(content).first(10)).ok());
    EXPECT_EQ(registry_->get("a").value(), loaded);
    std::filesystem::remove(path("a"));
    EXPECT_EQ(registry_->get("a").value(), loaded);
}

TEST_F(RegistryTest, an_idle_model_makes_room_for_the_next) {
    {
        const auto a = registry_->get("a").value();
        ASSERT_TRUE(load(*a).ok());
    }
    port_->set_budget(port_->used() + kMiB); // a whole b does not fit beside a
    const auto b = registry_->get("b").value();
    EXPECT_TRUE(load(*b).ok());
    const auto status = registry_->status();
    ASSERT_EQ(status.size(), 2u);
    EXPECT_LT(status[0].stages_loaded, status[0].stages); // a: its tail went
    EXPECT_EQ(status[1].stages_loaded, status[1].stages);
}

// A client reads its last token before the server lets go of the model.
TEST_F(RegistryTest, what_a_request_lets_go_that_ends_a_moment_later_is_waited_for) {
    auto a = registry_->get("a").value();
    ASSERT_TRUE(load(*a).ok());
    port_->set_budget(port_->used() + 3 * kMiB);
    const auto b = registry_->get("b").value();
    for (int i = 0; i < 5000 && port_->refused() < 3; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_GE(port_->refused(), 3u);
    a.reset();
    const Status loaded = load(*b);
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
}

TEST_F(RegistryTest, nothing_is_waited_for_that_nobody_uses) {
    make_registry({.threads = 1, .context = 64, .memory_patience = std::chrono::hours(1)});
    const auto a = registry_->get("a").value();
    ASSERT_TRUE(load(*a).ok());
    port_->set_budget(port_->used() + 64u * 1024); // not a stage, or that would be taken from it again
    ASSERT_TRUE(registry_->get("b").ok()); // and gone
    unsigned before = 0, now = port_->refused(), looks = 0;
    do {
        before = now;
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        now = port_->refused();
    } while (now != before && ++looks < 25);
    EXPECT_GT(now, 0u);
    EXPECT_EQ(now, before);
}

TEST_F(RegistryTest, a_model_in_use_never_makes_room) {
    make_registry({.threads = 1, .context = 64, .memory_patience = std::chrono::milliseconds(100)});
    const auto a = registry_->get("a").value();
    ASSERT_TRUE(load(*a).ok());
    port_->set_budget(port_->used() + kMiB);
    const auto b = registry_->get("b");
    if (b) {
        const auto status = load(**b);
        ASSERT_FALSE(status.ok());
        EXPECT_EQ(status.error().code, ErrorCode::kOutOfMemory);
    } else {
        EXPECT_EQ(b.error().code, ErrorCode::kOutOfMemory);
    }
    EXPECT_EQ(registry_->get("a").value(), a);
}

TEST_F(RegistryTest, after_a_shortage_the_model_can_be_had_again) {
    port_->set_budget(kMiB);
    auto refused = registry_->get("a");
    if (refused) {
        EXPECT_FALSE(load(**refused).ok());
    }
    refused = fail(ErrorCode::kInternal, "let it go");
    port_->set_budget(100 * kMiB);
    const auto a = registry_->get("a").value();
    EXPECT_TRUE(load(*a).ok());
}

// Its loader must neither drop the model it works for nor wait for itself.
TEST_F(RegistryTest, a_model_whose_client_left_during_a_shortage_does_no_harm) {
    for (std::uint64_t budget = kMiB; budget < 6 * kMiB; budget += kMiB) {
        port_->set_budget(budget);
        static_cast<void>(registry_->get("a"));
        static_cast<void>(registry_->get("b"));
    }
    port_->set_budget(100 * kMiB);
    // A loader that was refused before the budget rose may still be about to say so: that request fails, the
    // next does not.
    if (const auto a = registry_->get("a").value(); !load(*a)) {
        EXPECT_TRUE(a->weights->failed());
    }
    EXPECT_TRUE(load(*registry_->get("a").value()).ok());
}

TEST_F(RegistryTest, giving_back_returns_all_memory) {
    { ASSERT_TRUE(load(*registry_->get("a").value()).ok()); }
    { ASSERT_TRUE(load(*registry_->get("b").value()).ok()); }
    EXPECT_GT(registry_->give_back(UINT64_MAX), 6 * kMiB);
    EXPECT_EQ(port_->used(), 0u);
}

TEST_F(RegistryTest, a_plain_gguf_is_refused_where_memory_is_protected) {
    const auto added = registry_->add_gguf("plain", FLEX_SOURCE_DIR "/models/demo/demo.gguf");
    ASSERT_FALSE(added.ok());
    EXPECT_EQ(added.error().code, ErrorCode::kUnsupported);
}

TEST(DefaultContext, the_kv_cache_takes_at_most_a_quarter_of_the_machine) {
    engine::ModelShape shape;
    shape.layers = 28;
    shape.kv_heads = 8;
    shape.head_size = 128;
    shape.context = 40960;
    const auto f16 = engine::KvLayout::of(shape, engine::KvType::kF16).value();
    EXPECT_EQ(default_context(f16, shape.context, 0), 4096u);
    EXPECT_EQ(default_context(f16, shape.context, 16ull << 30), 4096u);
    const std::uint32_t small = default_context(f16, shape.context, 1ull << 30);
    EXPECT_LT(small, 4096u);
    EXPECT_LE(f16.bytes(small), 256 * kMiB);
    EXPECT_GT(f16.bytes(small + 1), 256 * kMiB);
    EXPECT_EQ(default_context(f16, shape.context, kMiB), 256u);
    EXPECT_EQ(default_context(f16, 100, kMiB), 100u);
    const auto q8 = engine::KvLayout::of(shape, engine::KvType::kQ8_0).value();
    EXPECT_GT(default_context(q8, shape.context, 1ull << 30), small);
}

} // namespace
} // namespace flex::pipeline
