// Memory goes to and fro between Linux and the secure world, and runs out.
#include <sstream>
#include <thread>

#include "shared.h"

namespace flex::test {
namespace {

using namespace std::chrono_literals;

class MemoryTest : public SystemTest {
protected:
    /// Of /proc/meminfo, in bytes.
    static std::uint64_t meminfo(const std::string& name) {
        std::istringstream line(target().exec("grep '^" + name + ":' /proc/meminfo"));
        std::string word;
        std::uint64_t kib = 0;
        line >> word >> kib;
        return kib * 1024;
    }

    template <class Condition> static bool wait_until(Condition condition, std::chrono::seconds patience = 15s) {
        for (const auto give_up = std::chrono::steady_clock::now() + patience; std::chrono::steady_clock::now() < give_up;
             std::this_thread::sleep_for(200ms))
            if (condition()) return true;
        return false;
    }
};

TEST_F(MemoryTest, reclaim_gives_memory_back_to_linux_and_the_device_still_answers) {
    expect_unharmed(); // the model is in memory
    const std::uint64_t lent = target().stat("lent_bytes"), recalled = target().stat("monitor/frames_recalled");
    ASSERT_TRUE(target().drop_models());
    ASSERT_TRUE(wait_until([&] { return target().stat("lent_bytes") < lent; })) << "nothing came back of " << lent;
    const std::uint64_t back = lent - target().stat("lent_bytes");
    EXPECT_GE(back, std::filesystem::file_size(target().model_file()) / 2) << "the model's weights should have come back";
    EXPECT_GE(target().stat("monitor/frames_recalled") - recalled, back / 4096);
    EXPECT_EQ(target().stat("monitor/frames_released"), 0u) << "released frames wait for nobody";
    expect_unharmed();
}

TEST_F(MemoryTest, an_absurd_reclaim_is_refused) {
    int code = 0;
    for (const char* bytes : {"0", "99999999999999", "18446744073709551615", "-1", "many"}) {
        target().exec("echo " + std::string(bytes) + " 2>/dev/null > /sys/class/misc/flexserve/reclaim", 10s, &code);
        EXPECT_NE(code, 0) << bytes;
    }
    expect_unharmed();
}

TEST_F(MemoryTest, loading_again_and_again_loses_no_frame) {
    ASSERT_TRUE(target().drop_models());
    std::this_thread::sleep_for(1s);
    const std::uint64_t before = target().stat("lent_bytes");
    for (int i = 0; i < 5; ++i) {
        expect_unharmed();
        ASSERT_TRUE(target().drop_models());
    }
    EXPECT_TRUE(wait_until([&] { return target().stat("lent_bytes") <= before + (1u << 20); }))
        << before << " bytes were lent before, " << target().stat("lent_bytes") << " are now";
}

TEST_F(MemoryTest, no_memory_left_in_linux_fails_the_request_and_nothing_else) {
    ASSERT_TRUE(target().drop_models());
    // A file in RAM takes what there is; what stays is less than the model needs.
    const std::uint64_t fill = meminfo("MemAvailable") / (1 << 20);
    target().exec("mkdir -p /run/fill; mount -t tmpfs -o size=100% tmpfs /run/fill; dd if=/dev/zero of=/run/fill/file bs=1M count=" +
                      std::to_string(fill) + " 2>/dev/null; true", 120s);
    const attack::Completion answer = target().api().complete(target().reference_query());
    EXPECT_TRUE(!answer.ok || answer.same_as(target().reference())) << answer.text;
    if (!answer.ok && answer.status != 0) {
        EXPECT_NE(answer.error.find("memory"), std::string::npos) << answer.error;
    }
    target().exec("umount /run/fill", 60s);
    expect_unharmed();
    EXPECT_EQ(target().exec("dmesg | grep -c 'Kernel panic\\|Oops'; true"), "0\n");
}

} // namespace
} // namespace flex::test
