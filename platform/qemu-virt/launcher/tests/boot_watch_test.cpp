#include "launcher/boot_watch.h"

#include <fstream>

#include <gtest/gtest.h>

#include "launcher/machine.h"
#include "launcher/tests/temporary_folder.h"

namespace flex::platform {
namespace {

class BootWatchTest : public testing::Test {
protected:
    void append(const char* log, const std::string& text) {
        std::ofstream(folder.path() / log, std::ios::binary | std::ios::app) << text;
    }
    TemporaryFolder folder;
    BootWatch watch{folder.path()};
};

TEST_F(BootWatchTest, says_nothing_before_there_is_a_log) {
    EXPECT_FALSE(watch.poll());
    EXPECT_EQ(watch.stage(), "QEMU");
}

TEST_F(BootWatchTest, tells_each_stage_once) {
    append(files::kConsoleLog, "NOTICE:  BL1: v2.12.1\r\n");
    EXPECT_EQ(watch.poll(), "firmware");
    EXPECT_FALSE(watch.poll());
    append(files::kConsoleLog, "NOTICE:  BL31: v2.12.1\r\n[    0.0] Linux version 6.12\n");
    EXPECT_EQ(watch.poll(), "Linux");
    append(files::kConsoleLog, "NOTICE:  BL1: again\n");
    EXPECT_FALSE(watch.poll());
}

TEST_F(BootWatchTest, understands_a_line_that_arrives_in_pieces) {
    append(files::kConsoleLog, "[    0.0] Linux ver");
    EXPECT_FALSE(watch.poll());
    append(files::kConsoleLog, "sion 6.12\n");
    EXPECT_EQ(watch.poll(), "Linux");
}

TEST_F(BootWatchTest, a_panic_in_either_world_is_a_failure) {
    append(files::kConsoleLog, "[ 1.0] Kernel panic - not syncing: no init\n");
    static_cast<void>(watch.poll());
    EXPECT_EQ(watch.failure(), "[ 1.0] Kernel panic - not syncing: no init");

    BootWatch other(folder.path());
    std::filesystem::remove(folder.path() / files::kConsoleLog);
    append(files::kSecureLog, "tos: panic on core 1: page fault\n");
    static_cast<void>(other.poll());
    EXPECT_EQ(other.failure(), "tos: panic on core 1: page fault");
    EXPECT_EQ(other.failure_log(), folder.path() / files::kSecureLog);
}

} // namespace
} // namespace flex::platform
