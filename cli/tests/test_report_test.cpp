#include "cli/test_report.h"

#include <gtest/gtest.h>

namespace flex::cli {
namespace {

// As CMake 3.25 writes it: tabs between attributes.
constexpr const char* kJunit = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"Linux-c++\"\n\ttests=\"9\"\n\tfailures=\"2\"\n"
                               "\tdisabled=\"1\"\n\tskipped=\"3\"\n\thostname=\"\"\n>\n\t<testcase name=\"a\" tests=\"77\"/>\n</testsuite>\n";

TEST(CountJunit, counts_every_test_once) {
    EXPECT_EQ(count_junit(kJunit), (TestCount{.passed = 3, .failed = 2, .skipped = 4}));
}

TEST(CountJunit, refuses_a_report_that_is_cut_off) {
    const std::string whole = kJunit;
    EXPECT_FALSE(count_junit(""));
    EXPECT_FALSE(count_junit(whole.substr(0, whole.find("disabled"))));
    EXPECT_FALSE(count_junit("<testsuite tests=\"1\" failures=\"5\" disabled=\"0\" skipped=\"0\">"));
}

TEST(CountGtest, tells_passed_failed_skipped_and_left_out_apart) {
    const std::string report = R"({"tests":4,"testsuites":[
        {"name":"A","testsuite":[{"name":"passes","status":"RUN","result":"COMPLETED"},
                                 {"name":"fails","status":"RUN","result":"COMPLETED","failures":[{"failure":"x"}]}]},
        {"name":"B","testsuite":[{"name":"skips","status":"RUN","result":"SKIPPED"},
                                 {"name":"filtered","status":"NOTRUN","result":"SUPPRESSED"}]}]})";
    EXPECT_EQ(count_gtest(report), (TestCount{.passed = 1, .failed = 1, .skipped = 1}));
}

TEST(CountGtest, refuses_what_is_no_report) {
    EXPECT_FALSE(count_gtest(""));
    EXPECT_FALSE(count_gtest("[]"));
    EXPECT_FALSE(count_gtest(R"({"tests":1)"));
}

} // namespace
} // namespace flex::cli
