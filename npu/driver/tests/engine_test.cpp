// The engine on an NPU gives the CPU's bits, whatever the NPU does.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>

#include "engine/batch.h"
#include "engine/sampler.h"
#include "engine/tests/loaded_model.h"
#include "engine/thread_pool.h"
#include "memory/kv_arena.h"
#include "npu/driver/tests/local_npu.h"

namespace flex::engine {
namespace {

using npu::testing::LocalNpu;
using testing::copy;
using testing::load;
using testing::prompt;
using testing::RandomModel;
using testing::same_bits;
using testing::Tokens;

SessionOptions on(npu::Npu& npu, KvType kv = KvType::kF16) {
    SessionOptions options;
    options.npu = &npu;
    options.npu_use = NpuUse::kOn;
    options.kv = kv;
    return options;
}

std::vector<char> read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// A prompt of `length`, a few tokens of answer, and back to the middle of the prompt: all logits.
std::vector<std::vector<float>> converse(Session& session, std::size_t length, std::uint32_t vocabulary) {
    std::vector<std::vector<float>> all;
    const Tokens tokens = prompt(length, vocabulary);
    all.push_back(copy(session.prefill(tokens)));
    for (int i = 0; i < 4; ++i) all.push_back(copy(session.decode(greedy(all.back()).value())));
    session.rewind(static_cast<std::uint32_t>(length / 2));
    all.push_back(copy(session.prefill(prompt(7, vocabulary, 3))));
    all.push_back(copy(session.decode(5)));
    return all;
}

void expect_same(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << "logits " << i;
}

class GoldenOnNpu : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, GoldenOnNpu, ::testing::Values("llama-a", "qwen3-a"), [](const auto& info) {
    std::string name = info.param;
    for (char& c : name) c = c == '-' ? '_' : c;
    return name;
});

TEST_P(GoldenOnNpu, every_logit_has_the_cpu_s_bits) {
    const char* shared = std::getenv("FLEX_SHARED_DIR");
    const std::string folder = shared != nullptr ? shared : FLEX_SOURCE_DIR "/../shared";
    const std::string path = folder + "/data/golden/" + GetParam();
    const std::vector<char> file = read(path + ".gguf"), text = read(path + ".json");
    if (file.empty() || text.empty()) GTEST_SKIP() << "no golden data beside the repository";
    const auto bytes = std::as_bytes(std::span(file));
    const auto model = Model::from_gguf(Gguf::parse(bytes).value(), bytes);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const auto tokens = nlohmann::json::parse(text)["prompt"].get<Tokens>();
    std::vector<std::uint32_t> rows(tokens.size());
    for (std::uint32_t i = 0; i < rows.size(); ++i) rows[i] = i;
    ThreadPool pool(2);
    for (const KvType kv : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
        LocalNpu npu;
        const auto here = Session::create(*model, pool, on(npu, kv));
        const auto cpu = Session::create(*model, pool, {.kv = kv});
        if (!cpu.ok()) continue; // heads too small for a Q8_0 cache
        ASSERT_TRUE(here.ok()) << here.error().message;
        const auto expected = (*cpu)->logits(tokens, rows), got = (*here)->logits(tokens, rows);
        ASSERT_TRUE(expected.ok() && got.ok());
        EXPECT_TRUE(same_bits(*expected, *got)) << name_of(kv);
        EXPECT_GT(npu.submitted, 0u);
        for (const TokenId token : {TokenId{1}, TokenId{7}, TokenId{9}}) {
            EXPECT_TRUE(same_bits(copy((*cpu)->decode(token)), copy((*here)->decode(token)))) << name_of(kv);
        }
        EXPECT_EQ((*here)->batch_timings().npu_passes, 4u);
        EXPECT_EQ((*here)->batch_timings().npu_failures, 0u);
    }
}

/// Models that differ in everything the NPU has to know.
std::vector<RandomModel> kinds() {
    RandomModel odd{.tied = false, .layers = 2, .width = 96, .ff = 160, .heads = 6, .kv_heads = 3, .seed = 4};
    odd.head_size = 64; // heads wider than the residual stream
    return {{},
            {.llama = true, .rope_factors = true, .seed = 2},
            {.tied = false, .layers = 6, .seed = 3},
            odd,
            {.llama = true, .layers = 1, .heads = 8, .kv_heads = 8, .seed = 5}};
}

TEST(EngineOnNpu, prefill_decode_and_rewind_give_the_cpu_s_bits) {
    ThreadPool pool(2);
    for (const RandomModel& kind : kinds()) {
        const auto loaded = load(kind);
        for (const KvType kv : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
            LocalNpu npu;
            {
                const auto here = Session::create(loaded->model, pool, on(npu, kv)).value();
                const auto cpu = Session::create(loaded->model, pool, {.kv = kv}).value();
                expect_same(converse(*cpu, 70, kind.vocabulary), converse(*here, 70, kind.vocabulary));
                EXPECT_EQ(here->batch_timings().npu_passes, 7u);
                EXPECT_FALSE(npu.held);
            }
            EXPECT_EQ(npu.mapped, 0) << "a region is left";
        }
    }
}

TEST(EngineOnNpu, a_job_takes_what_fits_of_a_model_with_many_layers) {
    const auto loaded = load({.layers = 70});
    ThreadPool pool(2);
    LocalNpu npu;
    const auto here = Session::create(loaded->model, pool, on(npu)).value();
    const auto cpu = Session::create(loaded->model, pool).value();
    expect_same(converse(*cpu, 20, 97), converse(*here, 20, 97));
    EXPECT_EQ(here->batch_timings().npu_failures, 0u);
    EXPECT_GT(npu.submitted, here->batch_timings().npu_passes) << "all of it fits a job: nothing was tested";
    EXPECT_LT(npu.submitted, 10 * here->batch_timings().npu_passes);
}

TEST(EngineOnNpu, logits_of_more_rows_than_it_computes_at_a_time) {
    const auto loaded = load({});
    ThreadPool pool(2);
    LocalNpu npu;
    const auto here = Session::create(loaded->model, pool, on(npu)).value();
    const auto cpu = Session::create(loaded->model, pool).value();
    const Tokens tokens = prompt(61);
    std::vector<std::uint32_t> rows;
    for (std::uint32_t i = 1; i < 61; i += 1 + i % 3) rows.push_back(i);
    ASSERT_GT(rows.size(), 16u);
    EXPECT_TRUE(same_bits(cpu->logits(tokens, rows).value(), here->logits(tokens, rows).value()));
    EXPECT_EQ(here->batch_timings().npu_passes, 1u);
}

TEST(EngineOnNpu, long_prompts_are_cut_into_passes) {
    const auto loaded = load({.layers = 2, .context = 512});
    ThreadPool pool(2);
    LocalNpu npu;
    SessionOptions options = on(npu);
    options.batch = 48;
    const auto here = Session::create(loaded->model, pool, options).value();
    const auto cpu = Session::create(loaded->model, pool).value();
    EXPECT_TRUE(same_bits(copy(cpu->prefill(prompt(400))), copy(here->prefill(prompt(400)))));
    EXPECT_EQ(here->batch_timings().npu_passes, 9u);
    EXPECT_EQ(npu.placed, 13u) << "a block is put in its place once";
}

/// Sessions over one batch and one pool of blocks.
struct Group {
    Group(const Model& model, npu::Npu* npu, NpuUse use = NpuUse::kOn, KvType kv = KvType::kF16)
        : batch(Batch::create(model, threads, {.rows = 64, .npu = npu, .npu_use = use}).value()),
          blocks(std::make_shared<KvPool>(KvLayout::of(model.shape(), kv).value(), 24)) {}
    std::unique_ptr<Session> session() { return Session::create(batch, blocks).value(); }
    ThreadPool threads{2};
    std::shared_ptr<Batch> batch;
    std::shared_ptr<KvPool> blocks;
};

/// Conversations that begin, share a prefix, end and give their blocks to others; all logits.
std::vector<std::vector<float>> bustle(Group& group) {
    std::vector<std::vector<float>> all;
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Tokens> pending;
    for (int pass = 0; pass < 14; ++pass) {
        if (pass % 3 == 0 && sessions.size() < 4) {
            sessions.push_back(group.session());
            pending.push_back(prompt(36 + 9 * static_cast<std::size_t>(pass), 97, pass));
            if (pass == 6) {
                sessions.back()->share_prefix(*sessions[0], 33);
                pending.back().resize(5);
            }
        }
        if (pass == 9) { // its blocks go to others, or back to the heap
            sessions[1]->rewind(0);
            pending[1] = prompt(41, 97, 77);
            group.blocks->trim();
        }
        std::vector<BatchPart> parts;
        for (std::size_t i = 0; i < sessions.size(); ++i) {
            const std::size_t count = std::min<std::size_t>(13, pending[i].size());
            parts.push_back(
                {sessions[i].get(), std::span(pending[i]).first(count), count == pending[i].size()});
        }
        EXPECT_TRUE(group.batch->run(parts).ok());
        for (std::size_t i = 0; i < sessions.size(); ++i) {
            EXPECT_TRUE(parts[i].status.ok());
            const auto done = static_cast<std::ptrdiff_t>(parts[i].tokens.size());
            pending[i].erase(pending[i].begin(), pending[i].begin() + done);
            if (!parts[i].wants_logits) continue;
            all.push_back(copy(parts[i].logits));
            pending[i] = {greedy(parts[i].logits).value()};
        }
    }
    return all;
}

TEST(EngineOnNpu, several_sessions_in_a_pass_get_the_cpu_s_bits) {
    for (const KvType kv : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
        const auto loaded = load({.layers = 5});
        LocalNpu npu;
        Group here(loaded->model, &npu, NpuUse::kOn, kv), cpu(loaded->model, nullptr, NpuUse::kOn, kv);
        const auto expected = bustle(cpu);
        EXPECT_GT(expected.size(), 20u);
        expect_same(expected, bustle(here));
        EXPECT_EQ(here.batch->timings().npu_passes, 14u);
    }
}

TEST(EngineOnNpu, models_with_other_matrices_stay_on_the_cpu) {
    const auto loaded = load({.type = TensorType::kF16});
    ThreadPool pool(2);
    LocalNpu npu;
    const auto here = Session::create(loaded->model, pool, on(npu)).value();
    const auto cpu = Session::create(loaded->model, pool).value();
    expect_same(converse(*cpu, 20, 97), converse(*here, 20, 97));
    EXPECT_EQ(npu.begins, 0u);
    EXPECT_EQ(npu.allocated(), 0u);
}

/// Runs bustle() with an NPU in trouble, which must not show in a single bit.
void expect_no_wrong_bit(const std::function<void(LocalNpu&)>& trouble,
                         const std::function<void(const LocalNpu&, const BatchTimings&)>& check,
                         std::uint32_t layers = 6) {
    const auto loaded = load({.layers = layers});
    Group cpu(loaded->model, nullptr);
    LocalNpu npu;
    Group here(loaded->model, &npu);
    trouble(npu);
    expect_same(bustle(cpu), bustle(here));
    EXPECT_FALSE(npu.held);
    check(npu, here.batch->timings());
}

TEST(EngineOnNpu, a_job_that_fails_is_computed_by_the_cpu) {
    for (std::uint64_t k = 1; k <= 12; ++k) {
        expect_no_wrong_bit([&](LocalNpu& npu) { npu.corrupt = k; },
                            [&](const LocalNpu& npu, const BatchTimings& timings) {
                                EXPECT_EQ(timings.npu_failures, 1u) << "job " << k;
                                EXPECT_EQ(npu.counters().failures, 1u);
                            });
    }
}

TEST(EngineOnNpu, one_that_is_taken_away_under_way_costs_no_bit) {
    for (std::uint64_t k = 1; k <= 12; ++k) {
        expect_no_wrong_bit([&](LocalNpu& npu) { npu.revoke = k; },
                            [&](const LocalNpu&, const BatchTimings& timings) {
                                EXPECT_EQ(timings.npu_failures, 1u) << "job " << k;
                            });
    }
}

TEST(EngineOnNpu, one_that_takes_no_job_costs_no_bit) {
    for (std::uint64_t k = 1; k <= 12; ++k) {
        expect_no_wrong_bit([&](LocalNpu& npu) { npu.fail_submit = k; },
                            [&](const LocalNpu&, const BatchTimings& timings) {
                                EXPECT_EQ(timings.npu_failures, 1u) << "job " << k;
                            });
    }
}

TEST(EngineOnNpu, given_back_in_the_middle_of_a_pass_the_cpu_goes_on_where_it_stood) {
    constexpr std::uint32_t kLayersOfThreeJobs = 40; // it is asked before each job but a pass's first
    for (std::uint64_t k = 0; k <= 14; ++k) {
        expect_no_wrong_bit([&](LocalNpu& npu) { npu.want_back_after = k; },
                            [&](const LocalNpu& npu, const BatchTimings& timings) {
                                EXPECT_EQ(timings.npu_failures, 0u);
                                EXPECT_GE(npu.given_back, 1u) << "asked the " << k << "th time";
                            },
                            kLayersOfThreeJobs);
    }
}

TEST(EngineOnNpu, one_that_the_normal_world_keeps_is_done_without) {
    expect_no_wrong_bit([&](LocalNpu& npu) { npu.refuse = true; },
                        [&](const LocalNpu& npu, const BatchTimings& timings) {
                            EXPECT_EQ(npu.submitted, 0u);
                            EXPECT_EQ(timings.npu_failures, 0u);
                            EXPECT_EQ(timings.npu_passes, 0u);
                        });
}

/// Weights that arrive when a test says so.
class SlowGate final : public WeightGate {
public:
    explicit SlowGate(std::function<void(Stage)> waiting) : waiting_(std::move(waiting)) {}
    Status acquire(Stage stage) override {
        EXPECT_FALSE(held_.contains(stage));
        if (stage == refused) return fail(ErrorCode::kBusy, "somebody else is to compute");
        if (!ready(stage)) waiting_(stage);
        arrived_ = std::max(arrived_, stage);
        held_.insert(stage);
        return {};
    }
    void release(Stage stage) override { EXPECT_EQ(held_.erase(stage), 1u); }
    [[nodiscard]] bool ready(Stage stage) const override { return stage <= arrived_; }
    [[nodiscard]] bool all_released() const { return held_.empty(); }
    Stage refused = 1000;

private:
    std::function<void(Stage)> waiting_;
    std::set<Stage> held_;
    Stage arrived_ = 0;
};

TEST(EngineOnNpu, while_it_waits_for_weights_somebody_else_may_have_the_npu) {
    const auto loaded = load({.layers = 6});
    ThreadPool pool(2);
    LocalNpu npu;
    SlowGate gate([&](Stage stage) {
        EXPECT_FALSE(npu.held) << stage;
        npu.refuse = stage == 4; // and then the normal world keeps it
    });
    SessionOptions options = on(npu);
    options.gate = &gate;
    const auto here = Session::create(loaded->model, pool, options).value();
    const auto cpu = Session::create(loaded->model, pool).value();
    EXPECT_TRUE(same_bits(copy(cpu->prefill(prompt(30))), copy(here->prefill(prompt(30)))));
    EXPECT_TRUE(gate.all_released());
    EXPECT_EQ(npu.submitted, 4u) << "the embedding and a layer a job, until it was kept";
}

TEST(EngineOnNpu, an_error_of_the_gate_is_the_pass_s_error_and_leaves_nothing_held) {
    const auto loaded = load({.layers = 6});
    ThreadPool pool(2);
    for (const Stage stage : {0u, 1u, 3u, 7u}) {
        LocalNpu npu;
        SlowGate gate([](Stage) {});
        SessionOptions options = on(npu);
        options.gate = &gate;
        const auto here = Session::create(loaded->model, pool, options).value();
        gate.refused = stage;
        const auto refused = here->prefill(prompt(30));
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
        EXPECT_TRUE(gate.all_released());
        EXPECT_FALSE(npu.held);
        gate.refused = 1000;
        const auto cpu = Session::create(loaded->model, pool).value();
        EXPECT_TRUE(same_bits(copy(cpu->prefill(prompt(30))), copy(here->prefill(prompt(30)))));
    }
}

TEST(EngineOnNpu, a_cancelled_pass_ends_and_leaves_nothing_held) {
    const auto loaded = load({.layers = 6});
    ThreadPool pool(2);
    LocalNpu npu;
    Session* running = nullptr;
    SlowGate gate([&](Stage stage) {
        if (stage == 3) running->cancel();
    });
    SessionOptions options = on(npu);
    options.gate = &gate;
    const auto here = Session::create(loaded->model, pool, options).value();
    running = here.get();
    const auto cancelled = here->prefill(prompt(30));
    ASSERT_FALSE(cancelled.ok());
    EXPECT_EQ(cancelled.error().code, ErrorCode::kCancelled);
    EXPECT_TRUE(gate.all_released());
    EXPECT_FALSE(npu.held);
}

TEST(EngineOnNpu, weights_bound_to_other_memory_are_mapped_anew) {
    auto loaded = load({.layers = 2});
    ThreadPool pool(2);
    LocalNpu npu;
    const auto here = Session::create(loaded->model, pool, on(npu)).value();
    const auto before = copy(here->prefill(prompt(9)));
    const auto other = load({.layers = 2, .seed = 9});
    for (std::size_t i = 0; i < loaded->model.tensors().size(); ++i) {
        ASSERT_TRUE(loaded->model.bind(loaded->model.tensors()[i].name, other->model.bytes_of(i)).ok());
    }
    here->rewind(0);
    const auto after = copy(here->prefill(prompt(9)));
    EXPECT_FALSE(same_bits(before, after));
    const auto cpu = Session::create(other->model, pool).value();
    EXPECT_TRUE(same_bits(copy(cpu->prefill(prompt(9))), after));
    EXPECT_EQ(here->batch_timings().npu_passes, 2u);
}

TEST(EngineOnNpu, auto_computes_where_it_is_faster) {
    const auto loaded = load({.width = 256, .ff = 512});
    npu::model::DeviceOptions takes_long;
    takes_long.performance.launch_ns = 20'000'000; // as no pass of the CPU does, on whatever machine
    LocalNpu npu(takes_long);
    npu.info_.mac_per_us = 1; // it says of itself that it is slow
    npu.info_.bytes_per_us = 1;
    Group slow(loaded->model, &npu, NpuUse::kAuto), cpu(loaded->model, nullptr);
    const auto expected = bustle(cpu);
    expect_same(expected, bustle(slow));
    EXPECT_LE(slow.batch->timings().npu_passes, 2u) << "one pass of each kind, to hear what it says";
    LocalNpu fast;
    fast.info_.mac_per_us = 1'000'000'000;
    fast.info_.bytes_per_us = 1'000'000'000;
    Group both(loaded->model, &fast, NpuUse::kAuto);
    expect_same(expected, bustle(both));
    EXPECT_GE(both.batch->timings().npu_passes, 1u);
}

TEST(KvArena, has_its_slots_side_by_side) {
    const KvLayout layout{KvType::kF16, 2, 2, 64};
    const auto arena = memory::KvArena::create(layout.block_bytes(), 4).value();
    KvPool pool(layout, 4, *arena);
    std::vector<KvBlockRef> blocks;
    for (int i = 0; i < 4; ++i) blocks.push_back(pool.take().value());
    for (const KvBlockRef& block : blocks) {
        EXPECT_EQ(block.data(), blocks[0].data() + block.slot() * layout.block_bytes());
        std::ranges::fill(block.bytes(), std::byte{1});
    }
    EXPECT_FALSE(arena->allocate(layout.block_bytes(), 4).ok());
    EXPECT_FALSE(arena->allocate(layout.block_bytes() + 1, 0).ok());
}

} // namespace
} // namespace flex::engine
