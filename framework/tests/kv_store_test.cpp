// Conversations that leave memory and come back: the same bits, or computed again; never somebody else's,
// never something that was changed.
#include <sys/stat.h>

#include "kv_store_fixture.h"

namespace flex::pipeline {
namespace {

using memory::KvLoss;

TEST_F(KvStoreTest, a_conversation_that_left_memory_goes_on_with_the_same_bits) {
    for (const engine::KvType kv : {engine::KvType::kF32, engine::KvType::kF16, engine::KvType::kQ8_0}) {
        SCOPED_TRACE(engine::name_of(kv));
        auto with = options();
        with.kv = kv;
        restart(with);
        const std::string me = engine::name_of(kv);
        tell(text(150), me);
        wait_until([&] { return port_->used() == 0; }); // not even the model is there
        const auto next = text(150) + text(20, 9);
        const Reply reply = ask(next, me);
        EXPECT_GE(reply.cached, 128u);
        EXPECT_GE(store().restored_blocks, 4u);
        EXPECT_EQ(recomputed(), 0u);
        expect_same(reply, ask_anew(next));
    }
}

TEST_F(KvStoreTest, a_conversation_survives_a_restart) {
    tell(text(150));
    restart();
    const auto next = text(150) + text(20, 9);
    const Reply reply = ask(next);
    EXPECT_EQ(reply.cached, 128u);
    EXPECT_EQ(store().restored_blocks, 4u);
    expect_same(reply, ask_anew(next));
}

TEST_F(KvStoreTest, only_what_is_new_is_written_after_another_turn) {
    tell(text(150));
    EXPECT_EQ(store().saved_blocks, 4u);
    tell(text(150) + text(100, 9));
    EXPECT_EQ(store().saved_blocks, 7u);
    EXPECT_EQ(store().sessions, 1u);
    EXPECT_EQ(files().size(), 1u);
}

TEST_F(KvStoreTest, another_question_with_the_same_beginning_uses_it_too) {
    tell(text(150));
    const auto other = text(70) + text(50, 5);
    const Reply reply = ask(other);
    EXPECT_EQ(reply.cached, 70u);
    expect_same(reply, ask_anew(other));
}

// ---- A hostile store ----

class HostileStore : public KvStoreTest {
protected:
    /// The conversation goes on with the right answer, of which `lost` blocks had to be computed again.
    void expect_recomputed(const std::vector<TokenId>& said, KvLoss loss, std::uint64_t lost,
                           const std::string& caller = "me") {
        const std::uint64_t before = recomputed(loss), all_before = recomputed();
        const auto next = said + text(20, 9);
        const Reply reply = ask(next, caller);
        EXPECT_EQ(recomputed(loss) - before, lost) << memory::name_of(loss);
        EXPECT_EQ(recomputed() - all_before, lost);
        EXPECT_EQ(reply.cached, (said.size() / kBlockTokens - lost) * kBlockTokens);
        expect_same(reply, ask_anew(next));
    }
    const std::vector<TokenId> said_ = text(170); // five blocks
};

TEST_F(HostileStore, a_changed_bit_costs_only_its_block) {
    // First byte, middle and last byte; the first, a middle and the last block.
    for (const std::size_t block : {0u, 2u, 4u}) {
        for (const int at : {0, 1, 2}) {
            SCOPED_TRACE(std::to_string(block) + "." + std::to_string(at));
            const std::string caller = "caller " + std::to_string(block) + std::to_string(at);
            const auto file = tell(said_, caller);
            auto blocks = blocks_of(file);
            ASSERT_EQ(blocks.size(), 5u);
            auto& bytes = blocks[block];
            bytes[at == 0 ? 0 : at == 1 ? bytes.size() / 2 : bytes.size() - 1] ^= 4;
            write(file, blocks);
            expect_recomputed(said_, KvLoss::kRefused, 1, caller);
        }
    }
}

TEST_F(HostileStore, swapped_blocks_are_computed_again) {
    const auto file = tell(said_);
    auto blocks = blocks_of(file);
    std::swap(blocks[1], blocks[3]);
    write(file, blocks);
    expect_recomputed(said_, KvLoss::kRefused, 2);
}

TEST_F(HostileStore, another_conversation_s_blocks_are_refused) {
    const auto mine = tell(said_), other = tell(text(170, 5));
    ASSERT_NE(mine, other);
    std::filesystem::copy_file(other, mine, std::filesystem::copy_options::overwrite_existing);
    expect_recomputed(said_, KvLoss::kRefused, 5);
}

TEST_F(HostileStore, another_caller_s_blocks_of_the_same_text_are_refused) {
    const auto mine = tell(said_), theirs = tell(said_, "you");
    ASSERT_NE(mine, theirs);
    ASSERT_NE(read(mine), read(theirs));
    std::filesystem::copy_file(theirs, mine, std::filesystem::copy_options::overwrite_existing);
    expect_recomputed(said_, KvLoss::kRefused, 5);
}

TEST_F(HostileStore, what_was_once_true_is_refused_as_well) {
    const auto first = tell(said_);
    const auto old = read(first);
    ASSERT_EQ(registry_->delete_sessions("me").value(), 1u);
    const auto second = tell(said_); // the same caller, the same text
    ASSERT_NE(first, second);
    write(second, old);
    expect_recomputed(said_, KvLoss::kRefused, 5);
}

TEST_F(HostileStore, a_file_that_ends_early_keeps_what_is_in_front) {
    const auto file = tell(said_);
    auto content = read(file);
    content.resize(content.size() / 2); // in the middle of the third block
    write(file, content);
    expect_recomputed(said_, KvLoss::kLost, 3);
}

TEST_F(HostileStore, a_lost_file_is_computed_again) {
    std::filesystem::remove(tell(said_));
    expect_recomputed(said_, KvLoss::kLost, 5);
}

TEST_F(HostileStore, what_cannot_be_read_is_computed_again) {
    const auto file = tell(said_);
    std::filesystem::remove(file);
    std::filesystem::create_directory(file);
    std::ofstream(file / "x") << std::string(1 << 20, 'x');
    const Reply reply = ask(said_);
    EXPECT_EQ(recomputed(), 5u); // a folder may have a size, but not what is in it
    expect_same(reply, ask_anew(said_));
}

TEST_F(HostileStore, damage_is_mended_by_the_next_writing) {
    const auto file = tell(said_);
    auto blocks = blocks_of(file);
    blocks[0][0] ^= 1;
    write(file, blocks);
    tell(said_ + text(40, 3));
    EXPECT_EQ(recomputed(KvLoss::kRefused), 1u);
    EXPECT_EQ(store().sessions, 1u);
    expect_recomputed(said_ + text(40, 3), KvLoss::kRefused, 0);
}

TEST_F(HostileStore, a_changed_index_is_refused_and_everything_computed_again) {
    tell(said_);
    const auto good = read(data() / "kv-index");
    for (const std::size_t at : {std::size_t{0}, std::size_t{9}, std::size_t{13}, std::size_t{20},
                                 good.size() / 2, good.size() - 1}) {
        SCOPED_TRACE(at);
        auto bad = good;
        bad[at] ^= 1;
        write(data() / "kv-index", bad);
        restart();
        EXPECT_EQ(store().indexes_refused, 1u);
        EXPECT_EQ(store().sessions, 0u);
        const Reply reply = ask(said_, "somebody", 1);
        EXPECT_EQ(reply.cached, 0u);
        forget_memory();
    }
    for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{63}, good.size() - 1}) {
        SCOPED_TRACE(size);
        auto bad = good;
        bad.resize(size);
        write(data() / "kv-index", bad);
        restart();
        EXPECT_EQ(store().indexes_refused, 1u);
    }
    write(data() / "kv-index", good);
    restart();
    EXPECT_EQ(store().indexes_refused, 0u);
}

