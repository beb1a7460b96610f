// A store that answers late or never: it costs its own request a bounded time, and others nothing.
#include "kv_store_fixture.h"

namespace flex::pipeline {
namespace {

using memory::KvLoss;
using memory::KvStore;

/// Where the store hangs. Outlives the threads that hang in it.
class Gate {
public:
    enum class At : std::uint8_t { kNowhere, kOpen, kSize, kRead };

    /// From now on, and at that after so many reads.
    void hang(At at, std::size_t reads = 0) {
        const std::lock_guard lock(mutex_);
        at_ = at;
        reads_ = reads;
    }
    void go_on() {
        const std::lock_guard lock(mutex_);
        at_ = At::kNowhere;
        changed_.notify_all();
    }
    void pass(At at) {
        std::unique_lock lock(mutex_);
        if (at == At::kOpen) ++opened_;
        if (at == At::kRead && reads_ > 0) {
            --reads_;
            return;
        }
        if (at_ != at) return;
        ++hanging_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return at_ == At::kNowhere; });
        --hanging_;
        changed_.notify_all();
    }
    void wait_for_hanging(std::size_t many) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return hanging_ == many; });
    }
    [[nodiscard]] std::size_t opened() {
        const std::lock_guard lock(mutex_);
        return opened_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    At at_ = At::kNowhere;
    std::size_t reads_ = 0, hanging_ = 0, opened_ = 0;
};

class GatedFile final : public memory::KvFile {
public:
    GatedFile(std::shared_ptr<Gate> gate, std::unique_ptr<memory::KvFile> file)
        : gate_(std::move(gate)), file_(std::move(file)) {}
    Result<std::uint64_t> size() override {
        gate_->pass(Gate::At::kSize);
        return file_->size();
    }
    Status read(std::uint64_t offset, std::span<std::byte> out) override {
        gate_->pass(Gate::At::kRead);
        return file_->read(offset, out);
    }

private:
    const std::shared_ptr<Gate> gate_;
    const std::unique_ptr<memory::KvFile> file_;
};

class HangingStore : public KvStoreTest {
protected:
    static constexpr std::chrono::milliseconds kShort{20};

    void SetUp() override { start(hanging(kShort)); }
    void TearDown() override {
        gate_->go_on();
        KvStoreTest::TearDown();
    }
    [[nodiscard]] RegistryOptions hanging(std::chrono::milliseconds patience) const {
        auto with = options();
        with.restore_patience = patience;
        with.open_stored = [gate =
                                gate_](const std::string& path) -> Result<std::unique_ptr<memory::KvFile>> {
            gate->pass(Gate::At::kOpen);
            FLEX_ASSIGN(auto file, memory::open_kv_file(path));
            return std::unique_ptr<memory::KvFile>(std::make_unique<GatedFile>(gate, std::move(file)));
        };
        return with;
    }
    /// A request under way.
    std::shared_ptr<api::Generation> begin(const std::vector<TokenId>& prompt, const std::string& caller) {
        api::GenerationOptions options;
        options.max_tokens = 6;
        options.sampler.temperature = 0;
        options.scope = "scope of " + caller;
        options.owner = caller;
        auto generation = std::make_shared<api::Generation>(registry_->get("a").value(), prompt, options,
                                                            std::chrono::steady_clock::now());
        EXPECT_TRUE(generator_->submit(generation).ok());
        return generation;
    }
    static Result<api::GenerationResult> end_of(api::Generation& generation) {
        while (!generation.wait(std::chrono::seconds(1)).done) {
        }
        return generation.result();
    }

    const std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
    const std::vector<TokenId> said_ = text(170); // five blocks
};

TEST_F(HangingStore, what_does_not_come_in_time_is_computed_wherever_the_store_hangs) {
    for (const Gate::At at : {Gate::At::kOpen, Gate::At::kSize, Gate::At::kRead}) {
        const std::string caller = "caller " + std::to_string(static_cast<int>(at));
        SCOPED_TRACE(caller);
        tell(said_, caller);
        const std::uint64_t before = recomputed(KvLoss::kSlow);
        gate_->hang(at);
        const Reply reply = ask(said_, caller);
        EXPECT_EQ(recomputed(KvLoss::kSlow) - before, 5u);
        EXPECT_EQ(reply.cached, 0u);
        gate_->go_on();
        expect_same(reply, ask_anew(said_));
    }
}

