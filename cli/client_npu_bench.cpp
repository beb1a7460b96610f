#include "cli/client_npu_bench.h"

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <stdexcept>

#include <spdlog/spdlog.h>

#include "cli/client.h"
#include "port/identity.h"
#include "port/port.h"

namespace flex::cli {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char* kModel = "bench";
constexpr unsigned kEmptyJobs = 200;
constexpr unsigned kPrompts[] = {8, 128};
constexpr unsigned kGenerated = 32;
constexpr const char *kSecure = "secure world", *kLinux = "Linux";

/// The driver gives the NPU away and takes it back; nobody in the secure world takes hold of it. Setting it
/// up for Linux' next job is not a part of taking it back.
Json change_of_hands(BenchDevice& device, unsigned rounds) {
    // The secure world keeps it for a moment after its last use.
    device.run(std::string("n=0; until grep -q normal ") + kSysfs +
               "npu/state; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done");
    constexpr const char* kNames[] = {"give_us", "take_us", "set_up_us", "give_used_us"};
    std::vector<double> times[std::size(kNames)];
    const double calls = static_cast<double>(device.number("npu/call_ns")),
                 gives = static_cast<double>(device.number("npu/gives"));
    for (unsigned i = 0; i < rounds; ++i) {
        std::istringstream numbers(device.text("npu/switch_ns"));
        for (std::vector<double>& one : times) {
            double ns = 0;
            if (!(numbers >> ns)) throw std::runtime_error("the NPU does not change hands: " + numbers.str());
            one.push_back(ns / 1000);
        }
    }
    const double in_monitor = (static_cast<double>(device.number("npu/call_ns")) - calls) /
                              (static_cast<double>(device.number("npu/gives")) - gives) / 1000;
    Json result;
    for (std::size_t i = 0; i < std::size(kNames); ++i) result[kNames[i]] = median(times[i]);
    result["both_in_monitor_us"] = in_monitor;
    return result;
}

double empty_job_us(BenchDevice& device) {
    device.bring("flex-npu");
    const std::string said = device.run("/data/flex-npu nop " + std::to_string(kEmptyJobs));
    const std::string name = "median_ns ";
    const std::size_t at = said.find(name);
    if (at == std::string::npos) throw std::runtime_error("flex-npu says: " + said);
    return std::stod(said.substr(at + name.size())) / 1000;
}

/// Asks one place for answers.
class Questions {
public:
    /// Prompts are those from `number` on: what was asked before is in the cache.
    Questions(ApiClient& api, std::string where, bool npu, unsigned number = 0)
        : api_(api), where_(std::move(where)), npu_(npu), number_(number) {
        options_.raw = true;
        options_.temperature = 0;
        options_.npu = npu ? "on" : "off";
    }

    Answer ask(unsigned tokens, unsigned generated) {
        options_.max_tokens = generated;
        Answer answer = api_.ask(kModel, {{"user", distinct_prompt(tokens, number_++)}}, options_, "",
                                 [](const std::string&) {});
        if (npu_ != (answer.npu_passes != 0))
            throw std::runtime_error(
                where_ + (npu_ ? ": the NPU computed nothing" : ": the NPU computed though it should not"));
        return answer;
    }

