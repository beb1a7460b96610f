#include "cli/client_cache_bench.h"

#include <cmath>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <spdlog/spdlog.h>

#include "cli/client.h"
#include "cli/synth.h"

namespace flex::cli {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char* kShape = "small-qwen3";
const std::string kModels[] = {"bench-a", "bench-b"}; // of that shape, with weights of their own
constexpr unsigned kTokens = 256;                     // of a prompt
constexpr double kMiB = 1 << 20;
constexpr const char* kReserve = "/sys/module/flexserve/parameters/reserve_mib";
constexpr double kMarginMiB = 6; // of a budget, for a stage that is on its way

class CacheBench {
public:
    CacheBench(BenchDevice& device, unsigned rounds) : device_(device), rounds_(rounds), api_(device.api()) {
        options_.raw = true;
        options_.temperature = 0;
        options_.max_tokens = 1;
    }

    /// One model, its weights all there, half there, and not at all.
    Json residency(bool npu) {
        use_npu(npu);
        static_cast<void>(ask(kModels[0]));
        Json rows = Json::array();
        for (const auto& [name, loaded] : {std::pair{"all", 1.0}, {"half", 0.5}, {"nothing", 0.0}})
            rows.push_back(row(name, [&, share = loaded] {
                keep(kModels[0], share);
                return ask(kModels[0]);
            }));
        const double whole = rows[0].at("ttft_ms");
        for (Json& one : rows)
            if (one.contains("ttft_ms")) one["to_all"] = one.at("ttft_ms").get<double>() / whole;
        return {{"npu", npu}, {"rows", rows}};
    }

    /// Two models that are asked in turn, with as much memory as Linux' reserve leaves for both, one and a
    /// half, and one.
    Json groups(bool npu) {
        use_npu(npu);
        device_.take_memory_back();
        const double empty_mib = settled_mib();
        for (const std::string& model : kModels) static_cast<void>(ask(model));
        const double weights_mib = static_cast<double>(of(kModels[0]).bytes) / kMiB;
        // KV cache, scratch, tokenizers.
        const double beside_mib = empty_mib - settled_mib() - 2 * weights_mib + kMarginMiB;
        const std::string reserve = device_.run(std::string("cat ") + kReserve);
        Json rows = Json::array();
        for (const auto& [name, models] : {std::pair{"both", 2.0}, {"one and a half", 1.5}, {"one", 1.0}}) {
            device_.take_memory_back();
            const double budget = models * weights_mib + beside_mib;
            device_.write(kReserve, std::to_string(static_cast<long>(settled_mib() - budget)));
            static_cast<void>(row(
                "(first)", [&] { return ask(kModels[0]); }, 1));
            unsigned turn = 1;
            rows.push_back(row(
                name, [&] { return ask(kModels[turn++ % 2]); }, 2 * rounds_));
            device_.run("echo " + reserve.substr(0, reserve.find('\n')) + " > " + kReserve);
        }
        return {{"npu", npu}, {"rows", rows}};
    }

    /// One model while processes of Linux take more and more.
    Json pressure(bool npu) {
        use_npu(npu);
        device_.bring("flex-hog");
        device_.run("cp /data/flex-hog /run/");
        Json rows = Json::array();
        for (const char* hog : {"", "400 steady", "100 steady", "400", "100"}) {
            const std::string arguments = hog;
            if (!arguments.empty()) start_hog(arguments);
            for (const auto& [state, share] : {std::pair{"nothing", 0.0}, {"all", 1.0}}) {
                Json one = row(state, [&, part = share] {
                    keep(kModels[0], part);
                    return ask(kModels[0]);
                });
                one["leaves_mib"] = arguments.empty() ? Json() : Json(std::stoi(arguments));
                one["hog"] = arguments.empty()               ? "none"
                             : arguments.ends_with("steady") ? "keeps it"
                                                             : "takes and frees";
                rows.push_back(one);
            }
            if (!arguments.empty()) device_.run("while killall flex-hog 2>/dev/null; do sleep 0.2; done");
        }
        return {{"npu", npu}, {"rows", rows}};
    }

private:
    void use_npu(bool npu) { options_.npu = npu ? "on" : "off"; }

    Answer ask(const std::string& model) {
        resident_ = share(of(model));
        Answer answer = api_.ask(model, {{"user", distinct_prompt(kTokens, number_++)}}, options_, "",
                                 [](const std::string&) {});
        if ((options_.npu == "on") != (answer.npu_passes != 0))
            throw std::runtime_error("it was not computed where it should be");
        return answer;
    }

    /// Of the model in memory; nothing of it when it is not open.
    Residency of(const std::string& model) {
        for (const Residency& one : api_.status().models)
            if (one.model == model) return one;
        return {};
    }
    static double share(const Residency& residency) {
        return residency.bytes == 0
                   ? 0
                   : static_cast<double>(residency.bytes_loaded) / static_cast<double>(residency.bytes);
    }

