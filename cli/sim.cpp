#include "cli/sim.h"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/sim_device.h"
#include "sim/trace.h"

namespace flex::cli {
namespace {

using nlohmann::json;

struct Arguments {
    std::string trace_file, write_file;
    std::string profile = "rk3588-nvme";
    std::vector<std::string> models{"qwen3-1.7b", "llama-3.2-3b", "qwen3-0.6b", "qwen3-4b", "llama-3.1-8b"};
    double budget_gb = 6, low_gb = 0, decrypt_gbps = 0;
    sim::TraceOptions trace;
    std::uint32_t warm_up = 50;
    bool residency = false;
    std::vector<std::uint32_t> prompts{32, 64, 128, 256, 512, 1024};
    memory::PolicyOptions policy;
};

sim::Device device_of(const Arguments& a) {
    for (const DeviceProfile& profile : known_profiles()) {
        if (profile.name != a.profile) continue;
        sim::Device device{profile.load_bandwidth,
                           a.decrypt_gbps > 0 ? a.decrypt_gbps * 1e9 : profile.decrypt_bandwidth,
                           {}};
        for (const std::string& name : a.models) device.models.push_back(rk3588_model(name));
        return device;
    }
    throw std::runtime_error("there is no profile \"" + a.profile + "\"; known are: rk3588-nvme rk3588-emmc");
}

std::uint64_t bytes_of(double gb) { return static_cast<std::uint64_t>(gb * 1e9); }

/// {"budgets": [[seconds, bytes], ...], "requests": [[seconds, model, prompt, answer], ...]}, the model by
/// its place among --models.
sim::Trace read_trace(const std::string& file, std::size_t models) {
    std::ifstream in(file);
    if (!in) throw std::runtime_error("cannot read " + file);
    const json from = json::parse(in);
    sim::Trace trace;
    for (const json& b : from.at("budgets"))
        trace.budgets.push_back({b.at(0).get<double>(), b.at(1).get<std::uint64_t>()});
    for (const json& r : from.at("requests")) {
        trace.requests.push_back({r.at(0).get<double>(), r.at(1).get<std::uint32_t>(),
                                  r.at(2).get<std::uint32_t>(), r.at(3).get<std::uint32_t>()});
        if (trace.requests.back().model >= models)
            throw std::runtime_error(file + " names a model that --models does not have");
    }
    return trace;
}

void write_trace(const std::string& file, const sim::Trace& trace) {
    json out{{"budgets", json::array()}, {"requests", json::array()}};
    for (const sim::Budget& b : trace.budgets) out["budgets"].push_back({b.at, b.bytes});
    for (const sim::Request& r : trace.requests)
        out["requests"].push_back({r.at, r.model, r.prompt, r.answer});
    std::ofstream to(file);
    if (!(to << out.dump() << '\n')) throw std::runtime_error("cannot write " + file);
}

sim::Trace trace_of(const Arguments& a) {
    if (!a.trace_file.empty()) return read_trace(a.trace_file, a.models.size());
    sim::TraceOptions options = a.trace;
    options.models = static_cast<std::uint32_t>(a.models.size());
    sim::Trace trace{sim::make_requests(options), {{0, bytes_of(a.budget_gb)}}};
    if (a.low_gb > 0)
        trace.budgets =
            sim::make_pressure(bytes_of(a.budget_gb), bytes_of(a.low_gb), trace.requests.back().at);
    return trace;
}

json as_json(const sim::Device& device) {
    json models = json::array();
    for (const sim::Model& m : device.models) {
        models.push_back({{"name", m.name},
                          {"bytes", m.bytes()},
                          {"prefill_tokens_per_s", m.prefill_rate},
                          {"decode_tokens_per_s", m.decode_rate}});
    }
    return {{"load_bytes_per_s", device.load_bandwidth},
            {"decrypt_bytes_per_s", device.decrypt_bandwidth},
            {"models", models}};
}

/// Strategies side by side on one trace.
json compare(const Arguments& a, const sim::Device& device) {
    const sim::Trace trace = trace_of(a);
    if (trace.requests.size() <= a.warm_up)
        throw std::runtime_error("--warm-up leaves none of the " + std::to_string(trace.requests.size()) +
                                 " requests");
    if (!a.write_file.empty()) write_trace(a.write_file, trace);
    json rows = json::array();
    const double policy =
        sim::summarise(sim::simulate(device, trace, sim::Strategy::kPolicy, a.policy), a.warm_up).mean_ttft;
    for (const sim::Strategy strategy :
         {sim::Strategy::kAllFits, sim::Strategy::kPolicy, sim::Strategy::kModelLru, sim::Strategy::kPageLru,
          sim::Strategy::kNoCache}) {
        const auto outcomes = sim::simulate(device, trace, strategy, a.policy);
        const sim::Summary s = sim::summarise(outcomes, a.warm_up);
        rows.push_back({{"strategy", sim::name_of(strategy)},
                        {"mean_ttft_s", s.mean_ttft},
                        {"median_ttft_s", s.median_ttft},
                        {"p95_ttft_s", s.p95_ttft},
                        {"mean_queued_s", s.mean_queued},
                        {"streamed_bytes", s.streamed_bytes},
                        {"policy_saves", 1 - policy / s.mean_ttft}});
    }
    return {{"requests", trace.requests.size()}, {"rows", rows}};
}

/// How long a prompt waits when the first part of its model is resident.
json by_residency(const Arguments& a, const sim::Device& device) {
    json rows = json::array();
    for (const sim::Model& model : device.models) {
        for (const std::uint32_t prompt : a.prompts) {
            json row{{"model", model.name}, {"prompt", prompt}};
            for (const int percent : {100, 50, 0}) {
                // The first whole stages that are within this share of the bytes.
                std::uint64_t within = 0;
                std::vector<std::uint64_t> missing;
                for (const sim::Stage& stage : model.stages) {
                    within += stage.bytes;
                    const bool there = within * 100 <= model.bytes() * static_cast<std::uint64_t>(percent);
                    missing.push_back(there ? 0 : stage.bytes);
                }
                row["ttft_s_" + std::to_string(percent)] = sim::first_token(device, model, prompt, missing);
            }
            row["half_to_whole"] = row["ttft_s_50"].get<double>() / row["ttft_s_100"].get<double>();
            rows.push_back(row);
        }
    }
    return {{"rows", rows}};
}

void print(const Arguments& a, const json& result) {
    std::printf("simulated, %s; nothing here was measured on a board\n", a.profile.c_str());
    for (const json& m : result["device"]["models"]) {
        std::printf("  %-14s %5.2f GB, prefill %4.0f tokens/s\n", m["name"].get<std::string>().c_str(),
                    m["bytes"].get<double>() / 1e9, m["prefill_tokens_per_s"].get<double>());
    }
    if (a.residency) {
        std::printf("\n%-14s %7s %10s %10s %10s %13s\n", "TTFT, s", "prompt", "resident", "half", "none",
                    "half : whole");
        for (const json& row : result["rows"]) {
            std::printf("%-14s %7u %10.3f %10.3f %10.3f %13.2f\n", row["model"].get<std::string>().c_str(),
                        row["prompt"].get<unsigned>(), row["ttft_s_100"].get<double>(),
                        row["ttft_s_50"].get<double>(), row["ttft_s_0"].get<double>(),
                        row["half_to_whole"].get<double>());
        }
        return;
    }
    std::printf("\n%-10s %10s %10s %10s %10s %12s %14s\n", "TTFT, s", "mean", "median", "95 %", "queued",
                "GB a request", "policy saves");
    for (const json& row : result["rows"]) {
        std::printf("%-10s %10.3f %10.3f %10.3f %10.3f %12.2f %12.1f %%\n",
                    row["strategy"].get<std::string>().c_str(), row["mean_ttft_s"].get<double>(),
                    row["median_ttft_s"].get<double>(), row["p95_ttft_s"].get<double>(),
                    row["mean_queued_s"].get<double>(), row["streamed_bytes"].get<double>() / 1e9,
                    row["policy_saves"].get<double>() * 100);
    }
}

void run(const Arguments& a) {
    if (a.models.empty()) throw std::runtime_error("--models is empty");
    const sim::Device device = device_of(a);
    json result = a.residency ? by_residency(a, device) : compare(a, device);
    result["simulated"] = true;
    result["profile"] = a.profile;
    result["device"] = as_json(device);
    if (json_wanted())
        std::cout << result.dump() << '\n';
    else
        print(a, result);
}

} // namespace

void register_sim(CLI::App& app) {
    auto a = std::make_shared<Arguments>();
    CLI::App* command = app.add_subcommand(
        "sim", "Simulate requests to several models in little memory: our policy beside LRU");
    command->add_option("trace", a->trace_file,
                        "a trace as --write-trace writes it (default: a generated one)");
    command->add_option("--write-trace", a->write_file, "write the trace to this file");
    command->add_option("--profile", a->profile, "rk3588-nvme (default) or rk3588-emmc");
    command->add_option("--decrypt", a->decrypt_gbps, "GB/s of decryption instead of the profile's");
    command->add_option("--models", a->models, "shapes, the most asked first, separated by commas")
        ->delimiter(',');
    command->add_option("--budget", a->budget_gb, "GB that may stay while nothing runs (default 6)");
    command->add_option("--low", a->low_gb, "the budget falls to this many GB and comes back");
    command->add_option("--requests", a->trace.requests, "default 1000")->check(CLI::Range(1, 1000000));
    command->add_option("--zipf", a->trace.zipf,
                        "exponent of the models' popularity (default 1; 0: all alike)");
    command->add_option("--gap", a->trace.gap_seconds, "mean seconds between requests (default 60)");
    command->add_option("--think", a->trace.think_seconds,
                        "mean seconds between those of a burst (default 0)");
    command->add_option("--burst", a->trace.burst, "requests of a burst, to one model (default 1)")
        ->check(CLI::Range(1, 1000));
    command->add_option("--prompt", a->trace.prompt_median, "median prompt, tokens (default 256)");
    command->add_option("--sigma", a->trace.prompt_sigma, "spread of the prompts' logarithm (default 0.8)");
    command->add_option("--answer", a->trace.answer, "tokens (default 64)");
    command->add_option("--seed", a->trace.seed);
    command->add_option("--warm-up", a->warm_up, "requests left out of the figures (default 50)");
    command->add_option("--hot-share", a->policy.hot_share,
                        "of recent requests, from which on a model is hot");
    command
        ->add_option("--half-life", a->policy.half_life_seconds, "seconds after which a request counts half")
        ->check(CLI::PositiveNumber);
    command->add_flag("--residency", a->residency,
                      "instead: one prompt with all, half and none of its model resident");
    command->add_option("--prompts", a->prompts, "prompt lengths of --residency")->delimiter(',');
    command->callback([a] { run(*a); });
}

} // namespace flex::cli
