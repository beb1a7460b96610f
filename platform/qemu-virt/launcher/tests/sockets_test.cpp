#include "launcher/sockets.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "launcher/tests/temporary_folder.h"

namespace flex::platform {
namespace {

using namespace std::chrono_literals;

// Accepts one connection on a port of its own, reads a line, sends the parts with a pause between them, and closes.
class FakeAgent final {
public:
    explicit FakeAgent(std::vector<std::string> parts, std::chrono::milliseconds linger = 0ms) {
        listener_ = FileDescriptor(::socket(AF_INET, SOCK_STREAM, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(listener_.get(), 1) != 0 ||
            ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
            ADD_FAILURE() << "no port";
        port = ntohs(address.sin_port);
        thread_ = std::thread([this, parts = std::move(parts), linger] {
            const FileDescriptor peer(::accept(listener_.get(), nullptr, nullptr));
            for (char c = 0; ::recv(peer.get(), &c, 1, 0) == 1 && c != '\n';) line += c;
            for (const std::string& part : parts) {
                if (::send(peer.get(), part.data(), part.size(), MSG_NOSIGNAL) < 0) break;
                std::this_thread::sleep_for(20ms);
            }
            std::this_thread::sleep_for(linger);
        });
    }
    ~FakeAgent() { join(); }
    void join() {
        if (thread_.joinable()) thread_.join();
    }
    std::uint16_t port = 0;
    std::string line;

private:
    FileDescriptor listener_;
    std::thread thread_;
};

struct Answer {
    std::optional<int> code;
    std::string output;
};

Answer ask(FakeAgent& agent, const std::string& line) {
    Answer answer;
    answer.code = agent_exec(agent.port, line, [&](std::string_view part) { answer.output += part; }, 5s);
    agent.join();
    return answer;
}

TEST(AgentExec, sends_the_line_and_gives_output_and_exit_code) {
    FakeAgent agent({"hello\n", "\x1e" "exit 7\n"});
    const Answer answer = ask(agent, "echo hello; exit 7");
    EXPECT_EQ(agent.line, "echo hello; exit 7");
    EXPECT_EQ(answer.code, 7);
    EXPECT_EQ(answer.output, "hello\n");
}

TEST(AgentExec, finds_the_end_mark_however_the_stream_is_cut) {
    const std::string whole = "no newline at the end\x1e" "exit 0\n";
    for (std::size_t cut = 1; cut < whole.size(); ++cut) {
        FakeAgent agent({whole.substr(0, cut), whole.substr(cut)});
        const Answer answer = ask(agent, "x");
        EXPECT_EQ(answer.code, 0) << cut;
        EXPECT_EQ(answer.output, "no newline at the end") << cut;
    }
}

TEST(AgentExec, does_not_take_a_mark_within_the_output_for_the_end) {
    FakeAgent agent({"\x1e" "exit one\n", "a\x1e" "b\n", "\x1e" "exit 3\n"});
    const Answer answer = ask(agent, "x");
    EXPECT_EQ(answer.code, 3);
    EXPECT_EQ(answer.output, "\x1e" "exit one\na\x1e" "b\n");
}

TEST(AgentExec, a_connection_that_ends_without_an_exit_code_has_none) {
    FakeAgent agent({"half"});
    const Answer answer = ask(agent, "x");
    EXPECT_FALSE(answer.code);
    EXPECT_EQ(answer.output, "half");
}

TEST(AgentExec, gives_up_after_the_timeout) {
    FakeAgent agent({}, 300ms);
    EXPECT_THROW(agent_exec(agent.port, "sleep 9", [](std::string_view) {}, 100ms), DeviceError);
}

TEST(AgentExec, refuses_a_command_of_two_lines) {
    EXPECT_THROW(agent_exec(1, "a\nb", [](std::string_view) {}), DeviceError);
}

TEST(FreePort, gives_another_port_when_the_wanted_one_is_taken) {
    FakeAgent taken({});
    const std::uint16_t port = free_port(taken.port);
    EXPECT_NE(port, taken.port);
    EXPECT_NE(port, 0);
    EXPECT_FALSE(connect_local(port));
    const auto end_the_agent = connect_local(taken.port);
    ASSERT_TRUE(end_the_agent);
    ASSERT_EQ(::send(end_the_agent->get(), "\n", 1, 0), 1);
}

TEST(ConnectUnix, reaches_sockets_in_folders_with_very_long_names) {
    const TemporaryFolder base;
    const std::filesystem::path folder = base.path() / std::string(100, 'a') / std::string(100, 'b');
    std::filesystem::create_directories(folder);
    const FileDescriptor listener(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::filesystem::path before = std::filesystem::current_path();
    std::filesystem::current_path(folder);
    std::string("s").copy(address.sun_path, 2);
    const int bound = ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
    std::filesystem::current_path(before);
    ASSERT_EQ(bound, 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_TRUE(connect_unix(folder, "s"));
    EXPECT_THROW(static_cast<void>(connect_unix(folder, "t")), DeviceError);
}

} // namespace
} // namespace flex::platform
