#include "support/device_under_test.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

extern char** environ;

namespace flex::test {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using platform::DeviceError;

namespace {

// Long, because other work may share the machine.
constexpr auto kBootTimeout = 120s;

std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> list;
    for (std::string& word : words) list.push_back(word.data());
    list.push_back(nullptr);
    return list;
}

/// Reads both ends until they close or `give_up`.
void read_both(int out, int err, RunResult& result, Clock::time_point give_up) {
    pollfd ends[2] = {{.fd = out, .events = POLLIN, .revents = 0}, {.fd = err, .events = POLLIN, .revents = 0}};
    while ((ends[0].fd >= 0 || ends[1].fd >= 0) && Clock::now() < give_up) {
        if (::poll(ends, 2, 200) < 0 && errno != EINTR) return;
        for (int i = 0; i < 2; ++i) {
            if (ends[i].fd < 0 || ends[i].revents == 0) continue;
            char buffer[4096];
            const ssize_t got = ::read(ends[i].fd, buffer, sizeof buffer);
            if (got > 0) (i == 0 ? result.out : result.err).append(buffer, static_cast<std::size_t>(got));
            else ends[i].fd = -1;
        }
    }
}

} // namespace

RunResult run_program(const std::vector<std::string>& words, const std::vector<std::string>& environment, std::chrono::seconds patience) {
    int out[2], err[2];
    if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) throw DeviceError("no pipe");
    std::vector<std::string> arguments = words, variables = environment;
    for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable); // the first of a name counts
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
    pid_t child = 0;
    const int error = ::posix_spawnp(&child, arguments[0].c_str(), &actions, nullptr, pointers(arguments).data(), pointers(variables).data());
    posix_spawn_file_actions_destroy(&actions);
    ::close(out[1]);
    ::close(err[1]);
    RunResult result;
    if (error == 0) {
        const auto give_up = Clock::now() + patience;
        read_both(out[0], err[0], result, give_up);
        if (Clock::now() >= give_up) ::kill(child, SIGKILL);
        int status = 0;
        while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
        result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    ::close(out[0]);
    ::close(err[0]);
    if (error != 0) throw DeviceError("cannot run " + words[0] + ": " + std::strerror(error));
    return result;
}

RunResult flexserve(const std::vector<std::string>& words, const std::vector<std::string>& environment) {
    std::vector<std::string> all = {FLEX_COMMAND};
    all.insert(all.end(), words.begin(), words.end());
    return run_program(all, environment);
}

platform::MachineOptions machine_options() {
    platform::MachineOptions options;
    options.cores = 2;
    options.attack_devices = true;
    options.ends_with_us = true; // also when the test is killed
    return options;
}

namespace {

fs::path fresh_home(const fs::path& home) {
    ::setenv("FLEXSERVE_HOME", home.c_str(), 1);
    platform::Device(platform::device_folder()).kill(); // of a run that was interrupted
    fs::remove_all(home);
    fs::create_directories(home);
    return platform::device_folder();
}

} // namespace

DeviceUnderTest::DeviceUnderTest(fs::path home) : device_(fresh_home(home)) {
    const auto model = attack::demo_model_file();
    if (!model) throw DeviceError("models/demo has no model");
    target_ = std::make_unique<attack::Target>(device_, *model);
}

DeviceUnderTest::~DeviceUnderTest() {
    try {
        power_off();
    } catch (const std::exception&) {
        // Nothing can be done about it here; the next run ends it.
    }
}

void DeviceUnderTest::boot(const platform::MachineOptions& options) {
    options_ = options;
    double load[1] = {0};
    ::getloadavg(load, 1);
    load_before_boot_ = load[0];
    const auto start = Clock::now();
    (void)device_.start(options);
    device_.wait_ready(kBootTimeout);
    boot_time_ = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
    target_->prepare();
}

void DeviceUnderTest::reboot() {
    device_.kill();
    (void)device_.start(options_);
    device_.wait_ready(kBootTimeout);
    target_->prepare();
}

void DeviceUnderTest::power_off() { device_.stop(); }

} // namespace flex::test
