#include "linux/agent/server.h"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <unistd.h>

namespace flex::agent {
namespace {

class AgentFiles : public testing::Test {
protected:
    AgentFiles()
        : base_(std::filesystem::temp_directory_path() / ("flex-agent-" + std::to_string(getpid()))) {
        std::filesystem::create_directories(base_ / "store");
        std::filesystem::create_directories(base_ / "data");
        log_ = std::make_unique<Log>((base_ / "console").string(), (base_ / "log").string());
        server_ =
            std::make_unique<Server>(handles_, (base_ / "store").string(), (base_ / "data").string(), *log_);
    }
    ~AgentFiles() override { std::filesystem::remove_all(base_); }

    std::int64_t call(flex_rpc_op op, std::initializer_list<std::uint64_t> arguments,
                      std::string_view data = {}) {
        *slot_ = {};
        slot_->op = op;
        std::copy(arguments.begin(), arguments.end(), slot_->arg);
        std::memcpy(slot_->data, data.data(), data.size());
        slot_->data_len = static_cast<flex_u32>(data.size());
        Request request(*slot_);
        server_->serve(request);
        return slot_->result;
    }
    [[nodiscard]] std::string answer() const {
        return {reinterpret_cast<const char*>(slot_->data), slot_->data_len};
    }
    void put(const std::string& path, std::string_view content) { std::ofstream(base_ / path) << content; }

