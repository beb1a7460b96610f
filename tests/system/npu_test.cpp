// The NPU in normal mode: Linux' driver, its programs, and the NPU changing hands under them.
#include <atomic>
#include <csignal>
#include <iostream>
#include <thread>

#include <nlohmann/json.hpp>

#include "launcher/process.h"
#include "shared.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Json = nlohmann::json;

class NpuTest : public SystemTest {
protected:
    void SetUp() override {
        SystemTest::SetUp();
        const fs::path program = fs::path(FLEX_SOURCE_DIR) / "build/device/linux/flex-npu";
        fs::copy_file(program, shared_device().device().folder() / platform::files::kData / "flex-npu",
                      fs::copy_options::overwrite_existing);
        target().exec("cp /data/flex-npu /run/"); // starts at once there
    }
    /// Runs flex-npu; what it says goes to `said`.
    static int flex_npu(const std::string& arguments, std::string* said) {
        int code = -1;
        *said = target().exec("/run/flex-npu " + arguments + " 2>&1", 60s, &code);
        return code;
    }
    /// Linux gives the NPU away and takes it back, eleven times. What went wrong, if anything.
    static std::string change_hands() {
        int code = -1;
        const std::string said =
            target().exec("cat /sys/class/misc/flexserve/npu/switch_ns 2>&1", 60s, &code);
        return code == 0 ? "" : said;
    }
    /// The secure world has it not, and does not want it while this test runs.
    static void stop_the_program() {
        target().exec("echo stop > /sys/class/misc/flexserve/program");
        for (int i = 0;
             i < 75 && !target().exec("cat /sys/class/misc/flexserve/program").starts_with("stopped"); ++i)
            std::this_thread::sleep_for(200ms);
    }
    static void start_the_program() {
        try {
            target().exec("killall flex-agentd", 5s); // init starts another, which starts the program
        } catch (const platform::DeviceError&) {
        }
    }
};

TEST_F(NpuTest, linux_finds_it_and_its_programs_may_use_it) {
    std::string said;
    EXPECT_EQ(flex_npu("info", &said), 0) << said;
    EXPECT_EQ(said.find("version 1, "), 0u) << said;
    EXPECT_EQ(target().exec("stat -c %a /dev/flexnpu"), "600\n");
}

TEST_F(NpuTest, products_have_the_bits_of_the_engines_scalar_kernels) {
    std::string said;
    EXPECT_EQ(flex_npu("matmul 25", &said), 0) << said;
    EXPECT_EQ(said, "25 products, 0 wrong\n");
}

TEST_F(NpuTest, jobs_that_are_not_sound_fail_each_in_its_way) {
    std::string said;
    EXPECT_EQ(flex_npu("refused", &said), 0) << said;
}

TEST_F(NpuTest, jobs_wait_while_it_changes_hands_and_none_is_lost) {
    stop_the_program();
    const std::uint64_t gives = target().stat("npu/gives"), waited = target().stat("npu/waited"),
                        resets = target().stat("npu/resets");
    int code = -1;
    const std::string said =
        target().exec("/run/flex-npu nop 150 & job=$!; while kill -0 $job 2>/dev/null; do cat "
                      "/sys/class/misc/flexserve/npu/switch_ns || exit 9; done; wait $job",
                      60s, &code);
    EXPECT_EQ(code, 0) << said;
    EXPECT_NE(said.find("150 jobs"), std::string::npos) << said;
    EXPECT_GE(target().stat("npu/gives") - gives, 11u);
    EXPECT_EQ(target().stat("npu/takes"), target().stat("npu/gives"));
    EXPECT_GT(target().stat("npu/waited"), waited) << "no job met a change of hands: nothing was tested";
    EXPECT_EQ(target().stat("npu/resets"), resets);
    EXPECT_EQ(target().exec("cat /sys/class/misc/flexserve/npu/state"), "normal\n");
    start_the_program();
    expect_unharmed();
}

