#include "engine/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "engine/kernels/kernels.h"
#include "engine/tests/loaded_model.h"
#include "engine/tests/packed_copy.h"
#include "engine/thread_pool.h"

namespace flex::engine {
namespace {

using testing::copy;
using testing::load;
using testing::packed_copy;
using testing::prompt;
using testing::RandomModel;
using testing::same_bits;
using testing::Tokens;

std::vector<RandomModel> kinds() {
    std::vector<RandomModel> out;
    for (const TensorType type : {TensorType::kQ8_0, TensorType::kF16, TensorType::kBF16, TensorType::kF32}) {
        out.push_back({.llama = false, .tied = true, .type = type});
        out.push_back({.llama = true, .tied = false, .rope_factors = true, .type = type, .heads = 6});
    }
    return out;
}

TEST(Session, gives_the_same_bits_however_the_prompt_is_cut_and_whoever_computes_it) {
    ThreadPool one(1), three(3);
    const Tokens tokens = prompt(37);
    for (const RandomModel& kind : kinds()) {
        const auto loaded = load(kind);
        const auto run = [&](ThreadPool& pool, SessionOptions options, std::size_t prefill) {
            auto session = Session::create(loaded->model, pool, options);
            EXPECT_TRUE(session.ok());
            std::vector<float> last = copy((*session)->prefill(std::span(tokens).first(prefill)));
            for (std::size_t i = prefill; i < tokens.size(); ++i) last = copy((*session)->decode(tokens[i]));
            EXPECT_EQ((*session)->position(), tokens.size());
            return last;
        };
        const auto expected = run(one, {.kernels = &scalar_kernels()}, tokens.size());
        for (const Kernels* kernels : available_kernels()) {
            EXPECT_TRUE(same_bits(expected, run(one, {.kernels = kernels}, tokens.size()))) << kernels->name;
            EXPECT_TRUE(same_bits(expected, run(three, {.kernels = kernels}, tokens.size())))
                << kernels->name;
            EXPECT_TRUE(same_bits(expected, run(one, {.kernels = kernels}, 1)))
                << "one by one, " << kernels->name;
            EXPECT_TRUE(same_bits(expected, run(three, {.batch = 5, .kernels = kernels}, 30)))
                << kernels->name;
        }
    }
}

TEST(Session, gives_the_same_bits_with_every_kind_of_kv_cache_whoever_computes_it) {
    ThreadPool one(1), three(3);
    const Tokens tokens = prompt(75);                   // three blocks
    const RandomModel wide{.heads = 40, .kv_heads = 2}; // more heads in a group than fit in a tile
    for (const RandomModel& kind : {RandomModel{}, RandomModel{.llama = true, .heads = 6}, wide}) {
        const auto loaded = load(kind);
        for (const KvType kv : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
            const auto run = [&](ThreadPool& pool, const Kernels* kernels, std::uint32_t batch) {
                auto session =
                    Session::create(loaded->model, pool, {.batch = batch, .kernels = kernels, .kv = kv});
                EXPECT_TRUE(session.ok());
                return copy((*session)->prefill(tokens));
            };
            const auto expected = run(one, &scalar_kernels(), 128);
            for (const Kernels* kernels : available_kernels()) {
                EXPECT_TRUE(same_bits(expected, run(three, kernels, 128))) << kernels->name << name_of(kv);
                EXPECT_TRUE(same_bits(expected, run(three, kernels, 1))) << kernels->name << name_of(kv);
                EXPECT_TRUE(same_bits(expected, run(one, kernels, 19))) << kernels->name << name_of(kv);
            }
        }
    }
}

TEST(Session, the_small_kinds_of_kv_cache_cost_little_exactness) {
    ThreadPool pool(1);
    // Weights in f32, so that nothing else is rounded.
    const auto loaded = load({.type = TensorType::kF32});
    const auto run = [&](KvType kv) {
        auto session = Session::create(loaded->model, pool, {.kv = kv});
        EXPECT_TRUE(session.ok());
        return copy((*session)->prefill(prompt(90)));
    };
    const auto exact = run(KvType::kF32), half = run(KvType::kF16), bytes = run(KvType::kQ8_0);
    const auto distance = [&](const std::vector<float>& other) {
        double difference = 0, size = 0;
        for (std::size_t i = 0; i < exact.size(); ++i) {
            difference += std::pow(static_cast<double>(exact[i]) - static_cast<double>(other[i]), 2);
            size += std::pow(static_cast<double>(exact[i]), 2);
        }
        return std::sqrt(difference / size);
    };
    EXPECT_GT(distance(half), 0.0);
    EXPECT_LT(distance(half), 1e-3);
    EXPECT_GT(distance(bytes), distance(half));
    EXPECT_LT(distance(bytes), 2e-2);
}

TEST(Session, takes_blocks_as_it_grows_and_gives_them_up_when_it_rewinds) {
    const auto loaded = load({});
    ThreadPool pool(1);
    auto session = Session::create(loaded->model, pool);
    ASSERT_TRUE(session.ok());
    EXPECT_EQ((*session)->blocks(), 0u);
    (void)copy((*session)->prefill(prompt(32)));
    EXPECT_EQ((*session)->blocks(), 1u);
    (void)copy((*session)->decode(1));
    EXPECT_EQ((*session)->blocks(), 2u);
    (*session)->rewind(32);
    EXPECT_EQ((*session)->blocks(), 1u);
    (*session)->rewind(0);
    EXPECT_EQ((*session)->blocks(), 0u);
}

TEST(Session, logits_at_several_positions_are_those_of_each_prefix) {
    const auto loaded = load({});
    ThreadPool pool(2);
    const Tokens tokens = prompt(20);
    auto session = Session::create(loaded->model, pool, {.batch = 6});
    ASSERT_TRUE(session.ok());
    const std::vector<std::uint32_t> rows = {0, 5, 6, 19};
    const auto all = (*session)->logits(tokens, rows);
    ASSERT_TRUE(all.ok());
    const std::size_t vocabulary = loaded->model.shape().vocabulary;
    ASSERT_EQ(all->size(), rows.size() * vocabulary);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        (*session)->rewind(0);
        const auto prefix = copy((*session)->prefill(std::span(tokens).first(rows[i] + 1)));
        const std::vector<float> row(all->begin() + static_cast<std::ptrdiff_t>(i * vocabulary),
                                     all->begin() + static_cast<std::ptrdiff_t>((i + 1) * vocabulary));
        EXPECT_TRUE(same_bits(prefix, row)) << rows[i];
    }
}

TEST(Session, rewinding_forgets_what_came_after) {
    const auto loaded = load({});
    ThreadPool pool(1);
    auto session = Session::create(loaded->model, pool);
    ASSERT_TRUE(session.ok());
    (void)copy((*session)->prefill(prompt(10)));
    const auto expected = copy((*session)->decode(3));
    (void)copy((*session)->prefill(prompt(9)));
    (*session)->rewind(10);
    EXPECT_EQ((*session)->position(), 10u);
    EXPECT_TRUE(same_bits(expected, copy((*session)->decode(3))));
}

TEST(Session, a_prompt_longer_than_the_context_is_refused_with_both_numbers) {
    const auto loaded = load({});
    ThreadPool pool(1);
    auto session = Session::create(loaded->model, pool, {.context = 16});
    ASSERT_TRUE(session.ok());
    const auto refused = (*session)->prefill(prompt(17));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::kContextFull);
    EXPECT_NE(refused.error().message.find("17"), std::string::npos);
    EXPECT_NE(refused.error().message.find("16"), std::string::npos);
    EXPECT_EQ((*session)->position(), 0u);
    EXPECT_TRUE((*session)->prefill(prompt(16)).ok());
    EXPECT_EQ((*session)->decode(0).error().code, ErrorCode::kContextFull);
}

