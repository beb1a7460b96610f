// Memory goes to and fro between Linux and the secure world, and runs out.
#include <atomic>
#include <iostream>
#include <sstream>
#include <thread>

#include "shared.h"
#include "support/pressure.h"

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

TEST_F(MemoryTest, what_an_ask_did_not_get_is_not_added_to_a_later_one) {
    expect_unharmed();
    ASSERT_TRUE(target().drop_models()); // asks for all that is lent, of which the program needs some itself
    std::this_thread::sleep_for(3s);     // README of linux/: after 2 s it is given up
    expect_unharmed();                   // the model is in memory again
    const std::uint64_t met = target().stat("cost/asks_met");
    target().exec("echo 1048576 > /sys/class/misc/flexserve/reclaim");
    EXPECT_TRUE(wait_until([&] { return target().stat("cost/asks_met") > met; })) << "1 MiB came, or did not, but more was waited for";
}

TEST_F(MemoryTest, a_model_that_went_leaves_little_behind) {
    // What the program holds: the trusted OS may keep some adopted frames in store.
    const auto held = [] { return target().stat("monitor/frames_adopted") - target().stat("tos/pool_frames"); };
    constexpr int kTimes = 4;
    expect_unharmed();
    ASSERT_TRUE(target().drop_models());
    std::this_thread::sleep_for(1s);
    const std::uint64_t before = held();
    for (int i = 0; i < kTimes; ++i) {
        expect_unharmed();
        ASSERT_TRUE(target().drop_models());
    }
    // The heaps of the program's threads keep a little of what they were given, in all, not each time.
    const std::uint64_t weights = std::filesystem::file_size(target().model_file()) / 4096;
    EXPECT_TRUE(wait_until([&] { return held() <= before + weights / 4; }))
        << before << " frames were held before, " << held() << " are now; the weights have " << weights;
}

/// Frames that were moved, or could not be, since the driver was loaded.
struct Moves {
    std::uint64_t moved = target().stat("tos/frames_moved"), refused = target().stat("cost/moves_refused");
};

TEST_F(MemoryTest, an_answer_stays_the_same_while_its_frames_are_moved_under_it) {
    constexpr std::uint64_t kEnough = 2000; // some 8 MiB of what the program has, which is not much more
    constexpr int kAnswers = 5;
    const std::uint64_t before = Moves().moved, starts = target().stat("tos/program_starts");
    std::atomic<bool> done = false;
    std::thread mover([&] {
        while (!done) target().exec("echo 100 > /sys/class/misc/flexserve/move_frames; true", 30s);
    });
    const auto enough = [&] { return Moves().moved - before >= kEnough; };
    const auto give_up = std::chrono::steady_clock::now() + 120s;
    for (int i = 0; (i < kAnswers || !enough()) && std::chrono::steady_clock::now() < give_up && !HasFailure(); ++i) expect_unharmed();
    done = true;
    mover.join();
    EXPECT_EQ(target().stat("tos/program_starts"), starts) << "the program fell over a moved frame and was started again";
    EXPECT_TRUE(enough()) << Moves().moved - before << " were moved, " << Moves().refused << " refused";
    EXPECT_EQ(lost_frames(target()), "");
}

TEST_F(MemoryTest, nearly_every_frame_can_be_had_back_when_nothing_runs) {
    expect_unharmed(); // the model is in memory
    // The NPU, if it computed, stays with the secure world a little longer, and with it what it was told the place of.
    Moves before, after;
    EXPECT_TRUE(wait_until([&] {
        before = {};
        target().exec("echo 500 > /sys/class/misc/flexserve/move_frames; true", 30s);
        after = {};
        return after.moved - before.moved >= 475;
    }, 60s)) << after.moved - before.moved << " of 500 were moved, " << after.refused - before.refused << " refused";
    expect_unharmed();
}

TEST_F(MemoryTest, the_npu_finds_what_was_moved_since_it_was_told_the_addresses) {
    attack::Query query = target().reference_query();
    query.extra = R"("npu":"on")";
    const auto ask = [&] {
        const attack::Completion answer = target().api().complete(query);
        EXPECT_TRUE(answer.same_as(target().reference())) << answer.error << answer.text;
    };
    ask();
    const std::uint64_t held = target().stat("tos/npu_held"), moved = Moves().moved, faults = target().stat("monitor/dma_faults");
    // It goes back to Linux when the secure world has not used it for a while.
    ASSERT_TRUE(wait_until([] { return target().exec("cat /sys/class/misc/flexserve/npu/state") == "normal\n"; }, 60s));
    target().exec("echo 3000 > /sys/class/misc/flexserve/move_frames; true", 60s);
    EXPECT_GT(Moves().moved, moved);
    ask();
    EXPECT_GT(target().stat("tos/npu_held"), held) << "the NPU was not used again: nothing was tested";
    EXPECT_EQ(target().stat("monitor/dma_faults"), faults) << "it went to an address of before";
}

