#include "cli/client_bench_device.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <thread>

#include "cli/client.h"
#include "launcher/sockets.h"

namespace flex::cli {
namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {
constexpr std::uint16_t kNormalPort = 8444; // in the device
} // namespace

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

std::string distinct_prompt(unsigned tokens, unsigned number) {
    const auto letter = [](unsigned i) { return std::string(1, static_cast<char>('a' + i % 26)); };
    std::string text = letter(number) + " " + letter(number / 26);
    for (unsigned i = 2; i < tokens; ++i) text += " a";
    return text;
}

BenchDevice::BenchDevice(const BenchMachine& machine) : device_(platform::device_folder("bench")) {
    device_.kill();
    fs::remove_all(device_.folder());
    options_.cores = machine.cores;
    options_.ends_with_us = true;
    options_.counts_instructions = machine.instructions;
    options_.npu = machine.npu;
}

BenchDevice::~BenchDevice() {
    device_.kill();
    std::error_code ignored;
    fs::remove_all(device_.folder(), ignored);
}

double BenchDevice::boot() {
    device_.kill();
    // A network of its own for what serves in Linux: the first one's port stays with the agent.
    normal_port_ = platform::free_port(0);
    options_.extra_arguments = {
        "-netdev",
        "user,id=normal,net=10.0.3.0/24,hostfwd=tcp:127.0.0.1:" + std::to_string(normal_port_) +
            "-10.0.3.15:" + std::to_string(kNormalPort),
        "-device", "virtio-net-pci,netdev=normal,romfile=,iommu_platform=on,disable-legacy=on"};
    const auto start = std::chrono::steady_clock::now();
    device_.start(options_);
    device_.wait_ready(180s);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string BenchDevice::run(const std::string& line) {
    int code = 0;
    std::string text = device_.exec_text(line, &code);
    if (code != 0) throw std::runtime_error("the device's Linux fails at: " + line + ": " + text);
    return text;
}

std::string BenchDevice::text(const std::string& name) {
    return run("cat " + std::string(kSysfs) + name + " 2>&1");
}

std::uint64_t BenchDevice::number(const std::string& name) {
    const std::string content = text(name);
    std::uint64_t value = 0;
    if (std::from_chars(content.data(), content.data() + content.size(), value).ec != std::errc{})
        throw std::runtime_error("the device's Linux has no number " + name + ": " + content);
    return value;
}

void BenchDevice::write(const std::string& file, const std::string& value) {
    run("echo " + value + " > " + file);
}

void BenchDevice::bring(const std::string& program) {
    fs::copy_file(platform::repository() / "build/device/linux" / program,
                  device_.folder() / platform::files::kData / program, fs::copy_options::overwrite_existing);
}

void BenchDevice::take_memory_back() {
    const auto give_up = std::chrono::steady_clock::now() + 20s;
    do {
        write(std::string(kSysfs) + "reclaim", std::to_string(number("lent_bytes")));
        std::this_thread::sleep_for(200ms);
        if (api().status().models.empty()) return;
    } while (std::chrono::steady_clock::now() < give_up);
    throw std::runtime_error("the framework does not let go of the model it has");
}

ApiClient BenchDevice::api() const { return connect_to(device_); }

ApiClient BenchDevice::api_of_linux() const {
    return connect_natively(normal_port_, normal_folder().string());
}

fs::path BenchDevice::normal_folder() const { return device_.folder() / platform::files::kData / "normal"; }

void BenchDevice::serve_in_linux(const std::string& arguments) {
    const fs::path program = platform::repository() / "build/device/framework/flexserved";
    fs::copy_file(program, device_.folder() / platform::files::kData / "flexserved",
                  fs::copy_options::overwrite_existing);
    const std::string stopped = std::string("grep -q stopped ") + kSysfs + "program";
    run(stopped + " || echo stop > " + kSysfs + "program; n=0; until " + stopped +
        "; do n=$((n+1)); [ $n -lt 100 ]; sleep 0.2; done");
    run("killall flexserved 2>/dev/null; sleep 0.5; rm -f /data/normal.log");
    run("ip addr add 10.0.3.15/24 dev eth1 2>/dev/null; ip link set eth1 up");
    // The same instructions as in the secure world (tos/kernel/exec.cpp).
    run("OPENSSL_armcap=0x7c setsid /data/flexserved --home /data/normal --address 0.0.0.0 --port " +
        std::to_string(kNormalPort) + " " + arguments + " </dev/null >/data/normal.log 2>&1 & sleep 0.1");
    // Not by asking: the forwarded port takes connections before anybody listens, and breaks them.
    const fs::path log = device_.folder() / platform::files::kData / "normal.log";
    const auto give_up = std::chrono::steady_clock::now() + 60s;
    while (platform::log_tail(log, 3).find("ready on") == std::string::npos) {
        if (std::chrono::steady_clock::now() >= give_up)
            throw std::runtime_error("flexserved does not serve in the device's Linux: " +
                                     platform::log_tail(log, 3));
        std::this_thread::sleep_for(200ms);
    }
}

} // namespace flex::cli
