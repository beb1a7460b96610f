// What it takes to give memory to the secure world and to have it back: page by page (Flex-Mem), and as one contiguous region
// that grows from a fixed base by migrating what lies in it, as CMA does and as a region behind TrustZone's address filter must. Under
// several kinds of use, each with Linux zeroing every page it hands out (init_on_alloc=1, Debian's default) and not.
//
//   memory_versus_contiguous [--rounds N] [--init-on-alloc 0|1] [--mib 64|256|1024] [--idle] [--instructions] [--json FILE] [--plot FILE.png]
//
// Each contestant has a device of its own, filled alike, since the region's page blocks are Linux' only for what can be migrated. Both are
// compared by what Linux and the monitor do: for Flex-Mem taking pages from the allocator and protecting them (recalling and freeing
// them), for the region alloc_contig_range (free_contig_range), which is protected and zeroed by nobody but, with init_on_alloc, Linux.
// Beside it, the whole request of the program in S-EL0, which has in it the calls between the worlds, adoption, zeroing and mapping. A
// contiguous region would need the same zeroing.
//
// --idle: only while nothing else is in memory. --instructions: one core, and the guest's clock counts instructions, 2 ns each. The plot needs gnuplot.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <regex>
#include <sstream>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "launcher/device.h"

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using flex::platform::Device;
using flex::platform::DeviceError;
using flex::platform::kMiB;

constexpr std::uint64_t kMemoryMiB = 4096, kRegionMiB = 1024;
constexpr std::uint64_t kSizesMiB[] = {64, 256, 1024};

struct Use {
    const char* name;
    const char* begin; ///< shell in the guest, which is booted anew
};
// Linux fills a CMA region last; after a while of use all memory was in use once.
constexpr Use kUses[] = {
    {"idle", "true"},
    {"2.5 of 4 GiB in use by processes (tmpfs), earlier 3.4",
     "i=0; while [ $i -lt 34 ]; do dd if=/dev/zero of=/run/fill/f$i bs=1M count=100 2>/dev/null; i=$((i+1)); done; i=0; while [ $i -lt 34 ]; do "
     "rm /run/fill/f$i; i=$((i+4)); done"},
    {"1.7 in use in pieces of 1 MiB, earlier 3.4, and a writer",
     "i=0; while [ $i -lt 3400 ]; do dd if=/dev/zero of=/run/fill/f$i bs=1M count=1 2>/dev/null; i=$((i+1)); done; i=0; while [ $i -lt 3400 ]; do "
     "rm /run/fill/f$i; i=$((i+2)); done; (while [ -e /run/fill/f1 ]; do dd if=/dev/zero of=/run/fill/w bs=64k count=800 2>/dev/null; done) "
     ">/dev/null 2>&1 & true"},
};

// Milliseconds of the guest's clock.
struct FlexTimes {
    double pages = 0, protect = 0, recall = 0, free = 0; // Linux' allocator, the monitor; the monitor, Linux' allocator
    double whole_alloc = 0, whole_free = 0;              // the program's request
    FlexTimes operator-(const FlexTimes& o) const {
        return {pages - o.pages, protect - o.protect, recall - o.recall, free - o.free, whole_alloc - o.whole_alloc, whole_free - o.whole_free};
    }
};
struct ContiguousTimes {
    double alloc = 0, free = 0;
};

struct Machine {
    bool init_on_alloc = true; ///< Linux zeroes what it hands out
    bool instructions = false;
};

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    std::ranges::sort(values);
    const std::size_t n = values.size();
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

