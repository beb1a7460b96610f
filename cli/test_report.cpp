#include "cli/test_report.h"

#include <cctype>
#include <charconv>

#include <nlohmann/json.hpp>

namespace flex::cli {

namespace {

// The number in `name="..."` of the <testsuite> element, with which ctest's report begins.
std::optional<long> attribute(const std::string& text, const std::string& name) {
    const std::size_t element = text.find("<testsuite");
    const std::size_t end = text.find('>', element);
    if (element == std::string::npos || end == std::string::npos) return std::nullopt;
    const std::string sign = name + "=\"";
    for (std::size_t at = text.find(sign, element); at < end; at = text.find(sign, at + 1)) {
        if (std::isspace(static_cast<unsigned char>(text[at - 1])) == 0) continue; // the end of another attribute's name
        long value = 0;
        if (std::from_chars(text.data() + at + sign.size(), text.data() + end, value).ec != std::errc{}) return std::nullopt;
        return value;
    }
    return std::nullopt;
}

} // namespace

std::optional<TestCount> count_junit(const std::string& text) {
    const auto tests = attribute(text, "tests");
    const auto failures = attribute(text, "failures");
    const auto skipped = attribute(text, "skipped");
    const auto disabled = attribute(text, "disabled");
    if (!tests || !failures || !skipped || !disabled) return std::nullopt;
    TestCount count{.failed = *failures, .skipped = *skipped + *disabled};
    count.passed = *tests - count.failed - count.skipped;
    if (count.passed < 0) return std::nullopt;
    return count;
}

std::optional<TestCount> count_gtest(const std::string& text) {
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object() || !json.contains("testsuites")) return std::nullopt;
    TestCount count;
    for (const nlohmann::json& suite : json["testsuites"])
        for (const nlohmann::json& test : suite.value("testsuite", nlohmann::json::array())) {
            if (test.contains("failures")) ++count.failed;
            else if (test.value("result", "") == "SKIPPED") ++count.skipped;
            else if (test.value("status", "") == "RUN") ++count.passed;
        }
    return count;
}

} // namespace flex::cli