TEST_F(HostileStore, what_was_refused_is_said_once_a_conversation_and_without_content) {
    const auto file = tell(said_);
    auto blocks = blocks_of(file);
    blocks[0][0] ^= 1;
    blocks[2][5] ^= 1;
    write(file, blocks);
    testing::internal::CaptureStderr();
    ask(said_);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(recomputed(KvLoss::kRefused), 2u);
    EXPECT_EQ(log, "flexserved: stored conversation " + file.stem().string().substr(3) +
                       ": refused block computed again\n");
}

TEST_F(HostileStore, a_lost_index_is_counted) {
    tell(said_);
    std::filesystem::remove(data() / "kv-index");
    restart();
    EXPECT_EQ(store().indexes_refused, 1u);
    expect_same(ask(said_), ask_anew(said_));
}

// An older index is what the conversations were then. Where nothing was deleted since, that is no lie: what
// is used of it fits the tokens of a prompt, and only unchanged blocks open.
TEST_F(HostileStore, an_older_index_brings_no_wrong_answer) {
    const auto file = tell(said_);
    const auto index = read(data() / "kv-index"), blocks = read(file);
    tell(said_ + text(100, 3));
    write(data() / "kv-index", index);
    write(file, blocks);
    restart();
    EXPECT_EQ(store().indexes_refused, 0u);
    const auto next = said_ + text(100, 3) + text(60, 4);
    const Reply reply = ask(next, "me", 1);
    EXPECT_EQ(reply.cached, 160u);
    // It goes on under the same key, with blocks that were written before: their places and counters again,
    // but other nonces, so nothing is told by both.
    wait_until([&] { return store().saved_blocks == 5 && index_is_newer_than_files(); });
    forget_memory();
    const Reply again = ask(next);
    EXPECT_EQ(again.cached, 320u);
    expect_same(again, ask_anew(next));
    EXPECT_EQ(recomputed(), 0u);
}