class Bench {
public:
    /// region: Linux has one that can be had contiguous.
    Bench(const fs::path& folder, const Machine& machine, bool region) : device_((fs::remove_all(folder), folder)) {
        device_.create();
        flex::platform::MachineOptions options;
        options.firmware.trusted_os = options.firmware.trusted_os.parent_path() / "tos-memory_bench.bin";
        options.memory = kMemoryMiB * kMiB;
        options.ends_with_us = true;
        options.kernel_command_line += machine.init_on_alloc ? " init_on_alloc=1" : " init_on_alloc=0";
        options.counts_instructions = machine.instructions;
        if (machine.instructions) options.cores = 1;
        device_.start(options);
        const auto give_up = std::chrono::steady_clock::now() + 120s;
        while (exec("echo up", 5s) != "up\n") {
            if (std::chrono::steady_clock::now() > give_up) throw DeviceError("the device does not answer");
            std::this_thread::sleep_for(300ms);
        }
        exec("mkdir -p /run/fill; mount -t tmpfs -o size=100% tmpfs /run/fill", 10s);
        if (!region) return;
        const std::string said = exec("insmod /lib/flex/flexbench.ko dram_mib=" + std::to_string(kMemoryMiB) + " region_mib=" + std::to_string(kRegionMiB) + " 2>&1 && echo in", 60s);
        if (said != "in\n") throw DeviceError("flexbench.ko does not load: " + said);
    }
    ~Bench() { device_.kill(); }
    Bench(const Bench&) = delete;

    std::string exec(const std::string& line, std::chrono::milliseconds timeout) {
        try {
            return device_.exec_text(line, nullptr, timeout);
        } catch (const DeviceError&) {
            return {};
        }
    }

    FlexTimes flex(std::uint64_t mib) {
        const fs::path data = device_.folder() / flex::platform::files::kData;
        const unsigned number = ++number_;
        const FlexTimes before = costs();
        std::ofstream(data / "memory.command.new") << number << ' ' << mib * kMiB << '\n';
        fs::rename(data / "memory.command.new", data / "memory.command");
        for (const auto give_up = std::chrono::steady_clock::now() + 120s; std::chrono::steady_clock::now() < give_up;
             std::this_thread::sleep_for(20ms)) {
            unsigned done = 0;
            double alloc = 0, free = 0;
            if (!(std::ifstream(data / "memory.result") >> done >> alloc >> free) || done != number) continue;
            if (free == 0) throw DeviceError(std::to_string(mib) + " MiB of Flex-Mem: error " + std::to_string(static_cast<int>(alloc)));
            FlexTimes times = costs() - before;
            times.whole_alloc = alloc / 1e6, times.whole_free = free / 1e6;
            return times;
        }
        throw DeviceError("the secure world does not answer");
    }

    /// Of the driver, since its start.
    FlexTimes costs() {
        std::istringstream said(exec("cd /sys/class/misc/flexserve/cost; cat alloc_ns protect_ns recall_ns free_ns", 20s));
        FlexTimes ns;
        if (!(said >> ns.pages >> ns.protect >> ns.recall >> ns.free)) throw DeviceError("the driver tells no costs");
        return {ns.pages / 1e6, ns.protect / 1e6, ns.recall / 1e6, ns.free / 1e6};
    }

    ContiguousTimes contiguous(std::uint64_t mib) {
        const std::string parameter = "/sys/module/flexbench/parameters/contiguous";
        std::istringstream said(exec("echo " + std::to_string(mib * kMiB) + " 2>/dev/null > " + parameter + " && cat " + parameter, 300s));
        double alloc = 0, free = 0;
        if (!(said >> alloc >> free) || alloc == 0) throw DeviceError(std::to_string(mib) + " MiB in one piece: not to be had");
        return {alloc / 1e6, free / 1e6};
    }

private:
    Device device_;
    unsigned number_ = 0;
};

struct Row {
    const Use* use = nullptr;
    std::uint64_t mib = 0;
    bool init_on_alloc = false;
    std::vector<FlexTimes> flex;
    std::vector<ContiguousTimes> contiguous;
    std::string failed;

    template <class Times, class Part> static double middle(const std::vector<Times>& rounds, Part part) {
        std::vector<double> values;
        for (const Times& times : rounds) values.push_back(part(times));
        return median(values);
    }
    [[nodiscard]] double flex_alloc() const { return middle(flex, [](const FlexTimes& t) { return t.pages + t.protect; }); }
    [[nodiscard]] double flex_free() const { return middle(flex, [](const FlexTimes& t) { return t.recall + t.free; }); }
    [[nodiscard]] double of_flex(double FlexTimes::*part) const { return middle(flex, [&](const FlexTimes& t) { return t.*part; }); }
    [[nodiscard]] double of_region(double ContiguousTimes::*part) const { return middle(contiguous, [&](const ContiguousTimes& t) { return t.*part; }); }
    [[nodiscard]] double alloc_ratio() const { return ratio(of_region(&ContiguousTimes::alloc), flex_alloc()); }
    [[nodiscard]] double free_ratio() const { return ratio(of_region(&ContiguousTimes::free), flex_free()); }
    static double ratio(double a, double b) { return b > 0 ? a / b : 0; }
};

