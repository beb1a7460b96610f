#include "cli/client_give_back_bench.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <spdlog/spdlog.h>

#include "launcher/paths.h"

namespace flex::cli {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kBytes = kGiveBackMiB << 20;

/// Milliseconds of the guest's clock, by the driver's own account: it sees the ask come and the last page go.
double weights_ms(BenchDevice& device) {
    const std::uint64_t met = device.number("cost/asks_met"), before = device.number("cost/asked_ns");
    device.write(std::string(kSysfs) + "reclaim", std::to_string(kBytes));
    for (const auto give_up = std::chrono::steady_clock::now() + 30s; std::chrono::steady_clock::now() < give_up;
         std::this_thread::sleep_for(50ms))
        if (device.number("cost/asks_met") > met) return static_cast<double>(device.number("cost/asked_ns") - before) / 1e6;
    throw std::runtime_error("the framework does not give back what it was asked for");
}

/// A file of 64 MiB in an ext4 of its own, in the device's memory.
void make_file(BenchDevice& device) {
    const fs::path data = device.folder() / platform::files::kData;
    fs::copy_file(platform::repository() / "build/device/linux/flex-page-cache", data / "flex-page-cache", fs::copy_options::overwrite_existing);
    device.run("modprobe loop && modprobe crc32c_generic && modprobe ext4 && mkdir -p /run/cache /run/cgroup && mount -t cgroup2 cgroup2 /run/cgroup && "
               "echo +memory > /run/cgroup/cgroup.subtree_control && mkdir -p /run/cgroup/bench");
    const fs::path image = data / "page-cache.img";
    fs::create_directories(data / "page-cache");
    std::ofstream(data / "page-cache/file") << std::string(kBytes, 'x');
    const std::string make = "mke2fs -q -t ext4 -d '" + (data / "page-cache").string() + "' '" + image.string() + "' " +
                             std::to_string(kGiveBackMiB + 16) + "M >/dev/null 2>&1";
    if (std::system(make.c_str()) != 0) throw std::runtime_error("mke2fs cannot make an image with a file of 64 MiB");
    device.run("cp /data/page-cache.img /run/page-cache.img && mount -t ext4 -o loop,ro /run/page-cache.img /run/cache");
}

double page_cache_ms(BenchDevice& device, const std::string& how) {
    std::istringstream said(device.run("/data/flex-page-cache /run/cache/file " + how));
    double ns = 0, pages = 0;
    if (!(said >> ns >> pages) || pages == 0) throw std::runtime_error("flex-page-cache says: " + said.str());
    return ns / 1e6 * (static_cast<double>(kBytes) / 4096 / pages);
}

} // namespace

Json measure_give_back(BenchDevice& device, unsigned rounds, const std::function<void()>& load) {
    load();
    if (device.number("lent_bytes") < kBytes + kBytes / 2) return nullptr;
    make_file(device);
    std::vector<double> weights, advised, reclaimed;
    for (unsigned round = 0; round < rounds; ++round) {
        load();
        // What the load has left to do is done.
        std::this_thread::sleep_for(1s);
        weights.push_back(weights_ms(device));
        advised.push_back(page_cache_ms(device, "advise"));
        reclaimed.push_back(page_cache_ms(device, "/run/cgroup/bench"));
        spdlog::info("  give back: round {} of {}", round + 1, rounds);
    }
    return {{"mib", kGiveBackMiB}, {"weights_ms", median(weights)}, {"page_cache_advised_ms", median(advised)}, {"page_cache_reclaimed_ms", median(reclaimed)}};
}

void print_give_back(const Json& result) {
    if (result.is_null()) {
        std::printf("give back: the model has less than %u MiB\n", static_cast<unsigned>(kGiveBackMiB));
        return;
    }
    const auto value = [&](const char* name) { return result.at(name).get<double>(); };
    const double weights = value("weights_ms"), advised = value("page_cache_advised_ms"), reclaimed = value("page_cache_reclaimed_ms");
    std::printf("%u MiB of weights given back     %10.1f ms; clean page cache %.1f ms when advised (%.1f times that), %.1f ms by reclaim (%.1f)\n",
                static_cast<unsigned>(kGiveBackMiB), weights, advised, weights / advised, reclaimed, weights / reclaimed);
}

} // namespace flex::cli