    /// Linux takes back stage by stage until no more than that share of the model is in memory.
    void keep(const std::string& model, double wanted) {
        if (wanted == 0) return device_.take_memory_back();
        const auto give_up = std::chrono::steady_clock::now() + 20s;
        while (share(of(model)) > wanted) {
            if (std::chrono::steady_clock::now() > give_up)
                throw std::runtime_error("the framework does not let go of what it has");
            device_.write(std::string(kSysfs) + "reclaim", "4096");
            std::this_thread::sleep_for(50ms);
        }
    }

    /// When what was let go has arrived.
    double settled_mib() {
        for (double before = 0, now = available_mib();; before = now, now = available_mib()) {
            if (std::abs(now - before) < 1) return now;
            std::this_thread::sleep_for(500ms);
        }
    }

    double available_mib() {
        std::istringstream words(device_.run("grep MemAvailable /proc/meminfo"));
        std::string name;
        double kib = 0;
        words >> name >> kib;
        return kib / 1024;
    }

    /// Until it has all it wants, the first time.
    void start_hog(const std::string& arguments) {
        device_.run("/run/flex-hog 1 " + arguments + " </dev/null >/dev/null 2>&1 &");
        const double leaves = std::stod(arguments);
        for (const auto give_up = std::chrono::steady_clock::now() + 60s; available_mib() > leaves + 40;
             std::this_thread::sleep_for(200ms))
            if (std::chrono::steady_clock::now() > give_up)
                throw std::runtime_error("flex-hog does not get what it wants");
    }

    template <class Ask> Json row(const char* name, const Ask& ask_once, unsigned times = 0) {
        std::vector<double> ttft, loaded, allocate, load, decrypt, compute;
        unsigned tokens = 0, refused = 0;
        std::string why;
        for (unsigned i = 0; i < (times == 0 ? rounds_ : times); ++i) {
            Answer answer;
            try {
                answer = ask_once();
            } catch (const std::runtime_error& error) { // no memory: a result, too
                ++refused;
                why = error.what();
                continue;
            }
            tokens = answer.prompt_tokens;
            ttft.push_back(answer.ttft_ms);
            allocate.push_back(answer.allocate_ms);
            load.push_back(answer.load_ms);
            decrypt.push_back(answer.decrypt_ms);
            compute.push_back(answer.compute_ms);
            loaded.push_back(resident_);
        }
        Json result = {{"in_memory", name}, {"refused", refused}};
        if (refused != 0) result["why"] = why;
        if (!ttft.empty())
            result.update({{"resident", median(loaded)},
                           {"prompt_tokens", tokens},
                           {"ttft_ms", median(ttft)},
                           {"allocate_ms", median(allocate)},
                           {"load_ms", median(load)},
                           {"decrypt_ms", median(decrypt)},
                           {"compute_ms", median(compute)}});
        spdlog::info("  {}", result.dump());
        return result;
    }

    BenchDevice& device_;
    unsigned rounds_;
    ApiClient api_;
    AskOptions options_;
    unsigned number_ = 0;
    double resident_ = 0; ///< share of the model's bytes that was there before the last question
};

} // namespace

Json measure_cache(BenchDevice& device, unsigned rounds) {
    device.boot();
    std::uint64_t seed = 1;
    for (const std::string& model : kModels) {
        const fs::path file = device.folder() / (model + ".gguf");
        write_synth_model(kShape, file.string(), seed++);
        seal_for(device.folder().string(), file.string(), model, "auto");
        fs::remove(file);
    }
    CacheBench bench(device, rounds);
    Json result = {{"shape", kShape}};
    result["residency"] = {bench.residency(false), bench.residency(true)};
    result["groups"] = {bench.groups(true)};
    result["pressure"] = {bench.pressure(true)};
    return result;
}

void print_cache(const Json& result) {
    const auto print = [](const Json& table, const char* title) {
        std::printf("%s, %s\n", title, table.at("npu").get<bool>() ? "NPU" : "CPU");
        for (const Json& r : table.at("rows")) {
            const auto value = [&](const char* name) { return r.at(name).get<double>(); };
            if (r.contains("hog"))
                std::printf("  hog %-16s %4s MiB left", r.at("hog").get<std::string>().c_str(),
                            r.at("leaves_mib").dump().c_str());
            if (r.at("refused") != 0)
                std::printf("  %-16s %u refused: %s\n", r.at("in_memory").get<std::string>().c_str(),
                            r.at("refused").get<unsigned>(), r.at("why").get<std::string>().c_str());
            if (!r.contains("ttft_ms")) continue;
            std::printf("  %-16s %3.0f %% resident: first token of %3.0f after %7.0f ms",
                        r.at("in_memory").get<std::string>().c_str(), 100 * value("resident"),
                        value("prompt_tokens"), value("ttft_ms"));
            if (r.contains("to_all")) std::printf(" (%.2f of all resident)", value("to_all"));
            std::printf(": allocate %.0f, load %.0f, decrypt %.0f, compute %.0f\n", value("allocate_ms"),
                        value("load_ms"), value("decrypt_ms"), value("compute_ms"));
        }
    };
    for (const Json& table : result.at("residency")) print(table, "one model, by what of it is in memory");
    for (const Json& table : result.at("groups"))
        print(table, "two models in turn, by how many the memory holds");
    for (const Json& table : result.at("pressure"))
        print(table, "one model, while processes of Linux take memory");
}

} // namespace flex::cli
