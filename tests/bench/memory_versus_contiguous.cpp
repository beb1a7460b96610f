// What it takes to give memory to the secure world and to have it back: page by page (Flex-Mem), and as one contiguous region
// that is grown by migrating what lies in it, as CMA does. Both in the same guest, in turn, under several kinds of use.
//
//   memory_versus_contiguous [--rounds N] [--json FILE]
//
// Both are compared by what Linux and the monitor do: for Flex-Mem taking pages from the allocator and protecting them (recalling
// and freeing them), for the region alloc_contig_range (free_contig_range) in the first place where it succeeds, which is protected
// and zeroed by nobody. Beside it, the whole request of the program in S-EL0, which has in it the calls between the worlds, adoption,
// zeroing and mapping. A contiguous region would need the same zeroing.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
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

constexpr std::uint64_t kMemoryMiB = 3072;
constexpr std::uint64_t kSizesMiB[] = {64, 256, 1024};

struct Use {
    const char* name;
    const char* begin; ///< shell in the guest
    const char* end;
};
// What fills memory lies in the region, too: Linux puts movable pages there, as into a CMA region.
constexpr Use kUses[] = {
    {"idle", "true", "true"},
    {"2 GiB in use by processes (tmpfs)", "dd if=/dev/zero of=/run/fill/a bs=1M count=1700 2>/dev/null", "rm -f /run/fill/a"},
    {"the same, with every other MiB freed, and a writer",
     "i=0; while [ $i -lt 1700 ]; do dd if=/dev/zero of=/run/fill/f$i bs=1M count=1 2>/dev/null; i=$((i+1)); done; i=0; while [ $i -lt 1700 ]; do "
     "rm /run/fill/f$i; i=$((i+2)); done; (while [ -e /run/fill/f1 ]; do dd if=/dev/zero of=/run/fill/w bs=64k count=800 2>/dev/null; done) "
     ">/dev/null 2>&1 &",
     "rm -f /run/fill/*; sleep 1; rm -f /run/fill/*"},
};

struct Times {
    double alloc_ms = 0, free_ms = 0;             // Linux and the monitor
    double whole_alloc_ms = 0, whole_free_ms = 0; // the program's request
};

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    std::ranges::sort(values);
    const std::size_t n = values.size();
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

