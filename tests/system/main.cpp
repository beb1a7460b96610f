// Boots one device, runs many checks in it.
#include <algorithm>
#include <csignal>
#include <iostream>
#include <memory>

#include "launcher/sockets.h"
#include "shared.h"

namespace flex::test {
namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<DeviceUnderTest> the_device;

class BootOnce final : public testing::Environment {
public:
    void SetUp() override {
        try {
            the_device = std::make_unique<DeviceUnderTest>(FLEX_TEST_HOME);
            platform::MachineOptions options = machine_options();
            // Everything that the device's network carries, for the tests that look for secrets in it.
            options.extra_arguments = {"-object", "filter-dump,id=dump,netdev=net,file=net.pcap"};
            the_device->boot(options);
            std::cout << "device ready after " << the_device->boot_time().count() / 1000.0 << " s\n";
        } catch (const std::exception& error) {
            GTEST_FAIL() << error.what();
        }
    }
    void TearDown() override { the_device.reset(); }
};

} // namespace

DeviceUnderTest& shared_device() { return *the_device; }

void SystemTest::SetUp() {
    const auto state = shared_device().device().running();
    if (state && platform::https_healthy(state->https_port, 10s)) return;
    std::cout << "the device is unwell: booting it again\n";
    shared_device().reboot();
}

void SystemTest::expect_unharmed() {
    const auto damage = target().damage();
    EXPECT_FALSE(damage.has_value()) << *damage;
}

void expect_one_line_error(const RunResult& result, const std::string& says) {
    EXPECT_NE(result.code, 0);
    EXPECT_LT(result.code, 128) << "ended by a signal";
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(says), std::string::npos) << result.err;
    EXPECT_LT(result.err.size(), 500u) << result.err;
}

void write_all(const fs::path& file, const std::string& content) {
    std::ofstream out(file, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    ASSERT_TRUE(out.flush()) << file;
}

fs::path golden_folder() {
    const fs::path folder = fs::path(FLEX_SOURCE_DIR) / "../shared/data/golden";
    return fs::exists(folder) ? folder : fs::path();
}

} // namespace flex::test

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    std::signal(SIGPIPE, SIG_IGN); // connections to the device break in the middle: that is an answer too
    // Listing the tests needs no device.
    if (!testing::GTEST_FLAG(list_tests)) testing::AddGlobalTestEnvironment(new flex::test::BootOnce);
    return RUN_ALL_TESTS();
}
