#include "linux/agent/control.h"
#include "linux/agent/hostile.h"
#include "linux/agent/streams.h"
#include "linux/agent/supervisor.h"

#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <gtest/gtest.h>
#include <memory>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <thread>

namespace flex::agent {
namespace {

// One RPC on a slot of its own.
struct Call {
    std::unique_ptr<flex_rpc_slot> slot = std::make_unique<flex_rpc_slot>();

    template <typename Member>
    std::int64_t operator()(Streams& streams, Member member, std::initializer_list<std::uint64_t> arguments,
                            std::string_view data = {}) {
        *slot = {};
        std::copy(arguments.begin(), arguments.end(), slot->arg);
        if (!data.empty()) std::memcpy(slot->data, data.data(), data.size());
        slot->data_len = static_cast<flex_u32>(data.size());
        Request request(*slot);
        (streams.*member)(request);
        return slot->result;
    }
    [[nodiscard]] std::string text() const {
        return {reinterpret_cast<const char*>(slot->data), slot->data_len};
    }
};

constexpr std::uint64_t kNoWait = 0;
constexpr std::uint64_t kSecond = 1000;
constexpr std::uint64_t kForEver = ~0ull;

class AgentStreams : public testing::Test {
protected:
    AgentStreams() {
        // Any free port: ask for one at random until it can be had.
        for (port_ = 20000 + static_cast<std::uint16_t>(getpid() % 20000); port_ < 60000; port_++) {
            listener_ = call_(streams_, &Streams::listen, {port_, 4});
            if (listener_ != -EADDRINUSE) break;
        }
    }
    [[nodiscard]] int connect_client() const {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port_);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        return fd;
    }
    std::uint64_t accept_stream() {
        std::int64_t stream = call_(streams_, &Streams::accept, {listener(), kSecond});
        EXPECT_GE(stream, 0);
        return static_cast<std::uint64_t>(stream);
    }
    [[nodiscard]] std::uint64_t listener() const { return static_cast<std::uint64_t>(listener_); }

    HandleTable handles_;
    Streams streams_{handles_};
    Call call_;
    std::uint16_t port_ = 0;
    std::int64_t listener_ = -1;
};

TEST_F(AgentStreams, bytes_cross_in_both_directions) {
    int client = connect_client();
    std::uint64_t stream = accept_stream();
    EXPECT_EQ(call_.slot->out[0] >> 16, 0x7f000001u);
    EXPECT_EQ(call_(streams_, &Streams::send, {stream, 0, kSecond}, "answer"), 6);
    char buffer[6];
    EXPECT_EQ(recv(client, buffer, 6, MSG_WAITALL), 6);
    EXPECT_EQ(std::string(buffer, 6), "answer");
    EXPECT_EQ(send(client, "prompt", 6, 0), 6);
    EXPECT_EQ(call_(streams_, &Streams::receive, {stream, 100, kSecond}), 6);
    EXPECT_EQ(call_.text(), "prompt");
    ::close(client);
    EXPECT_EQ(call_(streams_, &Streams::receive, {stream, 100, kSecond}), 0);
}

TEST_F(AgentStreams, a_timeout_ends_every_wait) {
    EXPECT_EQ(call_(streams_, &Streams::accept, {listener(), 10}), -EAGAIN);
    int client = connect_client();
    std::uint64_t stream = accept_stream();
    EXPECT_EQ(call_(streams_, &Streams::receive, {stream, 100, kNoWait}), -EAGAIN);
    EXPECT_EQ(call_(streams_, &Streams::receive, {stream, 100, 10}), -EAGAIN);
    ::close(client);
}

TEST_F(AgentStreams, closing_a_handle_wakes_who_waits_on_it) {
    int client = connect_client();
    std::uint64_t stream = accept_stream();
    std::thread closer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        handles_.close(stream);
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        handles_.close_all();
    });
    EXPECT_LE(call_(streams_, &Streams::receive, {stream, 100, kForEver}), 0);
    EXPECT_LT(call_(streams_, &Streams::accept, {listener(), kForEver}), 0);
    closer.join();
    EXPECT_EQ(handles_.size(), 0u);
    ::close(client);
}

TEST_F(AgentStreams, poll_tells_which_streams_are_ready) {
    int client = connect_client();
    std::uint64_t stream = accept_stream();
    EXPECT_EQ(send(client, "x", 1, 0), 1);
    std::uint32_t entries[] = {static_cast<std::uint32_t>(listener_), POLLIN,
                               static_cast<std::uint32_t>(stream), POLLIN};
    std::string_view data(reinterpret_cast<const char*>(entries), sizeof entries);
    EXPECT_EQ(call_(streams_, &Streams::poll, {2, kSecond}, data), 1);
    std::memcpy(entries, call_.slot->data, sizeof entries);
    EXPECT_EQ(entries[1], 0u);
    EXPECT_EQ(entries[3], static_cast<std::uint32_t>(POLLIN));
    entries[0] = 4711;
    EXPECT_GE(call_(streams_, &Streams::poll, {2, kForEver}, data), 1);
    std::memcpy(entries, call_.slot->data, sizeof entries);
    EXPECT_EQ(entries[1], static_cast<std::uint32_t>(POLLNVAL));
    EXPECT_EQ(call_(streams_, &Streams::poll, {33, 0}, data), -EINVAL);
    EXPECT_EQ(call_(streams_, &Streams::poll, {3, 0}, data), -EINVAL);
    ::close(client);
}

