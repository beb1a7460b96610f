// flexserve device bench: what protection costs in the emulated device, measured on one that is booted for it.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "cli/client.h"
#include "cli/client_bench_device.h"
#include "cli/client_cache_bench.h"
#include "cli/client_give_back_bench.h"
#include "cli/client_npu_bench.h"
#include "cli/output.h"
#include "launcher/paths.h"

namespace flex::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kModel = "bench";
constexpr const char* kQuestion = "What is Flex-Mem?";
constexpr double kFramesPerBlock = 512; // 2 MiB

struct Options {
    unsigned rounds = 5, boots = 3;
    BenchMachine machine;
    bool npu_only = false, cache_only = false, give_back_only = false;
    std::string model;
};

Answer ask(const BenchDevice& device, unsigned tokens = 32) {
    AskOptions options;
    options.temperature = 0;
    options.max_tokens = tokens;
    return device.api().ask(kModel, {{"user", kQuestion}}, options, "", [](const std::string&) {});
}

struct FrameCosts {
    std::vector<double> allocate, protect, recall, free; // ns per frame, one a round
};

/// Loads the model and takes it back, with Linux allocating in chunks of 2^`order` frames at most.
FrameCosts frame_costs(BenchDevice& device, unsigned order, unsigned rounds) {
    FrameCosts costs;
    device.write("/sys/module/flexserve/parameters/max_order", std::to_string(order));
    for (unsigned round = 0; round < rounds; ++round) {
        device.take_memory_back();
        const char* const kNames[] = {"monitor/frames_protected", "cost/alloc_ns", "cost/protect_ns", "monitor/frames_recalled",
                                      "cost/recall_ns",           "cost/free_ns"};
        double before[std::size(kNames)], spent[std::size(kNames)];
        for (std::size_t i = 0; i < std::size(kNames); ++i) before[i] = static_cast<double>(device.number(kNames[i]));
        static_cast<void>(ask(device));
        device.take_memory_back();
        for (std::size_t i = 0; i < std::size(kNames); ++i) spent[i] = static_cast<double>(device.number(kNames[i])) - before[i];
        if (spent[0] == 0 || spent[3] == 0) throw std::runtime_error("no memory was moved: nothing to measure");
        costs.allocate.push_back(spent[1] / spent[0]);
        costs.protect.push_back(spent[2] / spent[0]);
        costs.recall.push_back(spent[4] / spent[3]);
        costs.free.push_back(spent[5] / spent[3]);
        spdlog::info("  chunks of up to {} KiB: round {} of {}", 4u << order, round + 1, rounds);
    }
    return costs;
}

/// Of one frame alone and of 512 that are handed out in blocks of 2 MiB.
Json json_of(const FrameCosts& costs, double frames) {
    return {{"allocate_us", median(costs.allocate) * frames / 1000},
            {"protect_us", median(costs.protect) * frames / 1000},
            {"recall_us", median(costs.recall) * frames / 1000},
            {"free_us", median(costs.free) * frames / 1000}};
}

Json first_token(BenchDevice& device, unsigned rounds) {
    std::vector<double> total, prepare, allocate, load, decrypt, compute, speed;
    for (unsigned round = 0; round < rounds; ++round) {
        device.take_memory_back();
        const Answer answer = ask(device);
        total.push_back(answer.ttft_ms);
        prepare.push_back(answer.prepare_ms);
        allocate.push_back(answer.allocate_ms);
        load.push_back(answer.load_ms);
        decrypt.push_back(answer.decrypt_ms);
        compute.push_back(answer.compute_ms);
        speed.push_back(answer.tokens_per_second);
        spdlog::info("  first token: round {} of {}", round + 1, rounds);
    }
    return {{"ttft_ms", median(total)},      {"check_ms", median(prepare)},   {"allocate_ms", median(allocate)}, {"load_ms", median(load)},
            {"decrypt_ms", median(decrypt)}, {"compute_ms", median(compute)}, {"tokens_per_second", median(speed)}};
}

/// What protection of memory costs; boots `device`.
Json measure_memory(BenchDevice& device, const Options& options) {
    Json result;
    std::vector<double> boots;
    for (unsigned i = 0; i < options.boots; ++i) {
        boots.push_back(device.boot());
        spdlog::info("  boot {} of {}: {:.1f} s", i + 1, options.boots, boots.back());
    }
    result["boot_s"] = median(boots);
    std::vector<double> monitor, secure;
    for (unsigned i = 0; i < options.rounds; ++i) {
        monitor.push_back(static_cast<double>(device.number("cost/empty_monitor_call_ns")) / 1000);
        secure.push_back(static_cast<double>(device.number("cost/empty_secure_call_ns")) / 1000);
    }
    result["empty_monitor_call_us"] = median(monitor);
    result["empty_secure_call_us"] = median(secure);
    seal_for(device.folder().string(), options.model, kModel, "auto");
    static_cast<void>(ask(device)); // what happens only once
    result["first_token"] = first_token(device, options.rounds);
    result["per_4_kib"] = json_of(frame_costs(device, 0, options.rounds), 1);
    result["per_2_mib"] = json_of(frame_costs(device, 9, options.rounds), kFramesPerBlock);
    result["give_back"] = measure_give_back(device, options.rounds, [&] { static_cast<void>(ask(device, 1)); });
    const double switches = static_cast<double>(device.number("tos/switches"));
    result["interrupts"] = {{"count", switches},
                            {"mean_us", switches == 0 ? 0 : static_cast<double>(device.number("tos/switch_total_ns")) / switches / 1000},
                            {"over_100_us", device.number("tos/switches_over_100us")},
                            {"longest_us", static_cast<double>(device.number("tos/switch_max_ns")) / 1000}};
    return result;
}