class Bench {
public:
    explicit Bench(const fs::path& folder) : device_((fs::remove_all(folder), folder)) {
        device_.create();
        flex::platform::MachineOptions options;
        options.firmware.trusted_os = options.firmware.trusted_os.parent_path() / "tos-memory_bench.bin";
        options.memory = kMemoryMiB * kMiB;
        device_.start(options);
        const auto give_up = std::chrono::steady_clock::now() + 120s;
        while (exec("echo up", 5s) != "up\n") {
            if (std::chrono::steady_clock::now() > give_up) throw DeviceError("the device does not answer");
            std::this_thread::sleep_for(300ms);
        }
        exec("mkdir -p /run/fill; mount -t tmpfs -o size=100% tmpfs /run/fill", 10s);
        const std::string said = exec("insmod /lib/flex/flexbench.ko dram_mib=" + std::to_string(kMemoryMiB) + " 2>&1 && echo in", 60s);
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

    Times flex(std::uint64_t mib) {
        const fs::path data = device_.folder() / flex::platform::files::kData;
        const unsigned number = ++number_;
        const auto [alloc_before, free_before] = costs();
        std::ofstream(data / "memory.command.new") << number << ' ' << mib * kMiB << '\n';
        fs::rename(data / "memory.command.new", data / "memory.command");
        for (const auto give_up = std::chrono::steady_clock::now() + 120s; std::chrono::steady_clock::now() < give_up;
             std::this_thread::sleep_for(20ms)) {
            unsigned done = 0;
            double alloc = 0, free = 0;
            if (!(std::ifstream(data / "memory.result") >> done >> alloc >> free) || done != number) continue;
            if (free == 0) throw DeviceError(std::to_string(mib) + " MiB of Flex-Mem: error " + std::to_string(static_cast<int>(alloc)));
            const auto [alloc_after, free_after] = costs();
            return {(alloc_after - alloc_before) / 1e6, (free_after - free_before) / 1e6, alloc / 1e6, free / 1e6};
        }
        throw DeviceError("the secure world does not answer");
    }

    /// Nanoseconds since the start: taking and protecting pages, recalling and freeing them.
    std::pair<double, double> costs() {
        std::istringstream said(exec("cd /sys/class/misc/flexserve/cost; cat alloc_ns protect_ns recall_ns free_ns", 20s));
        double alloc = 0, protect = 0, recall = 0, free = 0;
        if (!(said >> alloc >> protect >> recall >> free)) throw DeviceError("the driver tells no costs");
        return {alloc + protect, recall + free};
    }

    Times contiguous(std::uint64_t mib) {
        const std::string parameter = "/sys/module/flexbench/parameters/contiguous";
        std::istringstream said(exec("echo " + std::to_string(mib * kMiB) + " 2>/dev/null > " + parameter + " && cat " + parameter, 300s));
        double alloc = 0, free = 0;
        if (!(said >> alloc >> free) || alloc == 0) throw DeviceError(std::to_string(mib) + " MiB in one piece: not to be had");
        return {alloc / 1e6, free / 1e6, 0, 0};
    }

private:
    Device device_;
    unsigned number_ = 0;
};

struct Row {
    const Use* use;
    std::uint64_t mib;
    std::vector<double> flex_alloc, flex_free, whole_alloc, whole_free, contiguous_alloc, contiguous_free;
    std::string failed;
};

void measure(Bench& bench, Row& row, int rounds) {
    for (int i = 0; i < rounds; ++i) {
        try {
            const Times flex = bench.flex(row.mib);
            row.flex_alloc.push_back(flex.alloc_ms);
            row.flex_free.push_back(flex.free_ms);
            row.whole_alloc.push_back(flex.whole_alloc_ms);
            row.whole_free.push_back(flex.whole_free_ms);
            const Times other = bench.contiguous(row.mib);
            row.contiguous_alloc.push_back(other.alloc_ms);
            row.contiguous_free.push_back(other.free_ms);
        } catch (const DeviceError& error) {
            row.failed = error.what();
        }
    }
}

void print(const Row& row) {
    const double fa = median(row.flex_alloc), ff = median(row.flex_free), ca = median(row.contiguous_alloc), cf = median(row.contiguous_free);
    std::cout << std::fixed << std::setprecision(1) << "| " << row.use->name << " | " << row.mib << " | " << fa << " | " << ca << " | "
              << (fa > 0 ? ca / fa : 0) << " | " << ff << " | " << cf << " | " << (ff > 0 ? cf / ff : 0) << " | "
              << median(row.whole_alloc) << " | " << median(row.whole_free) << " | " << row.failed << " |" << std::endl;
}

} // namespace

int main(int argc, char** argv) {
    int rounds = 5;
    std::string json_file;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::string(argv[i]) == "--rounds") rounds = std::atoi(argv[i + 1]);
        else if (std::string(argv[i]) == "--json") json_file = argv[i + 1];
    }
    if (argc % 2 == 0 || rounds < 1) return std::cerr << "usage: memory_versus_contiguous [--rounds N] [--json FILE]\n", 2;
    try {
        Bench bench(fs::temp_directory_path() / "flexserve-memory-bench");
        nlohmann::json all = nlohmann::json::array();
        std::cout << "| use of memory | MiB | Flex-Mem alloc ms | contiguous alloc ms | ratio | Flex-Mem free ms | contiguous free ms | ratio | whole request ms | whole give-back ms | failed |\n"
                     "|---|---|---|---|---|---|---|---|---|---|---|\n";
        for (const Use& use : kUses) {
            bench.exec(use.begin, 300s);
            for (const std::uint64_t mib : kSizesMiB) {
                Row row{.use = &use, .mib = mib, .flex_alloc = {}, .flex_free = {}, .whole_alloc = {}, .whole_free = {}, .contiguous_alloc = {}, .contiguous_free = {}, .failed = {}};
                measure(bench, row, rounds);
                print(row);
                all.push_back({{"use", use.name}, {"mib", mib}, {"flex_alloc_ms", row.flex_alloc}, {"flex_free_ms", row.flex_free}, {"whole_alloc_ms", row.whole_alloc}, {"whole_free_ms", row.whole_free},
                               {"contiguous_alloc_ms", row.contiguous_alloc}, {"contiguous_free_ms", row.contiguous_free}, {"failed", row.failed}});
            }
            bench.exec(use.end, 60s);
        }
        if (!json_file.empty()) std::ofstream(json_file) << all.dump(1) << '\n';
    } catch (const std::exception& error) {
        std::cerr << "memory_versus_contiguous: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