    /// Of `rounds` such questions; and, of a pass on the NPU, its wall time, what the NPU was at work of that
    /// by its own count, and the jobs.
    template <class Note>
    Json ask_often(unsigned tokens, unsigned generated, unsigned rounds, const Note& note) {
        const DeviceStatus before = api_.status();
        double passes = 0, npu_ms = 0;
        for (unsigned i = 0; i < rounds; ++i) {
            const Answer answer = ask(tokens, generated);
            note(answer);
            passes += answer.npu_passes;
            npu_ms += answer.npu_ms;
        }
        if (passes == 0) return nullptr;
        const DeviceStatus after = api_.status();
        return {{"ms", npu_ms / passes},
                {"busy_ms", static_cast<double>(after.npu_busy_ns - before.npu_busy_ns) / passes / 1e6},
                {"jobs", static_cast<double>(after.npu_jobs - before.npu_jobs) / passes}};
    }

private:
    ApiClient& api_;
    std::string where_;
    bool npu_;
    AskOptions options_;
    unsigned number_;
};

/// Nobody has asked yet, so the first question finds the model in storage.
Json inference(ApiClient api, const char* where, bool npu, unsigned rounds) {
    Questions questions(api, where, npu);
    const Answer cold = questions.ask(kPrompts[1], 1);
    Json result = {{"where", where}, {"npu", npu}};
    if (cold.load_ms > 0)
        result["cold"] = {{"tokens", cold.prompt_tokens},
                          {"ttft_ms", cold.ttft_ms},
                          {"load_ms", cold.load_ms},
                          {"decrypt_ms", cold.decrypt_ms}};
    result["prefill"] = Json::array();
    for (const unsigned tokens : kPrompts) {
        std::vector<double> rates, times;
        unsigned counted = 0;
        const Json pass = questions.ask_often(tokens, 1, rounds, [&](const Answer& answer) {
            counted = answer.prompt_tokens;
            rates.push_back(counted * 1000 / answer.compute_ms);
            times.push_back(answer.ttft_ms);
        });
        result["prefill"].push_back({{"tokens", counted},
                                     {"tokens_per_second", median(rates)},
                                     {"ttft_ms", median(times)},
                                     {"npu_pass", pass}});
    }
    std::vector<double> decode;
    const Json pass = questions.ask_often(kPrompts[0], kGenerated, rounds, [&](const Answer& answer) {
        if (answer.completion_tokens > 1) decode.push_back(answer.tokens_per_second);
    });
    if (!decode.empty()) result["decode"] = {{"tokens_per_second", median(decode)}, {"npu_pass", pass}};
    spdlog::info("  {}, {}: {}", where, npu ? "NPU" : "CPU", result.dump());
    return result;
}

/// Linux and the secure world want the NPU in turn: what the secure world waits for it (Linux' part, the way
/// to Linux and back, and its own queues), what giving it back takes, and a short prompt with such a wait in
/// it.
Json turns(BenchDevice& device, unsigned rounds) {
    constexpr unsigned kNumber = 500;
    ApiClient api = device.api();
    Questions questions(api, kSecure, true, kNumber);
    const DeviceStatus before = api.status();
    std::vector<double> first;
    for (unsigned i = 0; i < rounds; ++i) {
        device.run("/data/flex-npu nop 1");
        first.push_back(questions.ask(kPrompts[0], 1).compute_ms);
    }
    const DeviceStatus after = api.status();
    const auto switches = static_cast<double>(after.npu_switches - before.npu_switches);
    if (switches == 0) throw std::runtime_error("the NPU did not change hands");
    return {
        {"acquire_us", static_cast<double>(after.npu_acquire_ns - before.npu_acquire_ns) / switches / 1000},
        {"release_us", static_cast<double>(after.npu_release_ns - before.npu_release_ns) / switches / 1000},
        {"prefill_ms", median(first)}};
}

/// What the secure world reaches of Linux' speed on the NPU; null when that was not measured.
Json secure_to_normal(const Json& rows) {
    const auto find = [&](const char* where) {
        return std::ranges::find_if(
            rows, [&](const Json& row) { return row.at("where") == where && row.at("npu") == true; });
    };
    const auto secure = find(kSecure), normal = find(kLinux);
    if (secure == rows.end() || normal == rows.end()) return nullptr;
    Json result = {{"prefill", Json::array()}};
    for (std::size_t i = 0; i < secure->at("prefill").size(); ++i) {
        const Json &ours = secure->at("prefill")[i], &theirs = normal->at("prefill")[i];
        result["prefill"].push_back({{"tokens", ours.at("tokens")},
                                     {"ratio", ours.at("tokens_per_second").get<double>() /
                                                   theirs.at("tokens_per_second").get<double>()}});
    }
    const auto rate = [](const Json& row) { return row.at("decode").at("tokens_per_second").get<double>(); };
    if (secure->contains("decode") && normal->contains("decode"))
        result["decode_ratio"] = rate(*secure) / rate(*normal);
    return result;
}

/// Who the device's Linux is when it serves by itself, with a package of the same model for it.
void prepare_normal_mode(BenchDevice& device, const std::string& model) {
    const std::string folder = device.normal_folder().string();
    if (const auto port = port::make_native_port(folder); !port)
        throw std::runtime_error(port.error().message);
    if (const Status done = port::provision_native(folder, platform::data_home().string()); !done.ok())
        throw std::runtime_error(done.error().message);
    seal_for(folder, model, kModel, "auto");
}

} // namespace

