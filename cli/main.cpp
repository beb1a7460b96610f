// The flexserve command. Every subcommand is registered by the file that implements it.
#include <exception>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "cli/device.h"
#include "cli/doctor.h"
#include "cli/output.h"
#include "cli/test.h"
#ifdef FLEX_HAS_DEVTOOLS
#include "cli/devtools.h"
#endif
#ifdef FLEX_HAS_SYNTH
#include "cli/synth.h"
#endif
#ifdef FLEX_HAS_SIM
#include "cli/sim.h"
#endif
#ifdef FLEX_HAS_BENCH
#include "cli/bench.h"
#endif
#ifdef FLEX_HAS_CLIENT
#include "cli/client.h"
#endif
#ifdef FLEX_HAS_ATTACK
#include "cli/attack.h"
#endif

namespace flex::cli {

namespace {
bool json_flag = false;
}

bool json_wanted() { return json_flag; }
void set_json_wanted(bool wanted) { json_flag = wanted; }

namespace {

void start_log() {
    auto logger = spdlog::stderr_color_mt("flexserve");
    // Information needs no label; warnings and errors get one.
    logger->set_pattern("flexserve: %v");
    spdlog::set_default_logger(logger);
}

int fail(const std::string& message) {
    if (json_flag) std::cout << nlohmann::json{{"error", message}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    spdlog::error("{}", message);
    return 1;
}

int run(int argc, char** argv) {
    CLI::App app("FlexServe: language models behind a wall the operating system cannot see through", "flexserve");
    app.require_subcommand(1);
    app.fallthrough();
    app.add_flag_callback("--json", [] { json_flag = true; }, "results as JSON on stdout")->trigger_on_parse();
    app.add_flag_callback("-v,--verbose", [] { spdlog::set_level(spdlog::level::debug); }, "say more")->trigger_on_parse();
    register_device(app);
    register_doctor(app);
    register_test(app);
#ifdef FLEX_HAS_DEVTOOLS
    register_devtools(app);
#endif
#ifdef FLEX_HAS_SYNTH
    register_synth(app);
#endif
#ifdef FLEX_HAS_SIM
    register_sim(app);
#endif
#ifdef FLEX_HAS_BENCH
    register_bench(app);
#endif
#ifdef FLEX_HAS_CLIENT
    register_client(app);
#endif
#ifdef FLEX_HAS_ATTACK
    register_attack(app);
#endif
    try {
        app.parse(argc, argv);
    } catch (const CLI::RuntimeError& error) {
        return error.get_exit_code(); // the subcommand has said why
    } catch (const CLI::ParseError& error) {
        const int code = app.exit(error);
        return code == 0 ? 0 : 2;
    } catch (const Exit& end) {
        return end.code;
    } catch (const std::exception& error) {
        return fail(error.what());
    }
    return 0;
}

} // namespace
} // namespace flex::cli

int main(int argc, char** argv) {
    flex::cli::start_log();
    return flex::cli::run(argc, argv);
}