TEST_F(NpuTest, a_job_that_does_not_end_in_time_fails_when_it_changes_hands) {
    stop_the_program();
    std::string said;
    int code = 0;
    std::thread job([&] { code = flex_npu("wait 9000000", &said); });
    std::this_thread::sleep_for(1s);
    EXPECT_EQ(change_hands(), "");
    job.join();
    EXPECT_NE(code, 0);
    EXPECT_NE(said.find("Input/output error"), std::string::npos) << said;
    EXPECT_EQ(flex_npu("matmul 3", &said), 0) << said;
    start_the_program();
    expect_unharmed();
}

TEST_F(NpuTest, a_job_whose_turn_does_not_come_in_time_is_not_run) {
    std::string first, second;
    std::thread job([&] { EXPECT_EQ(flex_npu("wait 4000000", &first), 0) << first; });
    std::this_thread::sleep_for(1500ms);
    EXPECT_NE(flex_npu("wait 1000 200", &second), 0);
    EXPECT_NE(second.find("timed out"), std::string::npos) << second;
    job.join();
}

TEST_F(NpuTest, a_killed_programs_endless_job_does_not_keep_it) {
    const std::uint64_t resets = target().stat("npu/resets");
    int code = 0;
    target().exec("timeout -s KILL 1 /run/flex-npu wait 9000000", 20s, &code);
    EXPECT_NE(code, 0);
    std::string said;
    EXPECT_EQ(flex_npu("matmul 3", &said), 0) << said;
    EXPECT_EQ(target().stat("npu/resets"), resets + 1);
}

TEST_F(NpuTest, while_it_is_away_nothing_in_linux_touches_it) {
    stop_the_program();
    // What the virtio core reads for anybody, and what its driver's removal and return do.
    std::thread switching([] { EXPECT_EQ(change_hands(), ""); });
    target().exec(
        "for i in $(seq 200); do cat /sys/bus/virtio/drivers/flexnpu/virtio*/status >/dev/null; done");
    switching.join();
    std::string said;
    target().exec("cd /sys/bus/virtio/drivers/flexnpu; d=$(basename virtio*); echo $d > unbind; [ ! -e "
                  "/dev/flexnpu ] && echo $d > bind");
    EXPECT_EQ(flex_npu("matmul 3", &said), 0) << said;
    start_the_program();
    expect_unharmed();
}

TEST_F(NpuTest, both_worlds_use_it_in_turn_and_neither_starves) {
    const std::uint64_t switches = target().stat("monitor/npu_switches"),
                        recalls = target().stat("npu/recalls");
    attack::Query query = target().reference_query();
    query.extra = R"("npu":"on")";
    std::atomic<bool> stop = false;
    std::atomic<unsigned> answers = 0;
    std::thread asker([&, api = target().api()] {
        while (!stop) {
            const attack::Completion answer = api.complete(query);
            EXPECT_TRUE(answer.same_as(target().reference())) << answer.error << answer.text;
            ++answers;
        }
    });
    std::string said;
    for (int i = 0; i < 5; ++i) EXPECT_EQ(flex_npu("matmul 3", &said), 0) << said;
    const unsigned before = answers;
    EXPECT_EQ(flex_npu("nop 50", &said), 0) << said;
    for (int i = 0; i < 300 && answers == before; ++i) std::this_thread::sleep_for(100ms);
    stop = true;
    asker.join();
    EXPECT_GT(answers, before) << "the secure world got no turn";
    EXPECT_GT(target().stat("monitor/npu_switches"), switches + 2)
        << "it hardly changed hands: nothing was tested";
    std::cout << answers << " answers, " << target().stat("monitor/npu_switches") - switches
              << " changes of hands, " << target().stat("npu/recalls") - recalls << " recalls\n";
    expect_unharmed();
}