TEST_F(MemoryTest, compaction_moves_what_the_secure_world_has) {
    ASSERT_TRUE(target().drop_models());
    // Single pages, as Linux gives them when its memory is in pieces; then most of what lies between them goes.
    const std::string parameter = "/sys/module/flexserve/parameters/max_order";
    const std::string order = target().exec("cat " + parameter);
    target().exec("echo 0 > " + parameter + "; mkdir -p /run/fill; mount -t tmpfs -o size=100% tmpfs /run/fill; n=$(awk "
                  "'/^MemAvailable/{print int($2/1024)-200}' /proc/meminfo); dd if=/dev/zero of=/run/fill/file bs=1M count=$n 2>/dev/null; true", 90s);
    expect_unharmed();
    const std::uint64_t before = target().stat("cost/moved_by_linux");
    target().exec("echo 2000 > /sys/class/misc/flexserve/move_frames; rm /run/fill/file; umount /run/fill; for i in 1 2 3; do echo 1 > "
                  "/proc/sys/vm/compact_memory; done; echo " + order.substr(0, order.find('\n')) + " > " + parameter, 90s);
    EXPECT_GT(target().stat("cost/moved_by_linux"), before);
    expect_unharmed();
    EXPECT_EQ(lost_frames(target()), "");
    EXPECT_EQ(kernel_complaints(target().exec("dmesg")), "");
}

TEST_F(MemoryTest, a_move_that_fails_late_leaves_the_frame_to_the_driver_alone) {
    // Linux tries a page again for which it is told to, with the same new page: that one is protected by then.
    constexpr int kLate = 400;
    ASSERT_TRUE(target().drop_models());
    const std::string parameter = "/sys/module/flexserve/parameters/max_order", fault = "/sys/module/flexfault/parameters/late_moves";
    const std::string order = target().exec("cat " + parameter);
    ASSERT_EQ(target().exec("insmod /lib/flex/flexfault.ko 2>&1"), "");
    const auto left = [&] { return std::stoi(target().exec("cat " + fault)); };
    target().exec("echo 0 > " + parameter + "; mkdir -p /run/fill; mount -t tmpfs -o size=100% tmpfs /run/fill; n=$(awk "
                  "'/^MemAvailable/{print int($2/1024)-200}' /proc/meminfo); dd if=/dev/zero of=/run/fill/file bs=1M count=$n 2>/dev/null; true", 90s);
    expect_unharmed();
    target().exec("rm /run/fill/file; umount /run/fill; echo " + std::to_string(kLate) + " > " + fault, 90s);
    const bool tried = wait_until([&] {
        target().exec("echo 1 > /proc/sys/vm/compact_memory; true", 60s);
        return left() == 0;
    }, 60s);
    EXPECT_TRUE(tried) << left() << " of " << kLate << " were not tried";
    target().exec("rmmod flexfault; echo " + order.substr(0, order.find('\n')) + " > " + parameter);
    expect_unharmed();
    // What was protected for nothing is lent again, and comes back.
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(target().drop_models());
        expect_unharmed();
    }
    EXPECT_EQ(lost_frames(target()), "");
    EXPECT_EQ(kernel_complaints(target().exec("dmesg")), "");
}

TEST_F(MemoryTest, no_memory_left_in_linux_costs_at_most_the_request) {
    ASSERT_TRUE(target().drop_models());
    // A file in RAM takes what there is but for a few MiB, too little for the model with its KV cache. Linux may kill the agent
    // over it: that is Linux' affair.
    const auto exec_and_maybe_lose = [](const std::string& line, std::chrono::seconds patience) {
        try {
            target().exec(line, patience);
            return true;
        } catch (const platform::DeviceError&) {
            return false;
        }
    };
    const std::uint64_t coarse = meminfo("MemAvailable") / (1 << 20) - 96;
    const bool filled = exec_and_maybe_lose(
        "mkdir -p /run/fill; mount -t tmpfs -o size=100% tmpfs /run/fill; dd if=/dev/zero of=/run/fill/file bs=1M count=" + std::to_string(coarse) +
            " 2>/dev/null; n=0; while [ $(awk '/^MemAvailable/{print $2}' /proc/meminfo) -gt 4096 ] && [ $n -lt 200 ]; do n=$((n+1)); "
            "dd if=/dev/zero of=/run/fill/file$n bs=1M count=1 2>/dev/null; done; true", 90s);
    attack::Query query = target().reference_query();
    query.timeout = 20s;
    const attack::Completion answer = target().api().complete(query);
    std::cout << (filled ? "" : "Linux killed the agent; ") << "the request: " << (answer.ok ? "answered" : answer.error) << "\n";
    if (answer.ok) {
        EXPECT_TRUE(answer.same_as(target().reference())) << answer.text;
    } else if (answer.status != 0) {
        EXPECT_EQ(answer.status, 503) << answer.error;
        EXPECT_NE(answer.error.find("memory"), std::string::npos) << answer.error;
    }
    EXPECT_TRUE(wait_until([&] { return exec_and_maybe_lose("umount /run/fill 2>/dev/null; [ ! -e /run/fill/file ]", 10s); }, 60s));
    const auto damage = target().damage(60s);
    EXPECT_FALSE(damage.has_value()) << *damage;
}

} // namespace
} // namespace flex::test
