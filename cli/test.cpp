#include "cli/test.h"

#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "cli/output.h"
#include "cli/test_report.h"
#include "launcher/paths.h"

extern char** environ;

namespace flex::cli {
namespace fs = std::filesystem;
using platform::DeviceError;

namespace {

struct TestOptions {
    bool unit = false;
    bool system = false;
    std::string filter;
    unsigned soak_minutes = 0; ///< 0: none
    std::optional<std::uint64_t> seed; ///< of the soak
};

// Runs a program with our terminal; its exit code, or 128 + signal.
int run_program(std::vector<std::string> words) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = 0;
    if (const int error = posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ); error != 0)
        throw DeviceError("cannot run " + words[0] + ": " + std::strerror(error));
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string read_text(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

TestCount run_unit_tests(const fs::path& build, const TestOptions& options) {
    const fs::path report = build / "unit-tests.xml";
    fs::remove(report);
    std::vector<std::string> words = {"ctest",  "--test-dir",       build,  "--output-junit", report, "--output-on-failure",
                                      "--progress", "--no-tests=error", "-j2"};
    if (!options.filter.empty()) words.insert(words.end(), {"-R", options.filter});
    const int code = run_program(words);
    const std::optional<TestCount> counted = count_junit(read_text(report));
    if (!counted) {
        spdlog::error("the unit tests did not run to their end (ctest: exit code {})", code);
        return {.failed = 1};
    }
    TestCount count = *counted;
    // ctest can also fail for what is not counted as a test, such as a program that was not built.
    if (code != 0 && count.failed == 0) count.failed = 1;
    return count;
}

// One GoogleTest program; counts from its JSON report.
TestCount run_system_test(const fs::path& program, const fs::path& build, const TestOptions& options) {
    const fs::path report = build / (program.filename().string() + ".json");
    fs::remove(report);
    std::vector<std::string> words = {program, "--gtest_brief=0", "--gtest_output=json:" + report.string()};
    if (!options.filter.empty()) words.push_back("--gtest_filter=" + options.filter);
    const int code = run_program(words);
    const std::optional<TestCount> counted = count_gtest(read_text(report));
    if (!counted) {
        spdlog::error("{} did not run to its end (exit code {})", program.filename().string(), code);
        return {.failed = 1};
    }
    TestCount count = *counted;
    if (code != 0 && count.failed == 0) count.failed = 1; // a failure outside of any test
    return count;
}

// All programs of a folder, one after the other.
TestCount run_system_tests(const fs::path& folder, const fs::path& build, const TestOptions& options) {
    std::vector<fs::path> programs;
    if (fs::exists(folder))
        for (const fs::directory_entry& entry : fs::directory_iterator(folder))
            if (entry.is_regular_file() && (entry.status().permissions() & fs::perms::owner_exec) != fs::perms::none)
                programs.push_back(entry.path());
    std::sort(programs.begin(), programs.end());
    if (programs.empty()) {
        spdlog::error("no tests were built in {}", folder.string());
        return {.failed = 1};
    }
    TestCount total;
    for (const fs::path& program : programs) {
        spdlog::info("{}", program.filename().string());
        total += run_system_test(program, build, options);
    }
    return total;
}

TestCount run_soaks(const fs::path& build, const TestOptions& options) {
    ::setenv("FLEX_SOAK_MINUTES", std::to_string(options.soak_minutes).c_str(), 1);
    if (options.seed) ::setenv("FLEX_SOAK_SEED", std::to_string(*options.seed).c_str(), 1);
    std::signal(SIGINT, SIG_IGN); // the soak ends with what it has; we tell of it
    return run_system_tests(build / "tests/soak", build, options);
}

void test(const TestOptions& options) {
    const fs::path build = platform::repository() / "build/host";
    const bool all = !options.unit && !options.system && options.soak_minutes == 0;
    TestCount total;
    if (all || options.unit) {
        spdlog::info("unit tests");
        total += run_unit_tests(build, options);
    }
    if (all || options.system) total += run_system_tests(build / "tests/system", build, options);
    if (options.soak_minutes != 0) total += run_soaks(build, options);
    if (json_wanted())
        std::cout << nlohmann::json{{"passed", total.passed}, {"failed", total.failed}, {"skipped", total.skipped}}.dump() << '\n';
    std::cout << total.passed << " passed, " << total.failed << " failed, " << total.skipped << " skipped" << std::endl;
    if (total.failed != 0 || total.passed == 0) throw Exit{1};
}

} // namespace

void register_test(CLI::App& app) {
    auto options = std::make_shared<TestOptions>();
    CLI::App* command = app.add_subcommand("test", "run the unit tests, then boot the device and run the system tests");
    command->add_flag("--unit", options->unit, "only the unit tests");
    command->add_flag("--system", options->system, "only the system tests");
    command->add_option("--filter", options->filter, "only tests of this name (unit: expression, system: GoogleTest pattern)");
    command->add_option("--soak", options->soak_minutes, "only the soaks, each for that many minutes; Ctrl-C ends one with its result so far")
        ->check(CLI::Range(1, 100000));
    command->add_option("--seed", options->seed, "of the soaks' random numbers; they print theirs");
    command->callback([=] { test(*options); });
}

} // namespace flex::cli