Json measure(const Options& options) {
    BenchDevice device(options.machine);
    if (options.cache_only) return measure_cache(device, options.rounds);
    if (options.give_back_only) {
        device.boot();
        seal_for(device.folder().string(), options.model, kModel, "auto");
        return {{"give_back", measure_give_back(device, options.rounds, [&] { static_cast<void>(ask(device, 1)); })}};
    }
    Json result = options.npu_only ? Json::object() : measure_memory(device, options);
    result["npu"] = measure_npu(
        device, {options.model, options.rounds, !options.machine.instructions, !options.npu_only});
    return result;
}

void print_memory(const Json& r) {
    const auto value = [](const Json& j, const char* name) { return j.at(name).get<double>(); };
    std::printf("boot to ready                    %10.1f s\n", value(r, "boot_s"));
    std::printf("empty call to the monitor (HVC)  %10.1f us\n", value(r, "empty_monitor_call_us"));
    std::printf("empty call to the trusted OS     %10.1f us\n", value(r, "empty_secure_call_us"));
    std::printf("                                 %10s %10s %10s %10s\n", "allocate", "protect", "recall", "free");
    for (const auto& [name, text] : {std::pair{"per_4_kib", "4 KiB, one of many"}, {"per_2_mib", "2 MiB, largest chunks"}}) {
        const Json& c = r.at(name);
        std::printf("%-32s %10.1f %10.1f %10.1f %10.1f us\n", text, value(c, "allocate_us"), value(c, "protect_us"),
                    value(c, "recall_us"), value(c, "free_us"));
    }
    print_give_back(r.at("give_back"));
    const Json& t = r.at("first_token");
    std::printf("first token, model not in memory %10.0f ms: check %.0f, allocate %.0f, load %.0f, decrypt %.0f, compute %.0f\n",
                value(t, "ttft_ms"), value(t, "check_ms"), value(t, "allocate_ms"), value(t, "load_ms"), value(t, "decrypt_ms"),
                value(t, "compute_ms"));
    std::printf("tokens                           %10.1f a second\n", value(t, "tokens_per_second"));
    const Json& i = r.at("interrupts");
    std::printf("Linux' interrupt back to Linux   %10.1f us on average of %.0f; %.0f took over 100 us, the longest %.0f us\n",
                value(i, "mean_us"), value(i, "count"), value(i, "over_100_us"), value(i, "longest_us"));
}

} // namespace

void register_device_bench(CLI::App& app) {
    auto options = std::make_shared<Options>();
    options->model = (platform::repository() / "models/demo/demo.gguf").string();
    CLI::App* command = app.get_subcommand("device")->add_subcommand(
        "bench", "boot a device of its own and measure what protection costs there (medians)");
    command->add_option("--rounds", options->rounds, "how often to measure each")->check(CLI::Range(1, 1000))->capture_default_str();
    command->add_option("--boots", options->boots, "how often to boot")->check(CLI::Range(1, 100))->capture_default_str();
    command->add_option("--cores", options->machine.cores, "of the device")->check(CLI::Range(1, 4))->capture_default_str();
    command->add_flag("--npu-only", options->npu_only, "only what concerns the NPU, and no inference on the CPU");
    command->add_flag("--cache-only", options->cache_only,
                      "only first tokens of two synthetic models by what of them is in memory, and while Linux runs short of it");
    command->add_flag("--give-back-only", options->give_back_only, "only what it takes to have 64 MiB of weights back")->excludes("--npu-only");
    command->add_flag("--instructions", options->machine.instructions,
                      "the guest's clock counts instructions, 2 ns each: what the code costs, free of the host's noise");
    const auto limit = [&](const char* name, double* value, const char* what) {
        command->add_option(name, *value, what)->check(CLI::NonNegativeNumber);
    };
    limit("--npu-tops", &options->machine.npu.tops, "as those of device up: an NPU of this speed, if the host is faster");
    limit("--npu-dram-gbps", &options->machine.npu.dram_gbps, "and this memory");
    limit("--npu-launch-us", &options->machine.npu.launch_us, "and this delay before a job");
    command->add_option("--model", options->model, "a GGUF to load")->check(CLI::ExistingFile)->capture_default_str();
    command->callback([options] {
        const Json result = measure(*options);
        if (json_wanted()) std::cout << result.dump() << '\n';
        else if (options->cache_only) print_cache(result);
        else if (options->give_back_only) print_give_back(result.at("give_back"));
        else {
            if (!options->npu_only) print_memory(result);
            print_npu(result.at("npu"));
        }
    });
}

} // namespace flex::cli
