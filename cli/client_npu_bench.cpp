#include "cli/client_npu_bench.h"

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

/// The driver gives the NPU away and takes it back; nobody in the secure world takes hold of it.
Json change_of_hands(BenchDevice& device, unsigned rounds) {
    // The secure world keeps it for a moment after its last use.
    device.run(std::string("n=0; until grep -q normal ") + kSysfs +
               "npu/state; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done");
    std::vector<double> give, take;
    const double calls = static_cast<double>(device.number("npu/call_ns")),
                 gives = static_cast<double>(device.number("npu/gives"));
    for (unsigned i = 0; i < rounds; ++i) {
        std::istringstream numbers(device.text("npu/switch_ns"));
        double given = 0, taken = 0;
        if (!(numbers >> given >> taken))
            throw std::runtime_error("the NPU does not change hands: " + numbers.str());
        give.push_back(given / 1000);
        take.push_back(taken / 1000);
    }
    const double in_monitor = (static_cast<double>(device.number("npu/call_ns")) - calls) /
                              (static_cast<double>(device.number("npu/gives")) - gives) / 1000;
    return {{"give_us", median(give)}, {"take_us", median(take)}, {"both_in_monitor_us", in_monitor}};
}

double empty_job_us(BenchDevice& device) {
    const fs::path program = platform::repository() / "build/device/linux/flex-npu";
    fs::copy_file(program, device.folder() / platform::files::kData / "flex-npu",
                  fs::copy_options::overwrite_existing);
    const std::string said = device.run("/data/flex-npu nop " + std::to_string(kEmptyJobs));
    const std::string name = "median_ns ";
    const std::size_t at = said.find(name);
    if (at == std::string::npos) throw std::runtime_error("flex-npu says: " + said);
    return std::stod(said.substr(at + name.size())) / 1000;
}

/// About `tokens` tokens that no question before began with.
std::string prompt(unsigned tokens, unsigned number) {
    std::string text = std::to_string(number);
    for (unsigned i = 1; i < tokens; ++i) text += " a";
    return text;
}

Json inference(ApiClient api, const char* where, bool npu, unsigned rounds) {
    AskOptions options;
    options.raw = true;
    options.temperature = 0;
    options.max_tokens = kGenerated;
    options.npu = npu ? "on" : "off";
    unsigned number = 1;
    const auto ask = [&](unsigned tokens) {
        return api.ask(kModel, {{"user", prompt(tokens, number++)}}, options, "", [](const std::string&) {});
    };
    static_cast<void>(ask(kPrompts[0])); // loads the model
    Json result = {{"where", where}, {"npu", npu}, {"prefill", Json::array()}};
    std::vector<double> decode;
    for (const unsigned tokens : kPrompts) {
        std::vector<double> rates, times;
        unsigned counted = 0;
        for (unsigned i = 0; i < rounds; ++i) {
            const Answer answer = ask(tokens);
            counted = answer.prompt_tokens;
            if (npu != (answer.npu_passes != 0))
                throw std::runtime_error(
                    std::string(where) +
                    (npu ? ": the NPU computed nothing" : ": the NPU computed though it should not"));
            rates.push_back(counted * 1000 / answer.compute_ms);
            times.push_back(answer.ttft_ms);
            if (answer.completion_tokens > 1) decode.push_back(answer.tokens_per_second);
        }
        result["prefill"].push_back(
            {{"tokens", counted}, {"tokens_per_second", median(rates)}, {"ttft_ms", median(times)}});
    }
    if (!decode.empty()) result["decode_tokens_per_second"] = median(decode);
    spdlog::info("  {}, {}: measured", where, npu ? "NPU" : "CPU");
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

Json measure_npu(BenchDevice& device, const std::string& model, unsigned rounds, bool in_linux) {
    Json result;
    device.boot();
    result["change_of_hands"] = change_of_hands(device, rounds);
    result["empty_job_us"] = empty_job_us(device);
    Json& table = result["inference"] = Json::array();
    seal_for(device.folder().string(), model, kModel, "auto");
    table.push_back(inference(device.api(), "secure world", true, rounds));
    table.push_back(inference(device.api(), "secure world", false, rounds));
    if (!in_linux) return result;
    prepare_normal_mode(device, model);
    device.serve_in_linux("");
    table.push_back(inference(device.api_of_linux(), "Linux", true, rounds));
    table.push_back(inference(device.api_of_linux(), "Linux", false, rounds));
    return result;
}

void print_npu(const Json& r) {
    const auto value = [](const Json& j, const char* name) { return j.at(name).get<double>(); };
    const Json& s = r.at("change_of_hands");
    std::printf("NPU given away, taken back       %10.0f %10.0f us, of both %.0f in the monitor\n",
                value(s, "give_us"), value(s, "take_us"), value(s, "both_in_monitor_us"));
    std::printf("empty NPU job from Linux         %10.0f us\n", value(r, "empty_job_us"));
    for (const Json& row : r.at("inference")) {
        std::printf("%-12s, %s", row.at("where").get<std::string>().c_str(),
                    row.at("npu").get<bool>() ? "NPU" : "CPU");
        for (const Json& p : row.at("prefill"))
            std::printf("  prompt of %3.0f: %8.1f tokens/s (first after %5.0f ms)", value(p, "tokens"),
                        value(p, "tokens_per_second"), value(p, "ttft_ms"));
        if (row.contains("decode_tokens_per_second"))
            std::printf("  then %7.1f tokens/s", value(row, "decode_tokens_per_second"));
        std::putchar('\n');
    }
}

} // namespace flex::cli