    std::filesystem::path base_;
    HandleTable handles_;
    std::unique_ptr<Log> log_;
    std::unique_ptr<Server> server_;
    std::unique_ptr<flex_rpc_slot> slot_ = std::make_unique<flex_rpc_slot>();
};

TEST(AgentNames, only_plain_names_within_a_folder_are_accepted) {
    EXPECT_EQ(checked_name("model.flex"), "model.flex");
    EXPECT_EQ(checked_name(std::string(255, 'x')), std::string(255, 'x'));
    for (std::string_view bad : {"", ".", "..", ".hidden", "a/b", "../x", "/etc/passwd"})
        EXPECT_FALSE(checked_name(bad)) << bad;
    EXPECT_FALSE(checked_name(std::string(256, 'x')));
    EXPECT_FALSE(checked_name(std::string_view("a\0b", 3)));
}

TEST_F(AgentFiles, what_was_written_is_read_back) {
    std::int64_t handle = call(FLEX_RPC_OPEN, {FLEX_ROOT_DATA, FLEX_OPEN_WRITE | FLEX_OPEN_CREATE}, "state");
    ASSERT_GE(handle, 0);
    auto h = static_cast<std::uint64_t>(handle);
    EXPECT_EQ(call(FLEX_RPC_WRITE, {h, 4}, "hello"), 5);
    EXPECT_EQ(call(FLEX_RPC_SYNC, {h}), 0);
    EXPECT_EQ(call(FLEX_RPC_SIZE, {h}), 9);
    EXPECT_EQ(call(FLEX_RPC_READ, {h, 4, 100}), 5);
    EXPECT_EQ(answer(), "hello");
    EXPECT_EQ(call(FLEX_RPC_READ, {h, 9, 100}), 0);
    EXPECT_EQ(call(FLEX_RPC_TRUNCATE, {h, 2}), 0);
    EXPECT_EQ(call(FLEX_RPC_SIZE, {h}), 2);
    EXPECT_EQ(call(FLEX_RPC_CLOSE, {h}), 0);
    EXPECT_EQ(call(FLEX_RPC_CLOSE, {h}), -EBADF);
    EXPECT_EQ(call(FLEX_RPC_READ, {h, 0, 1}), -EBADF);
}

TEST_F(AgentFiles, the_store_cannot_be_written) {
    put("store/model.flex", "package");
    EXPECT_EQ(call(FLEX_RPC_OPEN, {FLEX_ROOT_STORE, FLEX_OPEN_WRITE}, "model.flex"), -EROFS);
    EXPECT_EQ(call(FLEX_RPC_OPEN, {FLEX_ROOT_STORE, FLEX_OPEN_TRUNCATE}, "model.flex"), -EROFS);
    EXPECT_EQ(call(FLEX_RPC_UNLINK, {FLEX_ROOT_STORE}, "model.flex"), -EROFS);
    EXPECT_EQ(call(FLEX_RPC_RENAME, {FLEX_ROOT_STORE}, std::string_view("model.flex\0x", 12)), -EROFS);
    EXPECT_GE(call(FLEX_RPC_OPEN, {FLEX_ROOT_STORE, 0}, "model.flex"), 0);
    EXPECT_EQ(slot_->out[0], 7u);
}

TEST_F(AgentFiles, errors_are_the_systems_own) {
    EXPECT_EQ(call(FLEX_RPC_OPEN, {FLEX_ROOT_DATA, 0}, "absent"), -ENOENT);
    EXPECT_EQ(call(FLEX_RPC_OPEN, {7, 0}, "absent"), -EINVAL);
    std::filesystem::create_directory(base_ / "data/folder");
    EXPECT_EQ(call(FLEX_RPC_OPEN, {FLEX_ROOT_DATA, 0}, "folder"), -EISDIR);
    std::filesystem::create_symlink("/etc/passwd", base_ / "data/link");
    EXPECT_EQ(call(FLEX_RPC_OPEN, {FLEX_ROOT_DATA, 0}, "link"), -ELOOP);
    put("data/here", "");
    EXPECT_EQ(call(FLEX_RPC_OPEN, {FLEX_ROOT_DATA, FLEX_OPEN_WRITE | FLEX_OPEN_CREATE | FLEX_OPEN_EXCLUSIVE},
                   "here"),
              -EEXIST);
    EXPECT_EQ(call(static_cast<flex_rpc_op>(999), {}), -ENOSYS);
}

TEST_F(AgentFiles, rename_replaces_the_old_file) {
    put("data/new", "new");
    put("data/old", "old");
    EXPECT_EQ(call(FLEX_RPC_RENAME, {FLEX_ROOT_DATA}, std::string_view("new\0old", 7)), 0);
    EXPECT_FALSE(std::filesystem::exists(base_ / "data/new"));
    std::string content;
    std::ifstream(base_ / "data/old") >> content;
    EXPECT_EQ(content, "new");
    EXPECT_EQ(call(FLEX_RPC_RENAME, {FLEX_ROOT_DATA}, "no-second-name"), -EINVAL);
    EXPECT_EQ(call(FLEX_RPC_RENAME, {FLEX_ROOT_DATA}, std::string_view("old\0../x", 8)), -EINVAL);
}

TEST_F(AgentFiles, a_list_can_be_read_in_parts) {
    put("store/b", "");
    put("store/a", "");
    put("store/.hidden", "");
    std::filesystem::create_directory(base_ / "store/folder");
    EXPECT_EQ(call(FLEX_RPC_LIST, {FLEX_ROOT_STORE, 0}), 2);
    EXPECT_EQ(answer(), std::string("a\0b\0", 4));
    EXPECT_EQ(call(FLEX_RPC_LIST, {FLEX_ROOT_STORE, 1}), 1);
    EXPECT_EQ(answer(), std::string("b\0", 2));
    EXPECT_EQ(call(FLEX_RPC_LIST, {FLEX_ROOT_STORE, 2}), 0);
}

TEST_F(AgentFiles, offsets_beyond_the_largest_file_are_refused) {
    put("data/file", "x");
    auto h = static_cast<std::uint64_t>(call(FLEX_RPC_OPEN, {FLEX_ROOT_DATA, FLEX_OPEN_WRITE}, "file"));
    EXPECT_EQ(call(FLEX_RPC_READ, {h, ~0ull, 1}), -EINVAL);
    EXPECT_EQ(call(FLEX_RPC_WRITE, {h, ~0ull}, "x"), -EINVAL);
    EXPECT_EQ(call(FLEX_RPC_TRUNCATE, {h, ~0ull}), -EINVAL);
    EXPECT_EQ(call(FLEX_RPC_READ, {h, 0, FLEX_RPC_DATA_BYTES + 1}), -EINVAL);
}

TEST_F(AgentFiles, a_full_disk_is_reported_as_one) {
    if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
    auto handle = handles_.add(HandleKind::kFile, Descriptor(open("/dev/full", O_RDWR)));
    EXPECT_EQ(call(FLEX_RPC_WRITE, {static_cast<std::uint64_t>(handle), 0}, "x"), -ENOSPC);
}

TEST_F(AgentFiles, log_text_cannot_move_the_consoles_cursor) {
    EXPECT_EQ(log_lines("framework", "one\ntwo\x1b[2J\n"), "framework: one\nframework: two?[2J\n");
    EXPECT_EQ(call(FLEX_RPC_LOG, {}, "hello"), 0);
    std::string line;
    std::ifstream log(base_ / "log");
    std::getline(log, line);
    EXPECT_EQ(line, "framework: hello");
}

} // namespace
} // namespace flex::agent