// What was migrated out of the region does not come back, so each round fills memory anew. A larger size finds what a smaller one left.
void measure(Bench& bench, std::vector<Row>& rows, bool region) {
    bench.exec("rm -rf /run/fill/*; sleep 1", 60s);
    if (bench.exec(std::string(rows[0].use->begin) + "; echo filled", 600s) != "filled\n") throw DeviceError("the device's memory cannot be filled");
    for (Row& row : rows) {
        try {
            if (region) row.contiguous.push_back(bench.contiguous(row.mib));
            else row.flex.push_back(bench.flex(row.mib));
        } catch (const DeviceError& error) {
            row.failed = error.what();
        }
    }
}

constexpr const char* kCompared = "| use of memory | init_on_alloc | MiB | Flex-Mem alloc ms | contiguous alloc ms | ratio | Flex-Mem free ms | contiguous free ms | ratio | failed |\n"
                                  "|---|---|---|---|---|---|---|---|---|---|\n";
constexpr const char* kParts = "| use of memory | init_on_alloc | MiB | taking pages | protect | the rest | whole request | recall | freeing pages | the rest | whole give-back |\n"
                               "|---|---|---|---|---|---|---|---|---|---|---|\n";

void print(const Row& row) {
    std::cout << std::fixed << std::setprecision(2) << "| " << row.use->name << " | " << row.init_on_alloc << " | " << row.mib << " | " << row.flex_alloc() << " | "
              << row.of_region(&ContiguousTimes::alloc) << " | " << std::setprecision(1) << row.alloc_ratio() << std::setprecision(2) << " | " << row.flex_free() << " | "
              << row.of_region(&ContiguousTimes::free) << " | " << std::setprecision(1) << row.free_ratio() << " | " << row.failed << " |" << std::endl;
}

// Milliseconds a MiB: what the whole request of a program is made of.
void print_parts(const Row& row) {
    const auto mib = static_cast<double>(row.mib);
    const auto part = [&](double FlexTimes::*p) { return row.of_flex(p) / mib; };
    const double pages = part(&FlexTimes::pages), protect = part(&FlexTimes::protect), alloc = part(&FlexTimes::whole_alloc);
    const double recall = part(&FlexTimes::recall), free = part(&FlexTimes::free), give_back = part(&FlexTimes::whole_free);
    std::cout << std::fixed << std::setprecision(4) << "| " << row.use->name << " | " << row.init_on_alloc << " | " << row.mib << " | " << pages << " | " << protect << " | "
              << alloc - pages - protect << " | " << alloc << " | " << recall << " | " << free << " | " << give_back - recall - free << " | " << give_back << " |" << std::endl;
}

nlohmann::json json_of(const Row& row) {
    nlohmann::json result = {{"use", row.use->name}, {"init_on_alloc", row.init_on_alloc}, {"mib", row.mib}, {"failed", row.failed},
                             {"alloc_ratio", row.alloc_ratio()}, {"free_ratio", row.free_ratio()}, {"flex", nlohmann::json::array()}, {"contiguous", nlohmann::json::array()}};
    for (const FlexTimes& t : row.flex)
        result["flex"].push_back({{"pages_ms", t.pages}, {"protect_ms", t.protect}, {"recall_ms", t.recall}, {"free_ms", t.free}, {"whole_alloc_ms", t.whole_alloc}, {"whole_free_ms", t.whole_free}});
    for (const ContiguousTimes& t : row.contiguous) result["contiguous"].push_back({{"alloc_ms", t.alloc}, {"free_ms", t.free}});
    return result;
}

