// The program, the agent and the module end and begin again.
#include <atomic>
#include <thread>

#include "launcher/sockets.h"
#include "shared.h"

namespace flex::test {
namespace {

using namespace std::chrono_literals;

class ResilienceTest : public SystemTest {
protected:
    /// The connection may well end with what is ended.
    static void exec_and_lose(const std::string& line) {
        try {
            target().exec(line, 5s);
        } catch (const platform::DeviceError&) {
        }
    }
    static bool wait_for_health() {
        const auto state = shared_device().device().running();
        for (int i = 0; i < 60; ++i, std::this_thread::sleep_for(500ms))
            if (platform::https_healthy(state->https_port, 2s)) return true;
        return false;
    }
};

// The normal world's registers are not the secure world's to change: neither would its processes go on as they were, nor would it
// learn nothing from what it finds there.
TEST_F(ResilienceTest, a_process_of_linux_finds_its_fp_registers_as_it_left_them) {
    const std::uint64_t before = target().stat("tos/lends");
    std::atomic<bool> stop = false;
    std::thread asker([&, api = target().api(), query = target().reference_query()] {
        while (!stop) EXPECT_TRUE(api.complete(query).ok);
    });
    int code = 1;
    const std::string said = target().exec("flex-registers 6 & flex-registers 6; first=$?; wait $! && [ $first = 0 ]", 60s, &code);
    stop = true;
    asker.join();
    EXPECT_EQ(code, 0) << said;
    EXPECT_GT(target().stat("tos/lends") - before, 100u) << "the secure world has hardly run meanwhile";
}

TEST_F(ResilienceTest, a_killed_agent_comes_back_and_the_device_answers) {
    exec_and_lose("killall -9 flex-agentd");
    ASSERT_TRUE(wait_for_health());
    expect_unharmed();
}

TEST_F(ResilienceTest, the_framework_ends_hands_back_all_memory_and_starts_again) {
    const std::uint64_t starts = target().stat("tos/program_starts");
    ASSERT_TRUE(target().stop_program());
    EXPECT_EQ(target().stat("monitor/frames_adopted"), 0u);
    EXPECT_EQ(target().stat("monitor/frames_shared"), 0u);
    ASSERT_TRUE(target().start_program());
    EXPECT_GT(target().stat("tos/program_starts"), starts);
    expect_unharmed();
}

TEST_F(ResilienceTest, the_module_goes_only_when_nothing_is_lent) {
    int code = 0;
    target().exec("rmmod flexserve", 10s, &code);
    EXPECT_NE(code, 0) << "the module went while the secure world held memory";
    expect_unharmed();
    // The agent is what starts and restarts the program: without it, all comes to rest. This shell outlives it.
    exec_and_lose("(trap '' HUP; echo stop > /sys/class/misc/flexserve/program; sleep 3; while pidof flex-agentd >/dev/null; do "
                  "killall flex-agentd; sleep 0.2; rmmod flexserve && break; done; cat /proc/modules > /run/modules-then; "
                  "insmod /lib/flex/flexserve.ko) >/dev/null 2>&1 </dev/null &");
    std::this_thread::sleep_for(6s);
    ASSERT_TRUE(wait_for_health());
    EXPECT_EQ(target().exec("grep -c '^flexserve ' /run/modules-then; true"), "0\n") << "the module did not go though nothing was lent";
    expect_unharmed();
}

TEST_F(ResilienceTest, a_warm_reset_starts_the_device_anew) {
    shared_device().device().reset();
    shared_device().device().wait_ready(120s);
    expect_unharmed();
}

} // namespace
} // namespace flex::test
