// Memory goes to and fro between the worlds at random for as long as it is told to, while clients ask, SQLite
// writes and the NPU changes hands.
//
//   flexserve test --soak MINUTES [--seed N]      (environment: FLEX_SOAK_MINUTES, FLEX_SOAK_SEED)
//
// The seed decides what is done, in which order and how much of it; when it happens depends on the machine.
// Ctrl-C ends it after the round that runs, with all checks.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <random>

#include "support/device_under_test.h"
#include "support/pressure.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using attack::Target;

constexpr unsigned kClients = 4;
constexpr unsigned kRoundsToSqliteCheck = 10;
constexpr std::uint64_t kFewFrames = 500;
constexpr std::uint64_t kFramesAMinute = 50'000; // goal: 10^6 in 20 minutes
constexpr const char* kKnobs = "/sys/class/misc/flexserve/";

std::atomic<bool> interrupted = false;

std::uint64_t number_of(const char* variable, std::uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 10) : otherwise;
}

class Soak : public testing::Test {
protected:
    Soak() : device(FLEX_TEST_HOME) {}

    void SetUp() override {
        platform::MachineOptions options = machine_options();
        options.memory = platform::kGiB; // runs out sooner
        device.boot(options);
        std::vector<Crowd::Model> models = {{Target::kModel, device.target().model_file()}};
        for (const char* shape : {"tiny-llama", "mini-qwen3", "small-qwen3"}) {
            const fs::path gguf = fs::path(FLEX_TEST_HOME) / (std::string(shape) + ".gguf");
            ASSERT_EQ(flexserve({"synth", "--shape", shape, "-o", gguf}).code, 0);
            models.push_back({std::string("soak-") + shape, gguf});
        }
        fs::copy_file(platform::repository() / "build/device/linux/flex-npu",
                      target().data_folder() / "flex-npu");
        target().exec("cp /data/flex-npu /run/; cp " + kOrder + " /run/max_order");
        frames = device.device().running()->memory / 4096;
        starts = target().stat("tos/program_starts");
        moved_before = moved();
        crowd = std::make_unique<Crowd>(target(), FLEX_TEST_HOME, models, kClients, random());
        sqlite = std::make_unique<SqliteLoad>(target());
    }

    void TearDown() override {
        hog.reset();
        sqlite.reset();
        crowd.reset();
    }

    Target& target() { return device.target(); }
    /// Between the worlds, since the monitor's start: each way counts.
    std::uint64_t moved() {
        return target().stat("monitor/frames_protected") + target().stat("monitor/frames_recalled");
    }
    std::uint64_t below(std::uint64_t limit) { return random() % limit; }
    void exec(const std::string& line) { target().exec(line, 120s); }

    // ---- what is done; each returns what to say of it ----

    std::string reclaim() {
        const std::uint64_t lent = target().stat("lent_bytes"),
                            bytes = 4096 * (1 + below(std::max<std::uint64_t>(lent / 4096, 1)));
        exec("echo " + std::to_string(bytes) + " > " + kKnobs + "reclaim");
        return "reclaim " + std::to_string(bytes >> 20) + " MiB";
    }
    std::string drop_all() {
        exec("cat " + std::string(kKnobs) + "lent_bytes > " + kKnobs + "reclaim");
        return "drop all models";
    }
    void move_frames(std::uint64_t count) {
        exec("echo " + std::to_string(count) + " > " + kKnobs + "move_frames; true");
    } // none may be left to move
    std::string move_some() {
        const std::uint64_t count = 100 + below(4000);
        move_frames(count);
        return "move " + std::to_string(count) + " frames";
    }
    std::string compact() {
        exec("echo 1 > /proc/sys/vm/compact_memory");
        return "compact";
    }
    std::string change_order() {
        const std::string order = std::to_string(below(10));
        exec("echo " + order + " > " + kOrder);
        return "chunks of order " + order;
    }
    std::string change_hog() {
        end_hog();
        if (below(4) == 0) return "no hog";
        const std::string leave = below(6) == 0 ? "all" : std::to_string(below(2) == 0 ? 0 : below(400));
        hog = std::make_unique<MemoryHog>(target(), random(), leave);
        return "hog leaves " + (leave == "all" ? "nothing" : leave + " MiB");
    }
    std::string use_npu() {
        const std::string what = below(2) == 0 ? "matmul " + std::to_string(1 + below(5))
                                               : "nop " + std::to_string(1 + below(100));
        int code = 0;
        const std::string said = target().exec("/run/flex-npu " + what + " 2>&1", 120s, &code);
        // EIO, docs/abi.md: on a busy machine a job may not have ended when the secure world's turn comes.
        const bool lost = code != 0 && said.find("error 0,") == std::string::npos &&
                          (said.find("error " + std::to_string(EIO) + ",") != std::string::npos ||
                           said.find("Input/output error") != std::string::npos);
        EXPECT_TRUE(code == 0 || lost) << "flex-npu " << what << ": " << said;
        npu_lost += lost ? 1 : 0;
        return "NPU in Linux: " + what;
    }
    std::string wait() {
        const auto time = std::chrono::milliseconds(below(4000));
        std::this_thread::sleep_for(time);
        return "wait " + std::to_string(time.count()) + " ms";
    }
    std::string act() {
        using Action = std::string (Soak::*)();
        constexpr Action kActions[] = {&Soak::reclaim,      &Soak::reclaim,    &Soak::drop_all,
                                       &Soak::drop_all,     &Soak::move_some,  &Soak::compact,
                                       &Soak::change_order, &Soak::change_hog, &Soak::change_hog,
                                       &Soak::use_npu,      &Soak::wait};
        return (this->*kActions[below(std::size(kActions))])();
    }