TEST(Session, nonsense_is_refused_and_changes_nothing) {
    const auto loaded = load({});
    ThreadPool pool(1);
    auto session = Session::create(loaded->model, pool);
    ASSERT_TRUE(session.ok());
    EXPECT_EQ((*session)->prefill({}).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ((*session)->prefill(Tokens{1, 97}).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ((*session)->decode(0xffffffff).error().code, ErrorCode::kInvalidArgument);
    EXPECT_FALSE((*session)->logits(prompt(4), std::vector<std::uint32_t>{4}).ok());
    EXPECT_FALSE((*session)->logits(prompt(4), std::vector<std::uint32_t>{2, 1}).ok());
    EXPECT_EQ((*session)->position(), 0u);
    EXPECT_EQ(Session::create(loaded->model, pool, {.context = 129}).error().code,
              ErrorCode::kInvalidArgument);
}

/// Binds a stage's tensors when it is acquired and takes them away when it is released.
class StreamingGate : public WeightGate {
public:
    StreamingGate(Model& model, std::span<const std::byte> file) : model_(model), file_(file) {}
    Status acquire(Stage stage) override {
        acquired.push_back(stage);
        if (stage == fail_at) return fail(ErrorCode::kIo, "the disk is gone");
        if (on_acquire) on_acquire(stage);
        for (const TensorNeed& need : model_.tensors(stage)) {
            bound_[need.name] = packed_copy(need, file_);
            FLEX_TRY(model_.bind(need.name, {bound_[need.name].get(), need.bytes}));
        }
        ++held;
        return {};
    }
    void release(Stage stage) override {
        model_.unbind(stage);
        --held;
    }
    std::vector<Stage> acquired;
    std::function<void(Stage)> on_acquire;
    Stage fail_at = ~0u;
    int held = 0;

private:
    Model& model_;
    std::span<const std::byte> file_;
    std::map<std::string, Buffer<std::byte>> bound_;
};

TEST(Session, computes_with_weights_that_come_and_go_layer_by_layer) {
    ThreadPool pool(2);
    for (const bool tied : {true, false}) {
        const auto resident = load({.tied = tied}), streamed = load({.tied = tied});
        for (Stage stage = 0; stage < streamed->model.stages(); ++stage) streamed->model.unbind(stage);
        StreamingGate gate(streamed->model, streamed->file);
        auto all = Session::create(resident->model, pool);
        auto some = Session::create(streamed->model, pool, {.gate = &gate});
        ASSERT_TRUE(all.ok() && some.ok());
        EXPECT_TRUE(same_bits(copy((*all)->prefill(prompt(9))), copy((*some)->prefill(prompt(9)))));
        EXPECT_EQ(gate.acquired, (std::vector<Stage>{0, 1, 2, 3, 4}));
        EXPECT_EQ(gate.held, 0);
        EXPECT_TRUE(same_bits(copy((*all)->decode(5)), copy((*some)->decode(5))));
        EXPECT_EQ(gate.held, 0);
    }
}

TEST(Session, an_error_of_the_gate_is_passed_on_and_nothing_stays_held) {
    const auto loaded = load({});
    ThreadPool pool(1);
    StreamingGate gate(loaded->model, loaded->file);
    auto session = Session::create(loaded->model, pool, {.gate = &gate});
    ASSERT_TRUE(session.ok());
    for (Stage stage = 0; stage < loaded->model.stages(); ++stage) {
        gate.fail_at = stage;
        const auto failed = (*session)->prefill(prompt(4));
        ASSERT_FALSE(failed.ok());
        EXPECT_EQ(failed.error().message, "the disk is gone");
        EXPECT_EQ(gate.held, 0);
        EXPECT_EQ((*session)->position(), 0u);
    }
}

TEST(Session, cancelling_stops_at_the_next_layer_and_leaves_the_session_usable) {
    const auto loaded = load({});
    ThreadPool pool(2);
    StreamingGate gate(loaded->model, loaded->file);
    auto created = Session::create(loaded->model, pool, {.gate = &gate});
    ASSERT_TRUE(created.ok());
    Session& session = **created;
    const auto expected = copy(session.prefill(prompt(8)));
    session.rewind(0);
    gate.acquired.clear();
    gate.on_acquire = [&](Stage stage) {
        if (stage == 2) session.cancel();
    };
    const auto stopped = session.prefill(prompt(8));
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
    EXPECT_EQ(gate.acquired, (std::vector<Stage>{0, 1, 2}));
    EXPECT_EQ(session.position(), 0u);
    EXPECT_EQ(gate.held, 0);
    gate.on_acquire = nullptr;
    session.clear_cancel();
    EXPECT_TRUE(same_bits(expected, copy(session.prefill(prompt(8)))));
}

TEST(Session, weights_that_are_not_there_are_an_error_and_not_a_crash) {
    const auto loaded = load({});
    ThreadPool pool(1);
    auto session = Session::create(loaded->model, pool);
    ASSERT_TRUE(session.ok());
    loaded->model.unbind(2);
    EXPECT_EQ((*session)->prefill(prompt(3)).error().code, ErrorCode::kInternal);
}

TEST(Session, counts_its_tokens_and_its_time) {
    const auto loaded = load({});
    ThreadPool pool(1);
    auto session = Session::create(loaded->model, pool);
    ASSERT_TRUE(session.ok());
    (void)copy((*session)->prefill(prompt(12)));
    (void)copy((*session)->decode(1));
    const Timings& t = (*session)->timings();
    EXPECT_EQ(t.prefill_tokens, 12u);
    EXPECT_EQ(t.decode_tokens, 1u);
    EXPECT_GT(t.prefill_ns, 0u);
    EXPECT_GT(t.decode_ns, 0u);
    EXPECT_LE(t.attention_ns, t.prefill_ns + t.decode_ns);
}

// ---- model ----

std::string refusal(const testing::GgufBuilder& builder) {
    const auto bytes = builder.build();
    const auto gguf = Gguf::parse(bytes);
    if (!gguf.ok()) return gguf.error().message;
    const auto model = Model::plan(*gguf);
    return model.ok() ? "" : model.error().message;
}

TEST(Model, lists_what_it_needs_stage_by_stage) {
    const auto loaded = load({.tied = false});
    const Model& model = loaded->model;
    EXPECT_EQ(model.stages(), 5u);
    EXPECT_EQ(model.tensors(0).front().name, "token_embd.weight");
    EXPECT_EQ(model.tensors(1).size(), 11u);
    EXPECT_EQ(model.tensors(2).front().name, "blk.1.attn_norm.weight");
    EXPECT_EQ(model.tensors(4).back().name, "output.weight");
    EXPECT_TRUE(model.tensors(5).empty());
    Stage last = 0;
    for (const TensorNeed& need : model.tensors()) {
        EXPECT_GE(need.stage, last);
        last = need.stage;
    }
}

TEST(Model, binds_only_exact_and_aligned_bytes_of_known_tensors) {
    auto loaded = load({});
    const std::vector<std::byte> bytes(1 << 16);
    const TensorNeed& norm = loaded->model.tensors(1).front();
    EXPECT_EQ(loaded->model.bind("nonsense", bytes).error().code, ErrorCode::kNotFound);
    EXPECT_FALSE(loaded->model.bind(norm.name, std::span(bytes).first(norm.bytes - 1)).ok());
    EXPECT_FALSE(loaded->model.bind(norm.name, std::span(bytes).first(norm.bytes + 1)).ok());
    EXPECT_FALSE(loaded->model.bind(norm.name, std::span(bytes).subspan(2, norm.bytes)).ok());
    EXPECT_TRUE(loaded->model.bind(norm.name, std::span(bytes).first(norm.bytes)).ok());
    loaded->model.unbind(1);
    EXPECT_FALSE(loaded->model.bound(1));
    EXPECT_TRUE(loaded->model.bound(2));
}

TEST(Model, yarn_stretches_the_slow_dimensions_only) {
    // Qwen3's own setting: 32768 tokens stretched by 4. The paper's bounds are then 23 and 40 of 64 pairs:
    // floor(128 ln(32768 / 64 pi) / 2 ln 1e6) and ceil(128 ln(32768 / 2 pi) / 2 ln 1e6).
    ModelShape shape;
    shape.rope_dims = 128;
    shape.rope_base = 1e6;
    shape.rope_scale = 4;
    shape.rope_yarn = true;
    shape.yarn_context = 32768;
    EXPECT_EQ(yarn_share(shape, 0), 1.0);
    EXPECT_EQ(yarn_share(shape, 23), 1.0);
    EXPECT_NEAR(yarn_share(shape, 31), 1.0 - 8.0 / 17, 1e-12);
    EXPECT_EQ(yarn_share(shape, 40), 0.0);
    EXPECT_EQ(yarn_share(shape, 63), 0.0);
}

TEST(Model, yarn_by_factor_one_changes_nothing_and_by_four_what_it_should) {
    const auto logits_with = [](const std::function<void(testing::GgufBuilder&)>& change) {
        testing::GgufBuilder b = RandomModel{}.builder();
        change(b);
        const auto bytes = b.build();
        const auto gguf = Gguf::parse(bytes).value();
        const auto model = Model::from_gguf(gguf, bytes).value();
        ThreadPool pool(1);
        const auto session = Session::create(model, pool, {}).value();
        const std::vector<TokenId> ids = {1, 2, 3, 4, 5, 6, 7, 8};
        const std::vector<std::uint32_t> last = {7};
        return session->logits(ids, last).value();
    };
    const auto plain = logits_with([](auto&) {});
    const auto scaled = [](const char* type, float factor, std::uint32_t context) {
        return [=](testing::GgufBuilder& b) {
            b.string("qwen3.rope.scaling.type", type).f32("qwen3.rope.scaling.factor", factor);
            if (context != 0) b.u32("qwen3.rope.scaling.original_context_length", context);
        };
    };
    EXPECT_EQ(logits_with(scaled("yarn", 1, 64)), plain);
    const auto stretched = logits_with(scaled("yarn", 4, 64));
    EXPECT_NE(stretched, plain);
    EXPECT_NE(stretched, logits_with(scaled("linear", 4, 0)));
}

TEST(Model, refuses_what_it_cannot_compute_by_name) {
    const auto with = [](const std::function<void(testing::GgufBuilder&)>& change) {
        testing::GgufBuilder b = RandomModel{}.builder();
        change(b);
        return refusal(b);
    };
    EXPECT_EQ(with([](auto&) {}), "");
    EXPECT_NE(with([](auto& b) { b.u32("qwen3.expert_count", 8); }).find("experts"), std::string::npos);
    EXPECT_NE(with([](auto& b) { b.string("qwen3.rope.scaling.type", "longrope"); }).find("rope.scaling"),
              std::string::npos);
    EXPECT_NE(with([](auto& b) {
                  b.string("qwen3.rope.scaling.type", "yarn").f32("qwen3.rope.scaling.yarn_ext_factor", 0.5F);
              }).find("yarn_ext_factor"),
              std::string::npos);
    EXPECT_NE(with([](auto& b) {
                  b.string("qwen3.rope.scaling.type", "yarn").f32("qwen3.rope.scaling.factor", 0.5F);
              }).find("rope.scaling.factor"),
              std::string::npos);
    EXPECT_NE(with([](auto& b) {
                  b.tensor("blk.0.attn_q.bias", {1}, TensorType::kF32, std::vector<std::byte>(4));
              }).find("attn_q.bias"),
              std::string::npos);
    testing::GgufBuilder other;
    other.string("general.architecture", "mamba");
    EXPECT_NE(refusal(other).find("'mamba'"), std::string::npos);
}

TEST(Model, numbers_that_contradict_the_tensors_are_refused) {
    const auto tensors = RandomModel{};
    for (const std::function<void(RandomModel&)>& change : std::vector<std::function<void(RandomModel&)>>{
             [](RandomModel& m) { m.heads = 3; },      // no multiple of the KV heads
             [](RandomModel& m) { m.head_size = 33; }, // odd (and no whole blocks)
             [](RandomModel& m) { m.context = 0; },
         }) {
        RandomModel m = tensors;
        m.type = TensorType::kF32;
        change(m);
        EXPECT_NE(refusal(m.builder()), "");
    }
    testing::GgufBuilder empty;
    empty.string("general.architecture", "llama");
    EXPECT_NE(refusal(empty).find("block_count"), std::string::npos);
    testing::GgufBuilder deep;
    deep.string("general.architecture", "llama")
        .u32("llama.block_count", 1000)
        .u32("llama.embedding_length", 32);
    deep.u32("llama.feed_forward_length", 32)
        .u32("llama.attention.head_count", 1)
        .u32("llama.context_length", 64);
    deep.f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    deep.tensor("token_embd.weight", {32, 4}, TensorType::kF32, std::vector<std::byte>(512));
    EXPECT_NE(refusal(deep).find("too few"), std::string::npos);
}

} // namespace
} // namespace flex::engine