TEST_F(HostileStore, neither_text_nor_kv_cache_nor_keys_lie_in_the_store) {
    std::vector<std::byte> kv;
    {
        const auto model = registry_->get("a").value();
        ask(said_);
        const auto session = engine::Session::create(model->batch, model->kv).value();
        ASSERT_TRUE(session->prefill(said_).ok());
        const auto block = session->block(0);
        kv.assign(block.bytes().begin(), block.bytes().end());
    }
    forget_memory();
    tell(said_);
    std::string all;
    for (const auto& entry : std::filesystem::directory_iterator(data())) {
        const auto content = read(entry.path());
        all.append(content.begin(), content.end());
    }
    const std::string_view clear(reinterpret_cast<const char*>(kv.data()), kv.size());
    std::size_t looked_for = 0;
    for (std::size_t at = 0; at + 16 <= clear.size(); at += 512) {
        const auto window = clear.substr(at, 16);
        if (window == std::string(16, '\0')) continue;
        EXPECT_EQ(all.find(window), std::string::npos) << at;
        ++looked_for;
    }
    EXPECT_GT(looked_for, 10u);
    const std::string_view tokens(reinterpret_cast<const char*>(said_.data()), 4 * said_.size());
    for (std::size_t at = 0; at + 12 <= tokens.size(); at += 4)
        EXPECT_EQ(all.find(tokens.substr(at, 12)), std::string::npos) << at;
    EXPECT_EQ(all.find("scope of me"), std::string::npos);
}

// ---- Whose it is ----

TEST_F(KvStoreTest, another_caller_s_equal_prompt_is_computed_anew) {
    tell(text(150));
    EXPECT_EQ(ask(text(150), "you").cached, 0u);
    restart();
    EXPECT_EQ(ask(text(150), "they").cached, 0u);
    EXPECT_EQ(store().restored_blocks, 0u);
}

TEST_F(KvStoreTest, what_nobody_owns_is_not_written_out) {
    ask_anew(text(150));
    tell(text(150)); // whatever came before it would have been written by now
    EXPECT_EQ(store().saved_blocks, 4u);
}

TEST_F(KvStoreTest, another_version_of_the_model_starts_anew) {
    tell(text(150));
    seal("a", 6);
    restart();
    const Reply reply = ask(text(150));
    EXPECT_EQ(reply.cached, 0u);
    EXPECT_EQ(store().restored_blocks, 0u);
}

TEST_F(KvStoreTest, another_kind_of_cache_starts_anew) {
    tell(text(150));
    auto with = options();
    with.kv = engine::KvType::kQ8_0;
    restart(with);
    EXPECT_EQ(ask(text(150)).cached, 0u);
}

TEST_F(KvStoreTest, owners_see_their_own_conversations_in_memory_and_in_the_store) {
    tell(text(150));
    tell(text(70, 5), "you");
    ask(text(60, 3));
    const auto mine = registry_->sessions("me");
    ASSERT_EQ(mine.size(), 2u);
    EXPECT_EQ(std::ranges::count(mine, std::string("idle"), [](const auto& s) { return s.state; }), 1);
    EXPECT_EQ(std::ranges::count(mine, 128u, &SessionInfo::tokens), 1);
    EXPECT_EQ(mine[0].model, "a");
    EXPECT_EQ(registry_->sessions("you").size(), 1u);
    EXPECT_TRUE(registry_->sessions("").empty());
    restart();
    EXPECT_EQ(registry_->sessions("me").size(), 2u);
}

// ---- Deleting ----

TEST_F(KvStoreTest, a_deleted_conversation_is_gone_from_memory_and_store) {
    tell(text(150));
    ask(text(150) + text(20, 9)); // in both
    const auto sessions = registry_->sessions("me");
    ASSERT_EQ(sessions.size(), 1u);
    EXPECT_EQ(registry_->delete_sessions("you", sessions[0].id).value(), 0u);
    EXPECT_EQ(registry_->delete_sessions("me", sessions[0].id).value(), 1u);
    EXPECT_TRUE(registry_->sessions("me").empty());
    EXPECT_TRUE(files().empty());
    EXPECT_EQ(ask(text(150)).cached, 0u);
    EXPECT_EQ(registry_->delete_sessions("me", sessions[0].id).value(), 0u);
}

