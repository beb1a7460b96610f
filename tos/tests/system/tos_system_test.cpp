/*
 * Boots the real chain with a program of the tests in the trusted OS (tests/programs/checks.cpp), tells it
 * one family of system calls at a time, and reads what it says on the secure UART. Each start of the agent in
 * the guest starts the program anew.
 */
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "launcher/device.h"

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using flex::platform::Device;

std::string read_all(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/* One command of the hostile kernel module follows. */
const std::string kAttack = "insmod /lib/flex/flexattack.ko 2>/dev/null; echo '";

class Machine {
public:
    explicit Machine(const fs::path& home) : device_((fs::remove_all(home), home)) {
        device_.create();
        std::string content(3'000'001, '\0');
        for (size_t i = 0; i < content.size(); i++) content[i] = static_cast<char>(i * 7 + i / 251);
        std::ofstream(home / flex::platform::files::kStore / "load-test", std::ios::binary) << content;
        boot();
    }
    ~Machine() { device_.kill(); }

    void boot() {
        flex::platform::MachineOptions options;
        options.firmware.trusted_os = options.firmware.trusted_os.parent_path() / "tos-checks.bin";
        options.memory = 1 * flex::platform::kGiB;
        fs::remove(device_.folder() / flex::platform::files::kData /
                   "command"); /* the first start shall do nothing */
        device_.start(options);
        wait([this] { return answers(); }, 120s, "the device does not answer");
    }

    void power_off() { (void)device_.stop(); }

    /* What the program said from its start until it had ended; `meanwhile` runs once it has said `when`. */
    std::string run(const std::string& command, const std::string& when = "",
                    const std::function<void()>& meanwhile = {}) {
        const size_t from = secure_log().size();
        std::ofstream(device_.folder() / flex::platform::files::kData / "command") << command;
        exec("(sleep 0.1; killall flex-agentd) >/dev/null 2>&1 &");
        const auto said = [&] { return secure_log().substr(std::min(from, secure_log().size())); };
        const std::string mark = "command " + command;
        const auto own = [&] {
            const std::string all = said();
            const size_t at = all.find(mark);
            return at == std::string::npos ? std::string() : all.substr(at);
        };
        if (meanwhile) {
            wait([&] { return own().find(when) != std::string::npos; }, 60s, "it never says " + when);
            wait([this] { return answers(); }, 30s, "the agent does not come back");
            meanwhile();
        }
        try {
            wait([&] { return own().find("tos: the program has ended") != std::string::npos; }, 90s,
                 command + " does not end");
        } catch (const std::exception&) {
            std::cout << said()
                      << exec("cd /sys/class/misc/flexserve; grep . program lent_bytes tos/* "
                              "monitor/frames*; dmesg | tail -n 20");
            throw;
        }
        wait([this] { return answers(); }, 30s, "the agent does not come back");
        const std::string text = own();
        std::cout << text << std::flush;
        return text;
    }

    std::string exec(const std::string& line) {
        try {
            return device_.exec_text(line, nullptr, 20s);
        } catch (const std::exception&) {
            return "";
        }
    }
    long stat(const std::string& name) {
        return std::atol(exec("cat /sys/class/misc/flexserve/" + name).c_str());
    }
    /* The secure UART's text, lines as usual. */
    std::string secure_log() const {
        std::string text = read_all(device_.folder() / flex::platform::files::kSecureLog);
        std::erase(text, '\r');
        return text;
    }

private:
    bool answers() { return exec("echo up") == "up\n"; }
    static void wait(const std::function<bool()>& condition, std::chrono::seconds patience,
                     const std::string& what) {
        const auto end = std::chrono::steady_clock::now() + patience;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > end) throw std::runtime_error(what);
            std::this_thread::sleep_for(200ms);
        }
    }

    Device device_;
};

std::unique_ptr<Machine> machine;

class BootOnce final : public testing::Environment {
public:
    void SetUp() override { machine = std::make_unique<Machine>(FLEX_TEST_HOME); }
    void TearDown() override { machine.reset(); }
};

/* All of its promises were kept, and it came to its end. */
void expect_good(const std::string& text) {
    EXPECT_EQ(text.find("BAD"), std::string::npos) << text;
    EXPECT_NE(text.find(": good"), std::string::npos) << text;
    EXPECT_NE(text.find("\ndone"), std::string::npos) << text;
    EXPECT_NE(text.find("has ended, code 0"), std::string::npos) << text;
}

void expect_no_frame_lost() {
    EXPECT_EQ(machine->stat("monitor/frames_adopted"), 0);
    EXPECT_EQ(machine->stat("monitor/frames_released"), 0);
    EXPECT_EQ(machine->stat("monitor/frames_shared"), 0);
    EXPECT_EQ(machine->stat("tos/frames_adopted"), machine->stat("tos/frames_released"));
}

} // namespace

TEST(TrustedOs, adopts_and_gives_back_flex_memory) { expect_good(machine->run("memory")); }
TEST(TrustedOs, loads_files_into_flex_memory) { expect_good(machine->run("load")); }
TEST(TrustedOs, carries_files_to_the_normal_world) { expect_good(machine->run("files")); }
TEST(TrustedOs, enforces_write_xor_execute) { expect_good(machine->run("protection")); }

TEST(TrustedOs, carries_streams_with_time_outs_and_poll) {
    expect_good(machine->run("sockets", "listening", [] {
        std::this_thread::sleep_for(500ms);
        EXPECT_EQ(machine->exec("(printf hello; sleep 2) | nc 127.0.0.1 9000"), "world");
    }));
}

