#include "cli/attack.h"

#include <csignal>
#include <iostream>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "cli/attack/runner.h"
#include "cli/output.h"

namespace flex::cli {

using attack::Attack;
using attack::Report;
using attack::Verdict;
using platform::Device;
using platform::DeviceError;

namespace {

struct Options {
    std::string device = "default";
    bool list = false;
    bool brief = false;
    std::vector<std::string> only;
};

std::vector<const Attack*> chosen(const Options& options) {
    std::vector<const Attack*> list;
    for (const std::string& name : options.only) {
        const Attack* attack = attack::find_attack(name);
        if (attack == nullptr) throw DeviceError("there is no attack '" + name + "': flexserve attack --list names them");
        list.push_back(attack);
    }
    if (!options.only.empty()) return list;
    for (const Attack& attack : attack::all_attacks())
        if (!options.brief || attack.brief) list.push_back(&attack);
    return list;
}

void print_list(const std::vector<const Attack*>& attacks) {
    if (json_wanted()) {
        nlohmann::json json = nlohmann::json::array();
        for (const Attack* attack : attacks)
            json.push_back({{"name", attack->name}, {"threat", attack->threat}, {"kind", name_of(attack->kind)}, {"does", attack->does}});
        std::cout << nlohmann::json{{"attacks", json}}.dump() << '\n';
        return;
    }
    for (const Attack* attack : attacks)
        std::printf("%-24s threat %2d  %-6s  %s\n", attack->name.c_str(), attack->threat, name_of(attack->kind), attack->does.c_str());
}

nlohmann::json json_of(const Report& report) {
    return {{"name", report.attack->name},      {"threat", report.attack->threat},
            {"kind", name_of(report.attack->kind)}, {"does", report.attack->does},
            {"verdict", name_of(report.outcome.verdict)}, {"how", report.outcome.how},
            {"damage", report.damage},          {"seconds", report.seconds}};
}

void print(const Report& report) {
    const char* colour = "";
    const char* plain = "";
    if (::isatty(STDOUT_FILENO) != 0) {
        colour = report.good() ? "\033[32m" : "\033[31m";
        plain = "\033[0m";
    }
    std::printf("%s%-7s%s  %-24s %s\n", colour, name_of(report.outcome.verdict), plain, report.attack->name.c_str(),
                report.outcome.how.c_str());
    if (!report.damage.empty()) std::printf("%sDAMAGE%s   %-24s %s\n", colour, plain, "", report.damage.c_str());
    std::fflush(stdout);
}

/// A device to attack: the one that runs, else one with attack devices, which is left running.
void make_sure_it_runs(Device& device) {
    if (device.running()) return;
    spdlog::info("no device runs: booting one with attack devices");
    platform::MachineOptions options;
    options.attack_devices = true;
    (void)device.start(options);
    device.wait_ready(std::chrono::seconds(120));
}

void run(const Options& options) {
    std::signal(SIGPIPE, SIG_IGN); // connections to the device break in the middle: that is an answer too
    const std::vector<const Attack*> attacks = chosen(options);
    if (options.list) return print_list(attacks);
    const auto model = attack::demo_model_file();
    if (!model) throw DeviceError("there is no model in models/demo to protect: restore it from the repository");
    Device device(platform::device_folder(options.device));
    make_sure_it_runs(device);
    attack::Target target(device, *model);
    target.prepare();
    int breaches = 0, bad = 0, held = 0, skipped = 0;
    nlohmann::json results = nlohmann::json::array();
    for (const Attack* attack : attacks) {
        const Report report = carry_out(*attack, target);
        if (report.outcome.verdict == Verdict::kBreach || !report.damage.empty()) ++breaches;
        else if (report.outcome.verdict == Verdict::kSkipped) ++skipped;
        else if (report.good()) ++held;
        else ++bad;
        if (json_wanted()) results.push_back(json_of(report));
        else print(report);
    }
    if (json_wanted())
        std::cout << nlohmann::json{{"attacks", results}, {"blocked", held}, {"breaches", breaches}, {"errors", bad}, {"skipped", skipped}}
                         .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                  << '\n';
    else
        std::cout << held << " blocked, " << breaches << " breaches, " << bad << " errors, " << skipped << " skipped" << std::endl;
    if (breaches + bad != 0) throw Exit{1};
}

} // namespace

void register_attack(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("attack", "be the hostile normal world: try to get at what the device protects");
    command->add_flag("--list", options->list, "only tell what there is");
    command->add_option("--only", options->only, "these attacks");
    command->add_flag("--brief", options->brief, "a few that show the most");
    command->add_option("--name", options->device, "which device, for more than one")->capture_default_str();
    command->callback([=] { run(*options); });
}

} // namespace flex::cli