// How many times as fast as the region, by use and size, beside the goals.
void plot(const std::vector<Row>& rows, const fs::path& file) {
    const fs::path data = file.string() + ".data";
    {
        std::ofstream out(data);
        for (const Row& row : rows)
            out << '"' << (row.use == &kUses[0] ? "idle" : row.use == &kUses[1] ? "in use" : "in pieces") << "\\n" << row.mib << " MiB" << (row.init_on_alloc ? "\\nzeroed" : "") << "\" "
                << row.alloc_ratio() << ' ' << row.free_ratio() << '\n';
    }
    const std::string count = std::to_string(rows.size());
    const std::string script = "set terminal png noenhanced size 1500,700; set bmargin 5; set key top left; set output '" + file.string() + "'; set style data histogram; set style fill solid; set logscale y; set yrange [0.1:200]; set grid y; "
                               "set xtics font ',9'; set ylabel 'times as fast as a contiguous region'; set title 'Flex-Mem beside a contiguous region, in guests filled alike (\"zeroed\": init_on_alloc=1)'; "
                               "plot '" + data.string() + "' using 2:xtic(1) title 'giving memory', '' using 3 title 'having it back', 12 with lines dashtype 2 title 'goal: giving, 12', 9 with lines dashtype 3 title 'goal: having back, 9'";
    const std::string command = "gnuplot -e \"" + std::regex_replace(script, std::regex("\""), "\\\"") + "\"";
    if (std::system(command.c_str()) != 0) std::cerr << "gnuplot cannot draw " << file << '\n';
    fs::remove(data);
}

struct Options {
    int rounds = 3;
    std::vector<bool> init_on_alloc = {true, false};
    std::uint64_t mib = 0; ///< only this size
    bool idle = false, instructions = false;
    std::string json, plot;
};

bool parse(const std::vector<std::string>& arguments, Options& options) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& name = arguments[i];
        if (name == "--instructions" || name == "--idle") {
            (name == "--idle" ? options.idle : options.instructions) = true;
            continue;
        }
        if (++i == arguments.size()) return false;
        const std::string& value = arguments[i];
        if (name == "--rounds") options.rounds = std::atoi(value.c_str());
        else if (name == "--init-on-alloc" && (value == "0" || value == "1")) options.init_on_alloc = {value == "1"};
        else if (name == "--mib") options.mib = std::strtoull(value.c_str(), nullptr, 10);
        else if (name == "--json") options.json = value;
        else if (name == "--plot") options.plot = value;
        else return false;
    }
    return options.rounds > 0;
}

std::vector<Row> measure_all(const Options& options) {
    std::vector<Row> rows;
    std::cout << kCompared;
    for (const bool init_on_alloc : options.init_on_alloc) {
        for (const Use& use : kUses) {
            if (options.idle && &use != &kUses[0]) continue;
            std::vector<Row> of_use;
            for (const std::uint64_t mib : kSizesMiB)
                if (options.mib == 0 || mib == options.mib)
                    of_use.push_back({.use = &use, .mib = mib, .init_on_alloc = init_on_alloc, .flex = {}, .contiguous = {}, .failed = {}});
            for (const bool region : {true, false}) {
                Bench bench(fs::temp_directory_path() / "flexserve-memory-bench", {init_on_alloc, options.instructions}, region);
                for (int round = 0; round < options.rounds && !of_use.empty(); ++round) measure(bench, of_use, region);
            }
            for (const Row& row : of_use) print(row);
            rows.insert(rows.end(), of_use.begin(), of_use.end());
        }
    }
    std::cout << "\nms a MiB:\n\n" << kParts;
    for (const Row& row : rows) print_parts(row);
    return rows;
}

} // namespace

int main(int argc, char** argv) {
    Options options;
    if (!parse({argv + 1, argv + argc}, options))
        return std::cerr << "usage: memory_versus_contiguous [--rounds N] [--init-on-alloc 0|1] [--mib N] [--idle] [--instructions] [--json FILE] [--plot FILE.png]\n", 2;
    try {
        const std::vector<Row> rows = measure_all(options);
        nlohmann::json all = nlohmann::json::array();
        for (const Row& row : rows) all.push_back(json_of(row));
        if (!options.json.empty()) std::ofstream(options.json) << all.dump(1) << '\n';
        if (!options.plot.empty()) plot(rows, options.plot);
    } catch (const std::exception& error) {
        std::cerr << "memory_versus_contiguous: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