TEST(TrustedOs, hands_a_reclaim_to_the_program) {
    const std::string text = machine->run(
        "reclaim", "waiting", [] { machine->exec("echo 1048576 > /sys/class/misc/flexserve/reclaim"); });
    expect_good(text);
    EXPECT_NE(text.find("reclaim: 1048576"), std::string::npos) << text;
}

TEST(TrustedOs, keeps_keys_and_store_over_a_power_cycle_but_no_random_numbers) {
    const auto line = [](const std::string& text, const std::string& name) {
        const size_t at = text.find(name);
        return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
    };
    const std::string first = machine->run("secrets");
    expect_good(first);
    machine->power_off();
    machine->boot();
    const std::string second = machine->run("secrets");
    expect_good(second);
    EXPECT_EQ(line(first, "key of label"), line(second, "key of label"));
    EXPECT_NE(line(first, "numbers:"), line(second, "numbers:"));
    EXPECT_NE(line(first, "store had"), line(second, "store had"));
    EXPECT_EQ(line(second, "store had"), "store had: generation 1");
}

/* A fault ends the program with a register dump and a call chain, and the next program runs. */
class Fault : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(Fault, ends_the_program_but_not_the_trusted_os) {
    const std::string text = machine->run(GetParam().first);
    EXPECT_NE(text.find(GetParam().second), std::string::npos) << text;
    EXPECT_EQ(text.find("\ndone"), std::string::npos) << text;
    EXPECT_NE(text.find("called from"), std::string::npos) << text;
    EXPECT_EQ(text.find("panic"), std::string::npos) << text;
}

INSTANTIATE_TEST_SUITE_P(
    OfTheProgram, Fault,
    testing::Values(std::pair("wild-pointer", "signal 11"), std::pair("kernel-pointer", "signal 11"),
                    std::pair("undefined-instruction", "signal 4"),
                    std::pair("privileged-instruction", "signal 4"), std::pair("write-text", "signal 11"),
                    std::pair("execute-data", "signal 11"), std::pair("stack-overflow", "signal 11"),
                    std::pair("abort", "signal 6")),
    [](const auto& info) {
        std::string name = info.param.first;
        for (char& c : name) c = c == '-' ? '_' : c;
        return name;
    });

TEST(TrustedOs, ends_a_program_whose_threads_are_busy_and_hands_all_frames_back) {
    const std::string text = machine->run("many-threads");
    EXPECT_NE(text.find("has ended, code 5"), std::string::npos) << text;
}

TEST(TrustedOs, survives_random_system_calls_of_its_program) {
    const std::string text = machine->run("fuzz");
    EXPECT_EQ(text.find("panic"), std::string::npos) << text;
    EXPECT_NE(text.find("calls\n"), std::string::npos) << text;
    expect_good(machine->run("protection"));
}

TEST(TrustedOs, stops_a_spinning_program_when_asked_and_leaves_the_cores_to_linux_meanwhile) {
    const std::string text = machine->run("spin", "spinning", [] {
        /* The program has taken every core it was lent, and yet Linux answers. */
        EXPECT_EQ(machine->exec("echo alive"), "alive\n");
        EXPECT_GT(machine->stat("tos/interrupted"), 10);
        machine->exec("echo stop > /sys/class/misc/flexserve/program");
    });
    EXPECT_NE(text.find("has ended, signal 9"), std::string::npos) << text;
    expect_no_frame_lost();
}

TEST(TrustedOs, gives_its_program_an_npu_that_is_empty_and_takes_back_one_that_is_empty) {
    expect_good(machine->run("npu"));
    EXPECT_EQ(machine->exec(kAttack + "npu-residue' > /dev/flexattack; cat /dev/flexattack").substr(0, 8), "blocked:");
    expect_no_frame_lost();
}

TEST(TrustedOs, takes_the_npu_from_a_program_that_does_not_heed_a_recall) {
    const long revoked = machine->stat("tos/npu_revoked");
    expect_good(machine->run("npu-recall", "holding", [] {
        EXPECT_EQ(machine->exec(kAttack + "npu-switches 3' > /dev/flexattack; cat /dev/flexattack").substr(0, 8), "blocked:");
    }));
    EXPECT_GT(machine->stat("tos/npu_revoked"), revoked);
}

TEST(TrustedOs, resets_the_npu_of_a_program_that_ends_before_its_memory_goes_back) {
    const std::string text = machine->run("npu-exit");
    expect_good(text);
    EXPECT_EQ(machine->exec("cat /sys/class/misc/flexserve/npu/state"), "normal\n");
    expect_no_frame_lost();
}

/* FLEX_NPU_TURNS and FLEX_NPU_SWITCHES make a soak of it; the turns have 90 s, the switches 20 s. */
TEST(TrustedOs, shares_the_npu_with_a_normal_world_that_wants_it_all_the_time) {
    const auto number = [](const char* variable, const char* otherwise) {
        const char* value = std::getenv(variable);
        return std::string(value != nullptr ? value : otherwise);
    };
    machine->exec("echo " + number("FLEX_NPU_TURNS", "40") + " > /data/npu-turns");
    const std::string switches = number("FLEX_NPU_SWITCHES", "200");
    expect_good(machine->run("npu-turns", "taking turns", [&] {
        EXPECT_EQ(machine->exec(kAttack + "npu-switches " + switches + "' > /dev/flexattack; cat /dev/flexattack").substr(0, 8),
                  "blocked:");
    }));
}

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    if (!testing::GTEST_FLAG(list_tests)) testing::AddGlobalTestEnvironment(new BootOnce);
    return RUN_ALL_TESTS();
}
