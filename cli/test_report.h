// Counts from the reports that ctest and GoogleTest write.
#pragma once

#include <optional>
#include <string>

namespace flex::cli {

struct TestCount {
    long passed = 0;
    long failed = 0;
    long skipped = 0; ///< skipped by the test itself, or disabled

    TestCount& operator+=(const TestCount& other) {
        passed += other.passed;
        failed += other.failed;
        skipped += other.skipped;
        return *this;
    }
    friend bool operator==(const TestCount&, const TestCount&) = default;
};

/// From ctest's --output-junit; nothing when that is no such report.
[[nodiscard]] std::optional<TestCount> count_junit(const std::string& text);
/// From GoogleTest's --gtest_output=json; tests that a filter left out do not count. Nothing when that is no such report.
[[nodiscard]] std::optional<TestCount> count_gtest(const std::string& text);

} // namespace flex::cli