Json measure_npu(BenchDevice& device, const NpuBenchOptions& options) {
    Json result;
    device.boot();
    result["change_of_hands"] = change_of_hands(device, options.rounds);
    result["empty_job_us"] = empty_job_us(device);
    Json& table = result["inference"] = Json::array();
    const auto measure_in = [&](const char* where, const auto& make_client) {
        table.push_back(inference(make_client(), where, true, options.rounds));
        if (options.on_cpu) table.push_back(inference(make_client(), where, false, options.rounds));
    };
    seal_for(device.folder().string(), options.model, kModel, "auto");
    measure_in(kSecure, [&] { return device.api(); });
    result["turns"] = turns(device, options.rounds);
    if (!options.in_linux) return result;
    prepare_normal_mode(device, options.model);
    device.serve_in_linux("");
    measure_in(kLinux, [&] { return device.api_of_linux(); });
    result["secure_to_normal"] = secure_to_normal(table);
    return result;
}

namespace {

void print_pass(const Json& pass) {
    std::printf("  %.2f of %.2f ms (%.0f jobs)", pass.at("busy_ms").get<double>(),
                pass.at("ms").get<double>(), pass.at("jobs").get<double>());
}

} // namespace

void print_npu(const Json& r) {
    const auto value = [](const Json& j, const char* name) { return j.at(name).get<double>(); };
    const Json& s = r.at("change_of_hands");
    std::printf("NPU given away, taken back       %10.0f %10.0f us, of both %.0f in the monitor\n",
                value(s, "give_us"), value(s, "take_us"), value(s, "both_in_monitor_us"));
    std::printf("  used by Linux: set up, given   %10.0f %10.0f us\n", value(s, "set_up_us"),
                value(s, "give_used_us"));
    if (r.contains("turns")) {
        const Json& t = r.at("turns");
        std::printf(
            "  in turns with Linux: the secure world has it after %.0f us, gives it back in %.0f us; a "
            "prompt of 8 takes %.1f ms\n",
            value(t, "acquire_us"), value(t, "release_us"), value(t, "prefill_ms"));
    }
    std::printf("empty NPU job from Linux         %10.0f us\n", value(r, "empty_job_us"));
    for (const Json& row : r.at("inference")) {
        std::printf("%-12s, %s", row.at("where").get<std::string>().c_str(),
                    row.at("npu").get<bool>() ? "NPU" : "CPU");
        for (const Json& p : row.at("prefill"))
            std::printf("  prompt of %3.0f: %8.1f tokens/s (first after %5.0f ms)", value(p, "tokens"),
                        value(p, "tokens_per_second"), value(p, "ttft_ms"));
        if (row.contains("decode"))
            std::printf("  then %7.1f tokens/s", value(row.at("decode"), "tokens_per_second"));
        std::putchar('\n');
        if (row.at("npu").get<bool>()) {
            std::printf("              of a pass the NPU is at work");
            for (const Json& p : row.at("prefill")) print_pass(p.at("npu_pass"));
            if (row.contains("decode")) print_pass(row.at("decode").at("npu_pass"));
            std::putchar('\n');
        }
        if (!row.contains("cold")) continue;
        const Json& cold = row.at("cold");
        std::printf(
            "              cold, prompt of %.0f: first after %.0f ms, of it loading %.0f, decrypting %.0f\n",
            value(cold, "tokens"), value(cold, "ttft_ms"), value(cold, "load_ms"), value(cold, "decrypt_ms"));
    }
    if (!r.contains("secure_to_normal") || r.at("secure_to_normal").is_null()) return;
    std::printf("secure to normal on the NPU     ");
    for (const Json& p : r.at("secure_to_normal").at("prefill"))
        std::printf("  prompt of %3.0f: %.2f", value(p, "tokens"), value(p, "ratio"));
    if (r.at("secure_to_normal").contains("decode_ratio"))
        std::printf("  then %.2f", value(r.at("secure_to_normal"), "decode_ratio"));
    std::putchar('\n');
}

} // namespace flex::cli