/// Each call, and each way between the worlds, takes time from who computes: in QEMU every such way empties the TLBs.
TEST_F(NpuTest, a_token_takes_few_calls_of_the_trusted_os_and_an_answer_few_of_linux) {
    attack::Query query = target().reference_query();
    query.extra = R"("npu":"on")";
    ASSERT_TRUE(target().api().complete(query).ok); // it holds the NPU and the connection
    constexpr std::uint64_t kAnswers = 10;
    const auto counts = [] { return std::pair(target().stat("tos/syscalls"), target().stat("tos/rpcs")); };
    const auto [calls_before, rpcs_before] = counts();
    std::uint64_t tokens = 0;
    for (std::uint64_t i = 0; i < kAnswers; ++i) {
        const attack::Completion answer = target().api().complete(query);
        ASSERT_TRUE(answer.same_as(target().reference())) << answer.error << answer.text;
        tokens += answer.tokens.size();
    }
    const auto [calls, rpcs] = counts();
    std::cout << tokens << " tokens, " << calls - calls_before << " calls of the trusted OS, " << rpcs - rpcs_before
              << " of Linux\n";
    EXPECT_GT(tokens, 10 * kAnswers);
    EXPECT_LT(calls - calls_before, 15 * tokens) << "60 it was when the program asked for the time with a call";
    EXPECT_LT(rpcs - rpcs_before, 40 * kAnswers);
}

TEST_F(NpuTest, its_process_ends_with_qemu_and_a_boot_without_it_fails) {
    platform::Device device(platform::device_folder("npu-only"));
    platform::MachineOptions options = machine_options();
    options.memory = platform::kGiB;
    const platform::RunState first = device.start(options);
    ASSERT_TRUE(first.npu.has_value());
    EXPECT_TRUE(platform::is_running(first.npu_process));
    const auto wait_until_connected = [&] { // the socket's file is gone then
        for (int i = 0; i < 500 && fs::exists(device.folder() / platform::files::kNpuSocket); ++i)
            std::this_thread::sleep_for(20ms);
    };
    wait_until_connected();
    ::kill(first.process.pid, SIGKILL);
    EXPECT_TRUE(platform::wait_for_end(first.npu_process, 10s)) << "it outlives QEMU";
    const platform::RunState second = device.start(options); // over what the first left
    wait_until_connected();
    ::kill(second.npu_process.pid, SIGKILL);
    try {
        device.wait_ready(60s);
        ADD_FAILURE() << "booted without its NPU";
    } catch (const platform::DeviceError& error) {
        // QEMU may notice first and end: it wants its device.
        const std::string what = error.what();
        EXPECT_TRUE(what.find("the NPU's process ended") != what.npos || what.find("QEMU ended") != what.npos) << what;
    }
    EXPECT_FALSE(device.running().has_value());
    fs::remove_all(device.folder());
}

TEST_F(NpuTest, a_device_may_have_none) {
    RunResult result = flexserve({"device", "--name", "no-npu", "up", "--no-npu", "--memory", "1G"});
    ASSERT_EQ(result.code, 0) << result.err;
    result = flexserve({"device", "--name", "no-npu", "status", "--json"});
    EXPECT_TRUE(Json::parse(result.out)["npu"].is_null()) << result.out;
    result = flexserve({"device", "--name", "no-npu", "exec",
                        "cat /sys/class/misc/flexserve/npu/state; [ -e /dev/flexnpu ]"});
    EXPECT_EQ(result.out, "absent\n");
    EXPECT_NE(result.code, 0);
    EXPECT_EQ(flexserve({"device", "--name", "no-npu", "down"}).code, 0);
    fs::remove_all(platform::device_folder("no-npu"));
}

TEST_F(NpuTest, status_tells_of_it_and_its_limits_are_checked) {
    const Json npu = Json::parse(flexserve({"device", "status", "--json"}).out)["npu"];
    EXPECT_TRUE(npu["running"].get<bool>());
    EXPECT_EQ(npu["tops"], 0.0);
    for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--npu-tops", "-1"},
                                                  {"--npu-launch-us", "soon"},
                                                  {"--no-npu", "--npu-tops", "6"}}) {
        std::vector<std::string> words = {"device", "--name", "no-npu", "up"};
        words.insert(words.end(), wrong.begin(), wrong.end());
        const RunResult result = flexserve(words);
        EXPECT_NE(result.code, 0);
        EXPECT_NE(result.err.find("npu"), std::string::npos) << result.err;
        EXPECT_FALSE(fs::exists(platform::device_folder("no-npu")));
    }
}

} // namespace
} // namespace flex::test