TEST_F(HangingStore, what_came_before_it_hung_is_used) {
    tell(said_);
    gate_->hang(Gate::At::kRead, 2);
    const Reply reply = ask(said_);
    // How much comes within the patience is the machine's affair.
    EXPECT_LE(store().restored_blocks, 2u);
    EXPECT_EQ(store().restored_blocks + recomputed(KvLoss::kSlow), 5u);
    EXPECT_EQ(reply.cached, store().restored_blocks * kBlockTokens);
    gate_->go_on();
    expect_same(reply, ask_anew(said_));
}

TEST_F(HangingStore, others_on_the_model_are_answered_meanwhile) {
    restart(hanging(std::chrono::hours(1)));
    tell(said_);
    gate_->hang(Gate::At::kRead);
    const auto hangs = begin(said_, "me");
    gate_->wait_for_hanging(1);
    const Reply other = ask(text(40, 2), "you");
    EXPECT_EQ(other.cached, 0u);
    EXPECT_FALSE(hangs->wait(std::chrono::milliseconds(0)).done);
    gate_->go_on();
    const auto result = end_of(*hangs);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(result->cached_tokens, 160u); // late, but there
    EXPECT_EQ(recomputed(), 0u);
    EXPECT_EQ(result->tokens, ask_anew(said_).tokens);
}

TEST_F(HangingStore, a_request_that_waits_for_the_store_can_be_cancelled) {
    restart(hanging(std::chrono::hours(1)));
    tell(said_);
    gate_->hang(Gate::At::kSize);
    const auto hangs = begin(said_, "me");
    gate_->wait_for_hanging(1);
    hangs->cancel();
    const auto result = end_of(*hangs);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kCancelled);
    EXPECT_EQ(recomputed(), 0u);
}

// The address sanitizer says whether what comes late is written to memory that is not there any more.
TEST_F(HangingStore, an_answer_after_the_end_of_everything_touches_nothing) {
    restart(hanging(std::chrono::hours(1)));
    tell(said_);
    gate_->hang(Gate::At::kRead, 1);
    const auto hangs = begin(said_, "me");
    gate_->wait_for_hanging(1);
    hangs->cancel();
    EXPECT_FALSE(end_of(*hangs).ok());
    generator_.reset();
    registry_.reset();
    port_.reset();
    gate_->go_on();
    gate_->wait_for_hanging(0);
    while (gate_.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1)); // threads
}

TEST_F(HangingStore, what_hangs_is_not_tried_again_and_again) {
    gate_->hang(Gate::At::kOpen);
    for (unsigned i = 0; i < KvStore::kMaxReadings + 2; ++i) {
        const std::string caller = "caller " + std::to_string(i);
        tell(text(40, i), caller);
        EXPECT_EQ(ask(text(40, i), caller).cached, 0u);
        EXPECT_EQ(recomputed(KvLoss::kSlow), i + 1);
        forget_memory();
    }
    gate_->wait_for_hanging(KvStore::kMaxReadings);
    EXPECT_EQ(gate_->opened(), KvStore::kMaxReadings);
    gate_->go_on(); // and the store is used again
    gate_->wait_for_hanging(0);
    const auto uses = [&] {
        tell(text(40, 77));
        return ask(text(40, 77)).cached == kBlockTokens;
    };
    wait_until(uses);
}

TEST_F(HangingStore, two_requests_for_one_conversation_read_it_once) {
    restart(hanging(std::chrono::hours(1)));
    tell(said_);
    const std::size_t before = gate_->opened();
    gate_->hang(Gate::At::kOpen);
    const auto first = begin(said_, "me");
    gate_->wait_for_hanging(1);
    const auto second = begin(said_ + text(20, 3), "me");
    EXPECT_EQ(ask(text(40, 2), "you").cached, 0u); // so the second was looked at
    gate_->go_on();
    EXPECT_EQ(end_of(*first)->cached_tokens, 160u);
    EXPECT_GE(end_of(*second)->cached_tokens, 160u);
    EXPECT_EQ(gate_->opened() - before, 1u);
}

TEST_F(HangingStore, what_is_deleted_while_it_is_read_is_not_kept) {
    restart(hanging(std::chrono::hours(1)));
    tell(said_);
    const auto id = registry_->sessions("me").at(0).id;
    gate_->hang(Gate::At::kRead);
    const auto reads = begin(said_, "me");
    gate_->wait_for_hanging(1);
    EXPECT_TRUE(registry_->delete_sessions("me", id).ok());
    gate_->go_on();
    EXPECT_TRUE(end_of(*reads).ok());
    EXPECT_TRUE(registry_->sessions("me").empty());
}

} // namespace
} // namespace flex::pipeline
