// Conversations outlive the framework, and belong to their callers.
#include "cli/attack/stored_kv.h"
#include "shared.h"

namespace flex::test {
namespace {

using attack::Completion;
using attack::kKvBlock;
using attack::StoredKv;
using Tokens = std::vector<std::uint32_t>;

class KvTest : public SystemTest {
protected:
    static constexpr std::size_t kTurn = 100; // tokens

    static Tokens then(Tokens first, const Tokens& second) {
        first.insert(first.end(), second.begin(), second.end());
        return first;
    }
    static void restart() {
        ASSERT_TRUE(target().stop_program());
        ASSERT_TRUE(target().start_program());
    }
};

TEST_F(KvTest, a_conversation_goes_on_after_a_restart_with_the_same_bits) {
    const Tokens first = attack::make_prompt(kTurn), said = attack::make_prompt(kTurn);
    // Uninterrupted, by somebody else.
    const StoredKv other(target());
    const Completion answer = other.ask(first);
    const Tokens second = then(then(first, answer.tokens), said);
    const Completion should_be = other.ask(second);
    EXPECT_GE(should_be.cached_tokens, kTurn);

    const StoredKv caller(target());
    caller.tell(first);
    restart();
    const auto sessions = caller.sessions();
    ASSERT_EQ(sessions.size(), 1u);
    EXPECT_EQ(sessions[0].state, "stored");
    EXPECT_EQ(attack::kv_counts(target()).restored, 0u);
    const Completion is = caller.ask(second);
    EXPECT_EQ(is.cached_tokens, kTurn / kKvBlock * kKvBlock);
    EXPECT_EQ(attack::kv_counts(target()).restored, kTurn / kKvBlock);
    EXPECT_EQ(attack::kv_counts(target()).recomputed, 0u);
    EXPECT_TRUE(is.same_as(should_be)) << is.text << "\n" << should_be.text;
    EXPECT_FALSE(is.logits.empty());
    EXPECT_EQ(is.logits, should_be.logits);
}

TEST_F(KvTest, another_caller_neither_lists_resumes_nor_deletes_it) {
    const StoredKv caller(target()), stranger(target());
    const Tokens prompt = attack::make_prompt(kTurn);
    caller.tell(prompt);
    ASSERT_TRUE(target().drop_models());
    const auto mine = caller.sessions();
    ASSERT_EQ(mine.size(), 1u);
    EXPECT_TRUE(stranger.sessions().empty());
    EXPECT_EQ(stranger.remove(mine[0].id), 404);
    EXPECT_EQ(stranger.remove(), 200); // all of the stranger's: none
    EXPECT_EQ(stranger.ask(prompt).cached_tokens, 0u);
    ASSERT_TRUE(target().drop_models());
    EXPECT_EQ(caller.ask(prompt).cached_tokens, kTurn / kKvBlock * kKvBlock);
    EXPECT_EQ(caller.remove(mine[0].id), 200);
    EXPECT_TRUE(caller.sessions().empty());
    EXPECT_FALSE(std::filesystem::exists(target().data_folder() / ("kv-" + mine[0].id + ".blocks")));
    EXPECT_EQ(caller.ask(prompt).cached_tokens, 0u);
    EXPECT_EQ(target().api().get("/flexserve/sessions").status, 401);
}

TEST_F(KvTest, the_command_lists_and_deletes_the_caller_s_own) {
    const std::string key = "FLEXSERVE_API_KEY=" + attack::make_api_key();
    const StoredKv caller(target(), key.substr(key.find('=') + 1));
    caller.tell(attack::make_prompt(kTurn));
    const std::string id = caller.sessions().at(0).id;
    const RunResult list = flexserve({"sessions"}, {key});
    EXPECT_EQ(list.code, 0) << list.err;
    EXPECT_NE(list.out.find(id), std::string::npos) << list.out;
    const RunResult json = flexserve({"--json", "sessions"}, {key});
    EXPECT_NE(json.out.find("\"id\":\"" + id + "\""), std::string::npos) << json.out;
    expect_one_line_error(flexserve({"sessions"}), "--api-key");
    expect_one_line_error(flexserve({"sessions", "--api-key", "short"}), "32 bytes");
    expect_one_line_error(flexserve({"sessions", "delete"}, {key}), "--all");
    expect_one_line_error(flexserve({"sessions", "delete", "nonsense"}, {key}), "32 letters");
    expect_one_line_error(flexserve({"sessions", "delete", std::string(32, '0')}, {key}), "no such session");
    const RunResult gone = flexserve({"sessions", "delete", id}, {key});
    EXPECT_EQ(gone.code, 0) << gone.err;
    EXPECT_TRUE(caller.sessions().empty());
    EXPECT_EQ(flexserve({"sessions"}, {key}).out, "nothing is kept of this caller\n");
}

} // namespace
} // namespace flex::test
