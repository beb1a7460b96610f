// Linux runs short of memory while the device answers: neither side may lose or change anything over it.
#include <cstdlib>
#include <iostream>

#include "shared.h"
#include "support/pressure.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kSeed = 20;
constexpr unsigned kClients = 3;
constexpr const char* kKnobs = "/sys/class/misc/flexserve/";

class PressureTest : public SystemTest {
protected:
    void SetUp() override {
        SystemTest::SetUp();
        starts = target().stat("tos/program_starts");
        complaints = kernel_complaints(target().exec("dmesg"));
        const fs::path home = FLEX_TEST_HOME;
        for (const char* shape : {"tiny-llama", "small-qwen3"}) {
            const fs::path gguf = home / (std::string(shape) + ".gguf");
            const RunResult made = flexserve({"synth", "--shape", shape, "-o", gguf});
            ASSERT_EQ(made.code, 0) << made.err;
            models.push_back({std::string("pressure-") + shape, gguf});
        }
        sqlite = std::make_unique<SqliteLoad>(target());
        crowd = std::make_unique<Crowd>(target(), home, models, kClients, kSeed);
    }

    void TearDown() override {
        crowd.reset();
        sqlite.reset();
    }

    /// Has `act` done again and again.
    template <class Act> void meanwhile(std::chrono::seconds time, Act act) {
        for (const auto end = Clock::now() + time; Clock::now() < end && !HasFailure();
             std::this_thread::sleep_for(200ms))
            act();
    }

    /// All that pressure must not cost.
    void expect_nothing_lost(MemoryHog* hog) {
        if (hog != nullptr) {
            const MemoryHog::Counts had = hog->stop();
            EXPECT_EQ(had.error, "");
            EXPECT_GT(had.pages, 0u);
            EXPECT_EQ(had.wrong, 0u)
                << "Linux' own processes found other things in their memory than they had written";
            std::cout << had.pages << " pages of the hog, killed " << had.killed << " times; ";
        }
        const Crowd::Counts answers = crowd->stop();
        EXPECT_EQ(answers.wrong, 0u) << answers.first_wrong;
        EXPECT_GT(answers.right, 0u);
        EXPECT_EQ(sqlite->stop(), "");
        EXPECT_GT(sqlite->batches(), 0u);
        EXPECT_EQ(lost_frames(target()), "");
        EXPECT_EQ(kernel_complaints(target().exec("dmesg")), complaints);
        EXPECT_EQ(target().stat("tos/program_starts"), starts) << "the program ended and was started again";
        std::cout << answers.right << " answers right, " << answers.hung_up << " left by the client, "
                  << answers.refused << " refused, the longest took " << answers.longest.count() << " ms; "
                  << sqlite->batches() << " batches of SQLite\n";
        expect_unharmed();
    }

    std::uint64_t starts = 0;
    std::string complaints; // of what was before
    std::vector<Crowd::Model> models{{attack::Target::kModel, target().model_file()}};
    std::unique_ptr<SqliteLoad> sqlite;
    std::unique_ptr<Crowd> crowd;
};

/// How long tasks of Linux have waited for memory, in microseconds (Documentation/accounting/psi.rst).
std::uint64_t pressure_us() {
    const std::string said = target().exec("grep some /proc/pressure/memory");
    const std::size_t total = said.find("total=");
    if (total == std::string::npos) throw platform::DeviceError("no PSI: " + said);
    return std::stoull(said.substr(total + 6));
}

TEST_F(PressureTest, a_hog_that_takes_what_there_is_changes_no_answer_and_loses_nothing) {
    const std::uint64_t pressure = pressure_us(), asked = target().stat("reclaim"),
                        recalled = target().stat("monitor/frames_recalled");
    MemoryHog hog(target(), kSeed, "0");
    meanwhile(50s, [] { std::this_thread::sleep_for(1s); });
    EXPECT_GT(pressure_us(), pressure) << "nobody waited for memory: there was no pressure";
    EXPECT_GT(target().stat("reclaim"), asked) << "Linux asked for nothing";
    EXPECT_GT(target().stat("monitor/frames_recalled"), recalled) << "nothing was given back";
    expect_nothing_lost(&hog);
}

TEST_F(PressureTest, memory_that_is_compacted_without_pause_keeps_every_answer_and_every_row) {
    // Single pages: those compaction moves.
    const std::string parameter = "/sys/module/flexserve/parameters/max_order";
    std::string order = target().exec("cat " + parameter);
    order.erase(order.find('\n'));
    target().exec("echo 0 > " + parameter);
    MemoryHog hog(target(), kSeed + 1, "200");
    const std::uint64_t moved = target().stat("cost/moved_by_linux");
    meanwhile(35s, [] {
        target().exec("echo 1 > /proc/sys/vm/compact_memory; echo 50 > " + std::string(kKnobs) +
                      "move_frames; echo 1 > /proc/sys/vm/compact_memory; true");
    });
    target().exec("echo " + order + " > " + parameter);
    EXPECT_GT(target().stat("cost/moved_by_linux"), moved) << "compaction moved nothing that was lent";
    expect_nothing_lost(&hog);
}

TEST_F(PressureTest, when_linux_must_kill_it_is_the_hog_that_goes_and_nothing_else) {
    MemoryHog hog(target(), kSeed + 2, "all");
    const auto killed = [] { return target().exec("dmesg | grep -c 'Killed process.*flex-hog' || true"); };
    const std::string before = killed();
    meanwhile(40s, [] { std::this_thread::sleep_for(1s); });
    EXPECT_NE(killed(), before) << "memory never ran out: nothing was tested";
    expect_nothing_lost(&hog);
}

} // namespace
} // namespace flex::test
