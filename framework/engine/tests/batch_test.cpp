// Several sessions in one pass: each must not notice the others.
#include "engine/batch.h"

#include <gtest/gtest.h>

#include "engine/kernels/kernels.h"
#include "engine/sampler.h"
#include "engine/tests/loaded_model.h"
#include "engine/thread_pool.h"

namespace flex::engine {
namespace {

using testing::copy;
using testing::load;
using testing::prompt;
using testing::RandomModel;
using testing::same_bits;
using testing::Tokens;

/// Sessions over one batch and one pool of blocks.
struct Group {
    explicit Group(const Model& model, BatchOptions options = {}, KvType kv = KvType::kF16,
                   std::size_t blocks = 64)
        : batch(Batch::create(model, threads, options).value()),
          blocks(std::make_shared<KvPool>(KvLayout::of(model.shape(), kv).value(), blocks)) {}
    std::unique_ptr<Session> session(std::uint32_t context = 0) {
        return Session::create(batch, blocks, context).value();
    }
    ThreadPool threads{2};
    std::shared_ptr<Batch> batch;
    std::shared_ptr<KvPool> blocks;
};

TEST(Batch, each_session_gets_the_bits_it_gets_alone) {
    for (const TensorType type : {TensorType::kQ8_0, TensorType::kF16, TensorType::kF32}) {
        const auto loaded = load({.type = type});
        for (const KvType kv : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
            Group group(loaded->model, {.rows = 64}, kv);
            // Prompts of different lengths, in pieces that meet other sessions' single tokens.
            const std::vector<Tokens> prompts = {prompt(3), prompt(40, 97, 5), prompt(33, 97, 9),
                                                 prompt(70, 97, 2)};
            constexpr std::size_t kPiece = 13;
            constexpr int kSteps = 12;
            std::vector<std::unique_ptr<Session>> sessions;
            std::vector<Tokens> pending = prompts;
            std::vector<std::vector<std::vector<float>>> got(prompts.size());
            for (std::size_t i = 0; i < prompts.size(); ++i) sessions.push_back(group.session());
            for (int pass = 0; pass < kSteps; ++pass) {
                std::vector<BatchPart> parts;
                for (std::size_t i = 0; i < prompts.size(); ++i) {
                    const std::size_t count = std::min(kPiece, pending[i].size());
                    parts.push_back(
                        {sessions[i].get(), std::span(pending[i]).first(count), count == pending[i].size()});
                }
                ASSERT_TRUE(group.batch->run(parts).ok());
                for (std::size_t i = 0; i < prompts.size(); ++i) {
                    ASSERT_TRUE(parts[i].status.ok()) << parts[i].status.error().message;
                    pending[i].erase(pending[i].begin(), pending[i].begin() + static_cast<std::ptrdiff_t>(
                                                                                  parts[i].tokens.size()));
                    if (!parts[i].wants_logits) continue;
                    got[i].push_back(copy(parts[i].logits));
                    pending[i] = {greedy(parts[i].logits).value()};
                }
            }
            for (std::size_t i = 0; i < prompts.size(); ++i) {
                Group by_itself(loaded->model, {}, kv);
                const auto alone = by_itself.session();
                auto logits = copy(alone->prefill(prompts[i]));
                for (const auto& row : got[i]) {
                    ASSERT_TRUE(same_bits(row, logits)) << "session " << i << ", kv " << name_of(kv);
                    logits = copy(alone->decode(greedy(logits).value()));
                }
                EXPECT_GT(got[i].size(), 5u);
            }
        }
    }
}

TEST(Batch, one_session_s_trouble_is_its_own) {
    const auto loaded = load({});
    Group group(loaded->model, {.rows = 64}, KvType::kF16, 3);
    const auto good = group.session(), full = group.session(4), late = group.session(),
               gone = group.session();
    const Tokens tokens = prompt(5), many = prompt(33), wrong = {97};
    gone->cancel();
    std::vector<BatchPart> parts = {{good.get(), tokens, true},
                                    {full.get(), tokens, true}, // context of 4
                                    {gone.get(), tokens, true}, // cancelled
                                    {late.get(), many, true}};  // two blocks, one is left
    ASSERT_TRUE(group.batch->run(parts).ok());
    ASSERT_TRUE(parts[0].status.ok());
    EXPECT_EQ(parts[1].status.error().code, ErrorCode::kContextFull);
    EXPECT_EQ(parts[2].status.error().code, ErrorCode::kCancelled);
    EXPECT_EQ(parts[3].status.error().code, ErrorCode::kOutOfMemory);
    EXPECT_EQ(good->position(), 5u);
    for (const auto* session : {full.get(), late.get(), gone.get()}) EXPECT_EQ(session->position(), 0u);
    Group other(loaded->model);
    EXPECT_TRUE(same_bits(copy(parts[0].logits), copy(other.session()->prefill(tokens))));
    EXPECT_TRUE(parts[2].logits.empty());

    std::vector<BatchPart> nonsense = {{good.get(), wrong, true}};
    ASSERT_TRUE(group.batch->run(nonsense).ok());
    EXPECT_EQ(nonsense[0].status.error().code, ErrorCode::kInvalidArgument);
    const Tokens too_many = prompt(65);
    std::vector<BatchPart> heavy = {{good.get(), too_many, true}};
    EXPECT_EQ(group.batch->run(heavy).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(good->position(), 5u);
}

TEST(Batch, when_everybody_has_left_nothing_is_computed_to_the_end) {
    const auto loaded = load({});
    Group group(loaded->model);
    const auto a = group.session(), b = group.session();
    const Tokens tokens = prompt(5);
    a->cancel();
    b->cancel();
    std::vector<BatchPart> parts = {{a.get(), tokens, true}, {b.get(), tokens, true}};
    ASSERT_TRUE(group.batch->run(parts).ok());
    for (const BatchPart& part : parts) EXPECT_EQ(part.status.error().code, ErrorCode::kCancelled);
    a->clear_cancel();
    b->clear_cancel();
    ASSERT_TRUE(group.batch->run(parts).ok());
    EXPECT_TRUE(parts[0].status.ok());
    EXPECT_TRUE(same_bits(copy(parts[0].logits), copy(parts[1].logits)));
}

TEST(Batch, a_shared_prefix_is_as_good_as_a_computed_one_and_stays_what_it_was) {
    const auto loaded = load({});
    for (const std::uint32_t common : {32u, 45u, 64u}) {
        Group group(loaded->model);
        const auto first = group.session(), second = group.session();
        const Tokens tokens = prompt(70);
        (void)copy(first->prefill(tokens));
        second->share_prefix(*first, common);
        EXPECT_EQ(second->position(), common);
        EXPECT_EQ(group.blocks->status().in_use, 3u); // nothing was copied
        const Tokens other = prompt(20, 97, 50);
        const auto got = copy(second->prefill(other));

        Group alone(loaded->model);
        const auto session = alone.session();
        (void)copy(session->prefill(std::span(tokens).first(common)));
        EXPECT_TRUE(same_bits(got, copy(session->prefill(other)))) << common;
        session->rewind(0);
        (void)copy(session->prefill(tokens));
        EXPECT_TRUE(same_bits(copy(first->decode(3)), copy(session->decode(3)))) << common;
    }
}

TEST(Batch, blocks_go_back_to_the_pool_with_their_session) {
    const auto loaded = load({});
    Group group(loaded->model);
    auto session = group.session();
    (void)copy(session->prefill(prompt(100)));
    EXPECT_EQ(group.blocks->status().in_use, 4u);
    session.reset();
    EXPECT_EQ(group.blocks->status().in_use, 0u);
    EXPECT_EQ(group.blocks->trim(), 4 * group.blocks->layout().block_bytes());
}

} // namespace
} // namespace flex::engine