    // ---- what must hold ----

    void end_hog() {
        if (!hog) return;
        const MemoryHog::Counts had = hog->stop();
        hog.reset();
        EXPECT_EQ(had.error, "");
        EXPECT_EQ(had.wrong, 0u)
            << "Linux' own processes found other things in their memory than they had written";
        hog_pages += had.pages;
        hog_kills += had.killed;
    }

    void check() {
        // Answers under way get no rest.
        while (!crowd->pause()) {
            drop_all();
            move_frames(kFewFrames);
        }
        EXPECT_EQ(lost_frames(target(), frames), "");
        const std::string log = target().exec("dmesg -c");
        std::ofstream(fs::path(FLEX_TEST_HOME) / "dmesg.log", std::ios::app) << log;
        EXPECT_EQ(kernel_complaints(log), "");
        EXPECT_EQ(target().stat("tos/program_starts"), starts) << "the program ended and was started again";
        EXPECT_EQ(crowd->counts().wrong, 0u) << crowd->counts().first_wrong;
        crowd->resume();
    }

    void check_sqlite() {
        EXPECT_EQ(sqlite->stop(), "");
        batches += sqlite->batches();
        sqlite.reset();
    }

    /// One line; `what`: what was done last.
    void tell(const std::string& what) {
        const Crowd::Counts answers = crowd->counts();
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - begin).count();
        std::cout << seconds << " s, round " << rounds << ": " << moved() - moved_before << " frames moved, "
                  << answers.right << " answers right, " << answers.refused << " refused, " << answers.wrong
                  << " wrong, " << batches << " batches; " << what << std::endl;
    }

    inline static const std::string kOrder = "/sys/module/flexserve/parameters/max_order";
    const std::uint64_t seed = number_of("FLEX_SOAK_SEED", std::random_device()());
    std::mt19937_64 random{seed};
    DeviceUnderTest device;
    std::unique_ptr<Crowd> crowd;
    std::unique_ptr<SqliteLoad> sqlite;
    std::unique_ptr<MemoryHog> hog;
    Clock::time_point begin = Clock::now();
    std::uint64_t frames = 0, starts = 0, moved_before = 0, hog_pages = 0, hog_kills = 0, npu_lost = 0;
    unsigned rounds = 0, batches = 0;
};

TEST_F(Soak, random_use_of_memory_loses_no_frame_and_changes_no_answer) {
    const std::uint64_t minutes = number_of("FLEX_SOAK_MINUTES", 20);
    std::cout << "seed " << seed << ", " << minutes << " minutes" << std::endl;
    begin = Clock::now();
    const auto end = begin + std::chrono::minutes(minutes);
    while (Clock::now() < end && !interrupted && !HasFailure()) {
        ++rounds;
        for (std::uint64_t actions = 4 + below(9); actions > 0 && !interrupted && !HasFailure(); --actions)
            tell(act());
        check();
        if (rounds % kRoundsToSqliteCheck == 0) {
            check_sqlite();
            sqlite = std::make_unique<SqliteLoad>(target());
        }
    }
    end_hog();
    check();
    if (sqlite) check_sqlite();
    const Crowd::Counts answers = crowd->stop();
    EXPECT_EQ(answers.wrong, 0u) << answers.first_wrong;
    const auto damage = target().damage(60s);
    EXPECT_FALSE(damage.has_value()) << *damage;
    const double took = std::chrono::duration<double>(Clock::now() - begin).count() / 60;
    const std::uint64_t frames_moved = moved() - moved_before;
    if (!interrupted && !HasFailure() && minutes >= 20) {
        EXPECT_GE(frames_moved, kFramesAMinute * minutes);
    }
    std::cout << std::fixed << std::setprecision(1) << "seed " << seed << ", " << took << " minutes, "
              << rounds << " rounds" << (interrupted ? " (interrupted)" : "")
              << "\n  memory: " << frames_moved << " frames moved between the worlds, "
              << target().stat("cost/moved_frames") << " of them by exchange with another, "
              << target().stat("cost/moved_by_linux")
              << " of these because Linux wanted the page\n  answers: " << answers.right
              << " compared and right, " << answers.hung_up << " left by the client, " << answers.refused
              << " refused for want of memory, " << answers.wrong << " wrong, the longest took "
              << static_cast<double>(answers.longest.count()) / 1000 << " s\n  Linux: " << batches
              << " batches of SQLite, " << hog_pages << " pages of flex-hog compared, " << hog_kills
              << " times it was killed\n  NPU: " << target().stat("monitor/npu_switches")
              << " changes of hands, " << npu_lost << " of Linux' jobs lost over one" << std::endl;
}

} // namespace
} // namespace flex::test

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGINT, [](int) { flex::test::interrupted = true; });
    return RUN_ALL_TESTS();
}