// Whoever holds the disk kept copies of everything.
TEST_F(KvStoreTest, a_deleted_conversation_does_not_come_back_with_the_disk_s_past) {
    const auto file = tell(text(150));
    const auto index = read(data() / "kv-index"), blocks = read(file);
    tell(text(100, 7), "you");
    ASSERT_EQ(registry_->delete_sessions("me").value(), 1u);
    restart();
    EXPECT_EQ(registry_->sessions("you").size(), 1u); // of others nothing is lost
    for (const char* name : {"kv-index", "kv-index.next"}) {
        std::filesystem::remove(data() / "kv-index");
        write(data() / name, index);
        write(file, blocks);
        restart();
        EXPECT_TRUE(registry_->sessions("me").empty());
        EXPECT_EQ(ask(text(150)).cached, 0u);
        EXPECT_EQ(store().indexes_refused, 1u);
        EXPECT_EQ(store().restored_blocks, 0u);
        ASSERT_TRUE(registry_->delete_sessions("me").ok());
    }
}

TEST_F(KvStoreTest, deleting_all_forgets_what_had_lapsed_before) {
    auto small = options();
    small.stored_kv_bytes = 5 * registry_->get("a").value()->kv->layout().block_bytes();
    restart(small);
    const auto file = tell(text(150));
    const auto index = read(data() / "kv-index"), blocks = read(file);
    tell(text(150, 7), "you"); // takes its place
    EXPECT_TRUE(registry_->sessions("me").empty());
    EXPECT_EQ(registry_->delete_sessions("me").value(), 0u);
    write(data() / "kv-index", index);
    write(file, blocks);
    restart(small);
    EXPECT_EQ(store().indexes_refused, 1u);
    EXPECT_TRUE(registry_->sessions("me").empty());
}

// ---- Limits ----

TEST_F(KvStoreTest, the_oldest_go_when_the_store_is_full) {
    auto small = options();
    small.stored_kv_bytes = 9 * registry_->get("a").value()->kv->layout().block_bytes();
    restart(small);
    tell(text(150));
    tell(text(150, 7), "you");
    EXPECT_EQ(ask(text(150)).cached, 128u); // used again: now the other one is older
    forget_memory();
    tell(text(150, 4), "they");
    EXPECT_EQ(registry_->sessions("me").size(), 1u);
    EXPECT_TRUE(registry_->sessions("you").empty());
    EXPECT_EQ(store().evicted, 1u);
    EXPECT_LE(store().bytes, small.stored_kv_bytes);
    EXPECT_EQ(files().size(), 2u);
}

TEST_F(KvStoreTest, what_is_larger_than_the_store_is_kept_as_far_as_it_fits) {
    auto small = options();
    small.stored_kv_bytes = 3 * registry_->get("a").value()->kv->layout().block_bytes();
    restart(small);
    ask(text(150), "me", 1);
    wait_until([&] { return store().save_failures == 1; });
    forget_memory();
    const Reply reply = ask(text(150));
    EXPECT_EQ(reply.cached, 96u);
    expect_same(reply, ask_anew(text(150)));
}

TEST_F(KvStoreTest, a_store_that_cannot_be_written_costs_nothing_but_the_copy) {
    std::filesystem::remove_all(data());
    ask(text(150), "me", 1);
    wait_until([&] { return store().save_failures == 1; });
    EXPECT_EQ(ask(text(150) + text(5)).cached, 150u); // from memory
    forget_memory();
    expect_same(ask(text(150)), ask_anew(text(150)));
}

// The index is a pipe that nobody reads: whoever writes it waits for ever.
TEST_F(KvStoreTest, nobody_who_wants_memory_or_an_answer_waits_for_the_store) {
    ASSERT_EQ(::mkfifo((data() / "kv-index.part").c_str(), 0600), 0);
    ask(text(150), "me", 1);
    wait_until([&] { return store().saved_blocks == 4; });
    EXPECT_GT(registry_->give_back(UINT64_MAX), 0u);
    EXPECT_EQ(ask(text(150) + text(5)).cached, 128u); // of this run's own making, so it is good
    EXPECT_EQ(registry_->sessions("me").size(), 1u);
    std::ifstream reader(data() / "kv-index.part"); // lets the writer go
    generator_.reset();
    registry_.reset();
}

TEST_F(KvStoreTest, files_that_no_index_knows_go_at_a_start_and_others_stay) {
    tell(text(150));
    const auto orphan = data() / ("kv-" + std::string(32, '0') + ".blocks");
    for (const auto& name : {orphan, data() / "kv-other.blocks", data() / "notes"})
        std::ofstream(name) << "x";
    restart();
    EXPECT_FALSE(std::filesystem::exists(orphan));
    EXPECT_TRUE(std::filesystem::exists(data() / "notes"));
    EXPECT_TRUE(std::filesystem::exists(data() / "kv-other.blocks"));
    EXPECT_EQ(ask(text(150)).cached, 128u);
}

} // namespace
} // namespace flex::pipeline
