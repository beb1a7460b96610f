#include "launcher/process.h"

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include <gtest/gtest.h>

#include "launcher/device.h"
#include "launcher/file_descriptor.h"
#include "launcher/tests/temporary_folder.h"

namespace flex::platform {
namespace {

using namespace std::chrono_literals;

bool ends(const ProcessId& id) {
    for (int i = 0; i < 200 && is_running(id); ++i) std::this_thread::sleep_for(10ms);
    return !is_running(id);
}

TEST(Process, runs_in_the_folder_and_logs_both_outputs) {
    const TemporaryFolder folder;
    const ProcessId id = spawn_detached({"sh", "-c", "pwd; echo to-stderr >&2"}, folder.path(), "log", "no sh");
    ASSERT_TRUE(ends(id));
    EXPECT_EQ(folder.read("log"), std::filesystem::canonical(folder.path()).string() + "\nto-stderr\n");
}

TEST(Process, is_in_a_session_of_its_own_so_that_the_terminals_ctrl_c_does_not_reach_it) {
    const TemporaryFolder folder;
    const ProcessId id = spawn_detached({"sleep", "60"}, folder.path(), "log", "no sleep");
    EXPECT_TRUE(is_running(id));
    EXPECT_EQ(::getsid(id.pid), id.pid);
    ::kill(id.pid, SIGKILL);
    EXPECT_TRUE(ends(id));
}

TEST(Process, ends_with_the_thread_that_started_it_if_it_was_told_so) {
    const TemporaryFolder folder;
    ProcessId bound, free;
    std::thread([&] {
        bound = spawn_detached({"sleep", "60"}, folder.path(), "log", "no sleep", Lifetime::kEndsWithUs);
        free = spawn_detached({"sleep", "60"}, folder.path(), "log", "no sleep");
        EXPECT_TRUE(is_running(bound));
    }).join();
    EXPECT_TRUE(ends(bound));
    EXPECT_TRUE(is_running(free));
    ::kill(free.pid, SIGKILL);
    EXPECT_TRUE(ends(free));
}

TEST(Process, one_that_does_not_heed_a_request_to_end_is_ended) {
    const TemporaryFolder folder;
    const ProcessId id = spawn_detached({"sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"}, folder.path(), "log", "no sh");
    for (int i = 0; i < 500 && folder.read("log").empty(); ++i) std::this_thread::sleep_for(10ms);
    end_process(id, 50ms);
    EXPECT_FALSE(is_running(id));
    end_process(id, 50ms);
}

TEST(Process, counts_as_listening_from_listen_on) {
    const TemporaryFolder folder;
    const ProcessId self = {.pid = ::getpid(), .start_time = 0};
    const FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = (folder.path() / "s").string();
    ASSERT_LT(path.size(), sizeof address.sun_path);
    path.copy(address.sun_path, path.size());
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_FALSE(is_listening(self));
    ASSERT_EQ(::listen(socket.get(), 1), 0);
    EXPECT_TRUE(is_listening(self));
}

TEST(Process, a_reused_pid_is_not_taken_for_the_process) {
    const TemporaryFolder folder;
    const ProcessId id = spawn_detached({"sleep", "60"}, folder.path(), "log", "no sleep");
    EXPECT_FALSE(is_running({.pid = id.pid, .start_time = id.start_time + 1}));
    EXPECT_FALSE(is_running({.pid = 0, .start_time = 0}));
    ::kill(id.pid, SIGKILL);
    EXPECT_TRUE(ends(id));
}

TEST(Process, a_missing_program_is_reported_in_the_callers_words) {
    const TemporaryFolder folder;
    try {
        static_cast<void>(spawn_detached({"no-such-program-anywhere"}, folder.path(), "log", "install it"));
        FAIL() << "started";
    } catch (const DeviceError& error) {
        EXPECT_STREQ(error.what(), "install it");
    }
}

TEST(Device, is_not_running_when_its_state_file_is_missing_broken_or_stale) {
    const TemporaryFolder folder;
    const Device device(folder.path());
    EXPECT_FALSE(device.running());
    for (const char* text : {"", "{", "[]", "{}", R"({"pid":"x"})",
                             R"({"pid":1,"pid_start_time":1,"https_port":1,"agent_port":1,"cores":1,"memory":1,
                                 "attack_devices":false,"started_at":1})"}) {
        folder.write(files::kState, text);
        EXPECT_FALSE(device.running()) << text;
    }
}

TEST(Device, commands_on_a_device_that_is_off_say_how_to_start_it) {
    const TemporaryFolder folder;
    Device device(folder.path());
    try {
        device.exec_text("true");
        FAIL() << "ran";
    } catch (const DeviceError& error) {
        EXPECT_NE(std::string(error.what()).find("flexserve device up"), std::string::npos);
    }
    EXPECT_TRUE(device.stop());
}

TEST(DeviceFolder, refuses_names_that_could_leave_the_data_folder) {
    for (const char* name : {"", "..", "a/b", ".hidden", "UPPER", "0123456789012345678901234567890123"})
        EXPECT_THROW(static_cast<void>(device_folder(name)), DeviceError) << name;
    EXPECT_EQ(device_folder("test-1").filename(), "test-1");
}

TEST(LogTail, gives_the_last_lines_without_control_characters) {
    const TemporaryFolder folder;
    folder.write("log", "one\ntwo\r\n\x1b[31mthree\n");
    EXPECT_EQ(log_tail(folder.path() / "log", 2), "two\n[31mthree\n");
    EXPECT_EQ(log_tail(folder.path() / "absent", 2), "");
}

} // namespace
} // namespace flex::platform
