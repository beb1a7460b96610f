#include "linux/agent/control.h"
#include "linux/agent/handles.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <netinet/in.h>
#include <optional>
#include <spawn.h>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>

extern char** environ;

namespace flex::agent {
namespace {

constexpr std::size_t kCommandMax = 65536;

std::optional<std::string> read_line(int fd) {
    std::string line;
    char c = 0;
    while (line.size() < kCommandMax) {
        ssize_t got = read(fd, &c, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return line.empty() ? std::nullopt : std::optional(line);
        if (c == '\n') return line;
        line.push_back(c);
    }
    return std::nullopt;
}

// Runs the command with the socket as its stdout and stderr, stdin empty. -> its exit status as a shell tells
// it.
int run(const std::string& command, int socket) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, socket, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, socket, STDERR_FILENO);
    // Nothing may take the agent for want of memory (init), but what runs for others is not so dear.
    std::string shell = "/bin/sh", option = "-c", name = "sh", text = command;
    std::string line = "read a </proc/self/oom_score_adj; [ \"$a\" != -1000 ] || echo -900 >/proc/self/oom_score_adj; eval \"$1\"";
    char* arguments[] = {shell.data(), option.data(), line.data(), name.data(), text.data(), nullptr};
    // The agent ignores SIGPIPE; a shell's children rely on it.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    pid_t child = 0;
    int error = posix_spawn(&child, shell.c_str(), &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error) {
        const std::string message = "agent: cannot start a shell: " + std::generic_category().message(error) + "\n";
        send(socket, message.data(), message.size(), MSG_NOSIGNAL);
        return 127;
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

} // namespace

void serve_control_connection(int fd) {
    Descriptor socket(fd);
    auto command = read_line(socket.get());
    if (!command) return;
    std::string end = "\x1e"
                      "exit " +
                      std::to_string(run(*command, socket.get())) + "\n";
    send(socket.get(), end.data(), end.size(), MSG_NOSIGNAL);
    ::shutdown(socket.get(), SHUT_WR);
}

void serve_control_port(std::uint16_t port) {
    Descriptor listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int one = 1;
    setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    if (!listener.valid() ||
        bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener.get(), 16) != 0)
        throw std::system_error(errno, std::generic_category(), "control port " + std::to_string(port));
    for (;;) {
        int connection = accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC);
        if (connection >= 0) std::thread(serve_control_connection, connection).detach();
    }
}

} // namespace flex::agent
