// Models of which only the first stages are in memory: what goes, what comes back, and that answers do not
// change for it.
#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "package/manifest.h"
#include "registry_fixture.h"

namespace flex::pipeline {
namespace {

constexpr std::uint64_t kInstant = 1000; // ns for a prompt: computing hides no loading

class ResidencyTest : public RegistryTest {
protected:
    /// The model computes a prompt from an empty context; the logits after it.
    static Result<std::vector<float>> compute(ServedModel& model) {
        FLEX_ASSIGN(const auto session, engine::Session::create(model.batch, model.kv));
        std::vector<TokenId> prompt;
        for (TokenId i = 0; i < 20; ++i) prompt.push_back(100 + i * 7);
        FLEX_ASSIGN(const auto logits, session->prefill(prompt));
        return std::vector(logits.begin(), logits.end());
    }
    [[nodiscard]] ModelStatus status(const std::string& name) const {
        for (ModelStatus& model : registry_->status()) {
            if (model.name == name) return model;
        }
        ADD_FAILURE() << name << " is not open";
        return {};
    }
    void load_whole(const std::string& name, int prompts = 0) {
        const auto model = registry_->get(name).value();
        ASSERT_TRUE(load(*model).ok());
        for (int i = 0; i < prompts; ++i) model->use->note_prompt(20, 20, kInstant);
    }
    /// Until the number of stages rests.
    void wait_until_quiet(const std::string& name) {
        for (std::uint32_t before = UINT32_MAX, now = 0; before != now;
             before = std::exchange(now, status(name).stages_loaded))
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
};

TEST_F(ResidencyTest, a_half_resident_model_answers_with_the_same_bits) {
    const auto whole = [&] {
        const auto a = registry_->get("a").value();
        return compute(*a).value();
    }();
    const std::uint32_t stages = status("a").stages;
    for (std::uint32_t keep = 0; keep < stages; ++keep) {
        const auto a = registry_->get("a").value();
        std::vector<memory::FlexBuffer> taken;
        ASSERT_TRUE(load(*a).ok());
        EXPECT_GT(a->weights->drop(keep, taken), 0u);
        taken.clear();
        EXPECT_EQ(a->weights->stages_loaded(), keep);
        EXPECT_FALSE(a->weights->model().bound(keep));
        const auto again = registry_->get("a").value(); // the tail streams in
        EXPECT_EQ(again, a);
        EXPECT_EQ(compute(*a).value(), whole) << keep << " stages were resident";
    }
    EXPECT_EQ(status("a").stages_loaded, stages);
}

TEST_F(ResidencyTest, the_last_stages_go_first_and_no_more_than_asked_for) {
    load_whole("a");
    const auto before = status("a");
    const std::uint64_t used = port_->used();
    EXPECT_GT(registry_->give_back(kMiB), kMiB - 1);
    const auto after = status("a");
    EXPECT_LT(after.stages_loaded, before.stages_loaded);
    EXPECT_GT(after.stages_loaded, 0u);
    EXPECT_LE(port_->used(), used - kMiB);
    EXPECT_EQ(after.bytes_loaded, port_->used());
    EXPECT_EQ(registry_->counters().bytes_given_back, used - port_->used());
    EXPECT_EQ(registry_->counters().bytes_asked, kMiB);
}

TEST_F(ResidencyTest, a_cold_model_goes_before_a_hot_one) {
    load_whole("a", 1);
    load_whole("b", 9);
    const auto whole = status("b");
    EXPECT_TRUE(whole.hot);
    EXPECT_FALSE(status("a").hot);
    EXPECT_GT(registry_->give_back(status("a").bytes_loaded), 0u);
    EXPECT_EQ(status("a").stages_loaded, 0u);
    EXPECT_EQ(status("b").stages_loaded, whole.stages);
    EXPECT_GT(registry_->give_back(1), 0u);
    EXPECT_LT(status("b").stages_loaded, whole.stages);
}

TEST_F(ResidencyTest, idle_conversations_go_after_cold_models_and_before_hot_ones) {
    load_whole("a", 1);
    load_whole("b", 9);
    const auto talk = [&](const std::string& name) {
        const auto model = registry_->get(name).value();
        const std::vector<TokenId> prompt{100, 101, 102};
        auto conversation = model->conversations->take(prompt, {"key", ""}, 10).value();
        ASSERT_TRUE(conversation->session->prefill(prompt).ok());
        conversation->tokens = prompt;
        model->conversations->put_back(std::move(conversation));
    };
    talk("b");
    const auto whole = status("b");
    EXPECT_EQ(whole.idle_conversations, 1u);
    registry_->give_back(status("a").bytes_loaded);
    EXPECT_EQ(status("b").idle_conversations, 1u);
    EXPECT_EQ(status("a").stages_loaded, 0u);
    registry_->give_back(1);
    EXPECT_EQ(status("b").idle_conversations, 0u);
    EXPECT_EQ(status("b").stages_loaded, whole.stages);
}

TEST_F(ResidencyTest, giving_back_while_an_answer_runs_changes_nothing_in_it) {
    const auto a = registry_->get("a").value();
    const auto expected = compute(*a).value();
    load_whole("b");
    std::atomic<bool> stop = false;
    std::thread asker([&] {
        while (!stop) registry_->give_back(UINT64_MAX);
    });
    for (int i = 0; i < 20; ++i) {
        const auto got = compute(*a);
        EXPECT_TRUE(got && *got == expected);
        const auto b = registry_->get("b").value(); // comes, and goes when it is let go
        const auto other = compute(*b);
        EXPECT_TRUE(other && *other == expected); // the same weights under another name
    }
    stop = true;
    asker.join();
}

TEST_F(ResidencyTest, requests_are_counted_by_what_they_found) {
    load_whole("a");
    EXPECT_EQ(registry_->counters().misses, 1u);
    load_whole("a");
    EXPECT_EQ(registry_->counters().hits, 1u);
    registry_->give_back(kMiB);
    const auto streamed = registry_->counters().stages_streamed;
    const auto left = status("a").stages_loaded;
    load_whole("a");
    EXPECT_EQ(registry_->counters().partial_hits, 1u);
    EXPECT_EQ(registry_->counters().stages_streamed, streamed + status("a").stages - left);
    const auto all = registry_->counters().stages_streamed;
    registry_->give_back(UINT64_MAX);
    EXPECT_EQ(registry_->counters().stages_streamed, all); // also when the model is closed
}

TEST_F(ResidencyTest, a_hot_model_comes_back_when_there_is_room_again) {
    load_whole("a", 9);
    const std::uint64_t one = port_->used();
    port_->set_budget(one + kMiB);
    load_whole("b", 1); // takes a's memory
    EXPECT_LT(status("a").stages_loaded, status("a").stages);
    port_->set_budget(100 * kMiB);
    const auto before = registry_->counters().misses + registry_->counters().partial_hits;
    registry_->tend();
    while (status("a").stages_loaded < status("a").stages) std::this_thread::yield();
    EXPECT_GT(registry_->counters().prefetches, 0u);
    EXPECT_EQ(registry_->counters().misses + registry_->counters().partial_hits, before);
}

TEST_F(ResidencyTest, what_the_normal_world_just_asked_for_is_not_brought_back_at_once) {
    load_whole("a", 9);
    registry_->give_back(kMiB);
    const auto left = status("a").stages_loaded;
    registry_->tend();
    EXPECT_EQ(registry_->counters().prefetches, 0u);
    EXPECT_EQ(status("a").stages_loaded, left);
}

TEST_F(ResidencyTest, bringing_back_takes_nothing_from_others_and_its_refusal_is_no_failure) {
    load_whole("b", 1);
    const std::uint64_t one = port_->used();
    load_whole("a", 9);
    port_->set_budget(port_->used());
    std::vector<memory::FlexBuffer> taken;
    {
        const auto a = registry_->get("a").value();
        a->weights->drop(1, taken); // and the memory is gone, while b keeps its own
        port_->set_budget(one + status("a").bytes_loaded + 2 * kMiB);
        taken.clear();
    }
    registry_->tend();
    wait_until_quiet("a");
    EXPECT_EQ(status("b").stages_loaded, status("b").stages);
    EXPECT_LT(status("a").stages_loaded, status("a").stages);
    load_whole("a"); // a request is worth b's memory
    EXPECT_LT(status("b").stages_loaded, status("b").stages);
}

TEST_F(ResidencyTest, the_model_a_workflow_calls_next_is_there_before_its_request) {
    const auto running = registry_->get("a").value();
    ASSERT_TRUE(load(*running).ok());
    running->use->note_prompt(20, 20, kInstant);
    ASSERT_TRUE(registry_->expect("b").ok());
    while (status("b").stages_loaded < status("b").stages) std::this_thread::yield();
    EXPECT_EQ(registry_->counters().misses, 1u); // a's
    load_whole("b");
    EXPECT_EQ(registry_->counters().hits, 1u);
    const auto unknown = registry_->expect("none");
    ASSERT_FALSE(unknown.ok());
    EXPECT_EQ(unknown.error().code, ErrorCode::kNotFound);
}

TEST_F(ResidencyTest, a_limit_holds_when_nobody_computes) {
    make_registry({.threads = 1, .context = 64, .cache_bytes = 2 * kMiB});
    {
        const auto a = registry_->get("a").value();
        ASSERT_TRUE(load(*a).ok());
        registry_->tend();
        EXPECT_EQ(status("a").stages_loaded, status("a").stages); // a request runs
    }
    registry_->tend();
    EXPECT_LE(port_->used(), 2 * kMiB);
    EXPECT_GT(status("a").stages_loaded, 0u);
    load_whole("a");
}

TEST_F(ResidencyTest, a_tail_that_was_changed_meanwhile_is_refused) {
    load_whole("a");
    registry_->give_back(2 * kMiB);
    ASSERT_LT(status("a").stages_loaded, status("a").stages);
    auto content = port::read_file(path("a"), 1u << 30).value();
    content[content.size() - 100] ^= std::byte{1};
    const int file = ::open(path("a").c_str(), O_WRONLY); // in place: the open package sees it
    ASSERT_GE(file, 0);
    ASSERT_EQ(::pwrite(file, content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
    ::close(file);
    const auto a = registry_->get("a").value();
    const auto status = load(*a);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kAuthentication);
    EXPECT_TRUE(a->weights->damaged());
}

TEST_F(ResidencyTest, many_threads_that_use_drop_and_bring_back_models_never_see_a_wrong_answer) {
    const auto expected = compute(*registry_->get("a").value()).value();
    port_->set_budget(9 * kMiB); // not enough for two
    std::atomic<int> right = 0;
    std::atomic<bool> stop = false;
    std::thread asker([&] {
        for (std::uint64_t i = 0; !stop; ++i) registry_->give_back(i % 7 == 0 ? UINT64_MAX : kMiB);
    });
    std::thread tender([&] {
        while (!stop) registry_->tend();
    });
    std::thread user([&] {
        for (int i = 0; i < 30; ++i) {
            const auto model = registry_->get(i % 3 == 0 ? "a" : "b");
            if (!model) continue;
            const auto got = compute(**model);
            if (!got) {
                EXPECT_EQ(got.error().code, ErrorCode::kOutOfMemory) << got.error().message;
                continue;
            }
            EXPECT_EQ(*got, expected);
            ++right;
        }
    });
    user.join();
    stop = true;
    asker.join();
    tender.join();
    EXPECT_GT(right, 0);
    registry_->give_back(UINT64_MAX);
}

} // namespace
} // namespace flex::pipeline