TEST_F(AgentStreams, a_handle_of_the_wrong_kind_is_refused) {
    EXPECT_EQ(call_(streams_, &Streams::receive, {listener(), 1, kNoWait}), -EBADF);
    EXPECT_EQ(call_(streams_, &Streams::accept, {~0ull, kNoWait}), -EBADF);
    EXPECT_EQ(call_(streams_, &Streams::listen, {0, 1}), -EINVAL);
    EXPECT_EQ(call_(streams_, &Streams::listen, {65536, 1}), -EINVAL);
}

TEST(AgentControl, a_command_answers_with_its_output_and_exit_status) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    std::thread server(serve_control_connection, ends[1]);
    std::string command = "echo out; echo err >&2; exit 3\n", text;
    ASSERT_EQ(send(ends[0], command.data(), command.size(), 0), static_cast<ssize_t>(command.size()));
    char buffer[256];
    for (ssize_t got; (got = recv(ends[0], buffer, sizeof buffer, 0)) > 0;)
        text.append(buffer, static_cast<std::size_t>(got));
    server.join();
    EXPECT_EQ(text, "out\nerr\n\x1e"
                    "exit 3\n");
    ::close(ends[0]);
}

TEST(AgentSupervisor, a_failing_program_is_restarted_a_few_times) {
    Log log("/dev/null", "/dev/null");
    int starts = 0;
    Supervisor supervisor([&] { return ++starts; }, log, std::chrono::milliseconds(1));
    EXPECT_TRUE(supervisor.start());
    EXPECT_FALSE(supervisor.handle_end(0));
    EXPECT_FALSE(supervisor.handle_end(256 + SIGKILL)) << "a STOP is nobody's fault";
    for (int i = 0; i < 4; i++) EXPECT_TRUE(supervisor.handle_end(i % 2 ? 1 : 256 + SIGSEGV));
    EXPECT_FALSE(supervisor.handle_end(1)) << "it keeps failing";
    EXPECT_EQ(starts, 5);
    EXPECT_FALSE(supervisor.ended(4, 0)) << "the end of a program that has been replaced";
    EXPECT_TRUE(supervisor.ended(5, 0));
    EXPECT_EQ(describe_exit(256 + SIGSEGV), "signal 11");
    EXPECT_EQ(describe_exit(3), "exit code 3");
}

TEST(AgentHostile, each_lie_is_told) {
    auto slot = std::make_unique<flex_rpc_slot>();
    auto tell = [&](const char* mode, flex_rpc_op op, std::int64_t result, std::uint64_t random) {
        *slot = {};
        slot->op = op;
        slot->arg[2] = 100;
        Liar liar(HostileMode::parse(mode), random);
        bool answered = liar.before(*slot);
        if (!answered) {
            slot->result = result;
            slot->data_len = 100;
            liar.after(*slot);
        }
        return slot->result;
    };
    EXPECT_EQ(tell("none", FLEX_RPC_READ, 100, 0), 100);
    EXPECT_EQ(slot->data_len, 100u);
    EXPECT_GT(tell("more-than-asked", FLEX_RPC_READ, 100, 5), 100);
    EXPECT_EQ(tell("short-reads", FLEX_RPC_READ, 100, 0), 50);
    EXPECT_EQ(tell("huge-result", FLEX_RPC_WRITE, 1, 0), INT64_MAX);
    EXPECT_LT(tell("negative-result", FLEX_RPC_WRITE, 1, 0), -4095);
    EXPECT_EQ(tell("bad-handles", FLEX_RPC_OPEN, 3, 1), 65536);
    EXPECT_EQ(tell("same-handle", FLEX_RPC_OPEN, 3, 1), 0);
    EXPECT_EQ(tell("swallow-writes", FLEX_RPC_SYNC, -1, 1), 0);
    tell("long-data", FLEX_RPC_READ, 100, 0);
    EXPECT_GT(slot->data_len, static_cast<flex_u32>(FLEX_RPC_DATA_BYTES));
    tell("swap 65536", FLEX_RPC_LOAD, 1, 0);
    EXPECT_EQ(slot->arg[1], 65536u);
    tell("flip-bit", FLEX_RPC_READ, 100, 42);
    EXPECT_EQ(slot->data[42], 1);
    *slot = {};
    slot->op = FLEX_RPC_OPEN;
    slot->data_len = 1;
    slot->data[0] = 'm';
    Liar liar(HostileMode::parse("substitute .old\n"), 0);
    liar.before(*slot);
    EXPECT_EQ(std::string(reinterpret_cast<char*>(slot->data), slot->data_len), "m.old");
    slot->result = -ENOENT;
    EXPECT_TRUE(liar.again(*slot)) << "no such file: the one that was asked for";
    EXPECT_EQ(std::string(reinterpret_cast<char*>(slot->data), slot->data_len), "m");
    EXPECT_FALSE(liar.again(*slot));
}

} // namespace
} // namespace flex::agent
