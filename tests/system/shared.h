// The device that all tests of this program share.
#pragma once

#include <fstream>
#include <iterator>

#include "support/device_under_test.h"

namespace flex::test {

[[nodiscard]] DeviceUnderTest& shared_device();
[[nodiscard]] inline attack::Target& target() { return shared_device().target(); }

/// Finds the device well at the start, whatever the test before has done to it.
class SystemTest : public testing::Test {
protected:
    void SetUp() override;
    /// The device answers as it did at first.
    static void expect_unharmed();
};

/// One line on stderr that tells what is wrong, `says` in it; an exit code that says so too.
void expect_one_line_error(const RunResult& result, const std::string& says);

[[nodiscard]] inline std::string read_all(const std::filesystem::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}
void write_all(const std::filesystem::path& file, const std::string& content);

/// Golden models and their references; empty when this machine has none (tests then skip).
[[nodiscard]] std::filesystem::path golden_folder();

} // namespace flex::test
