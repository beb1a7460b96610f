#include "cli/device.h"

#include <poll.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "cli/output.h"
#include "launcher/device.h"
#include "launcher/sockets.h"

namespace flex::cli {
namespace fs = std::filesystem;
using platform::Device;
using platform::DeviceError;
using platform::MachineOptions;
using platform::RunState;
using namespace std::chrono_literals;

namespace {

std::atomic<bool> interrupted = false;

// While one of these lives, Ctrl-C and SIGTERM set `interrupted` instead of ending the program.
class InterruptGuard final {
public:
    InterruptGuard() {
        interrupted = false;
        struct sigaction action {};
        action.sa_handler = [](int) { interrupted = true; };
        ::sigaction(SIGINT, &action, &old_int_);
        ::sigaction(SIGTERM, &action, &old_term_);
    }
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;
    ~InterruptGuard() {
        ::sigaction(SIGINT, &old_int_, nullptr);
        ::sigaction(SIGTERM, &old_term_, nullptr);
    }

private:
    struct sigaction old_int_ {};
    struct sigaction old_term_ {};
};

struct UpOptions {
    int cores = 2;
    std::string memory = "2G";
    int port = 0;
    int timeout_s = 120;
    bool attack_devices = false;
    bool no_npu = false;
    platform::NpuOptions npu;
    std::string monitor, trusted_os;
};

// "2G", "1536M", "2147483648"
std::uint64_t parse_memory(const std::string& text) {
    std::size_t used = 0;
    std::uint64_t number = 0;
    try {
        number = std::stoull(text, &used);
    } catch (const std::exception&) {
        used = 0;
    }
    const std::string unit = text.substr(used);
    std::uint64_t scale = 0;
    if (unit == "G" || unit == "g" || unit == "GiB") scale = platform::kGiB;
    if (unit == "M" || unit == "m" || unit == "MiB") scale = platform::kMiB;
    if (unit.empty()) scale = 1;
    if (used == 0 || text[0] == '-' || scale == 0 || number > (std::uint64_t{1} << 40) / scale)
        throw DeviceError("--memory " + text + " is no amount of memory: write it like 2G or 1536M");
    return number * scale;
}

nlohmann::json describe(const Device& device, const std::optional<RunState>& state) {
    nlohmann::json json = {{"folder", device.folder().string()}, {"exists", device.exists()}, {"running", state.has_value()}};
    if (state) {
        json["pid"] = state->process.pid;
        json["cores"] = state->cores;
        json["memory"] = state->memory;
        json["https_port"] = state->https_port;
        json["agent_port"] = state->agent_port;
        json["attack_devices"] = state->attack_devices;
        json["npu"] = nullptr;
        if (state->npu)
            json["npu"] = {{"running", platform::is_running(state->npu_process)}, {"pid", state->npu_process.pid},
                           {"tops", state->npu->tops},                            {"dram_gbps", state->npu->dram_gbps},
                           {"launch_us", state->npu->launch_us}};
        json["started_at"] = state->started_at;
        json["url"] = "https://localhost:" + std::to_string(state->https_port);
    }
    return json;
}

// "no NPU", "NPU", "NPU (6 TOPS, 30 GB/s, 100 us a job)"
std::string npu_text(const RunState& state) {
    if (!state.npu) return "no NPU";
    std::string limits;
    const auto add = [&](double value, const char* unit) {
        char text[32];
        std::snprintf(text, sizeof text, "%g", value);
        if (value != 0) limits += (limits.empty() ? "" : ", ") + std::string(text) + unit;
    };
    add(state.npu->tops, " TOPS");
    add(state.npu->dram_gbps, " GB/s");
    add(state.npu->launch_us, " us a job");
    return limits.empty() ? "NPU" : "NPU (" + limits + ")";
}

void up(Device& device, const UpOptions& wanted) {
    MachineOptions options;
    options.cores = wanted.cores;
    options.memory = parse_memory(wanted.memory);
    options.https_port = static_cast<std::uint16_t>(wanted.port);
    options.attack_devices = wanted.attack_devices;
    options.npu = wanted.no_npu ? std::nullopt : std::optional(wanted.npu);
    if (!wanted.monitor.empty()) options.firmware.monitor = fs::absolute(wanted.monitor);
    if (!wanted.trusted_os.empty()) options.firmware.trusted_os = fs::absolute(wanted.trusted_os);

    // Before QEMU starts, so that no Ctrl-C can fall between its start and the guard.
    const InterruptGuard guard;
    const bool fresh = !device.exists();
    const auto start = std::chrono::steady_clock::now();
    const RunState state = device.start(options);
    if (fresh)
        spdlog::info("made a new device in {}; its root key, which a manufacturer would fuse, lies in its flash file there",
                     device.folder().string());
    spdlog::info("booting the device: {} cores, {} MiB, {}", state.cores, state.memory / platform::kMiB, npu_text(state));
    try {
        device.wait_ready(
            std::chrono::seconds(wanted.timeout_s),
            [](std::string_view stage, std::chrono::milliseconds at) { spdlog::info("  {:5.1f} s  {}", at.count() / 1000.0, stage); },
            &interrupted);
    } catch (const DeviceError&) {
        if (!interrupted) throw;
        spdlog::error("interrupted; the device is off");
        throw Exit{130};
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (json_wanted()) {
        nlohmann::json json = describe(device, state);
        json["boot_seconds"] = seconds;
        std::cout << json.dump() << '\n';
    } else {
        spdlog::info("ready after {:.1f} s on https://localhost:{}", seconds, state.https_port);
    }
}

void down(Device& device) {
    if (!device.running()) {
        device.stop(); // what a QEMU that crashed may have left
        if (json_wanted()) std::cout << R"({"running":false,"was_running":false})" << '\n';
        else spdlog::info("the device is not running");
        return;
    }
    const bool clean = device.stop();
    if (json_wanted()) std::cout << nlohmann::json{{"running", false}, {"was_running", true}, {"clean", clean}}.dump() << '\n';
    else if (clean) spdlog::info("the device is off");
    else spdlog::warn("the device's Linux did not power off by itself; QEMU was ended");
}

void status(const Device& device) {
    const std::optional<RunState> state = device.running();
    const bool healthy = state && platform::https_healthy(state->https_port, 3s);
    if (json_wanted()) {
        nlohmann::json json = describe(device, state);
        json["healthy"] = healthy;
        std::cout << json.dump() << '\n';
    } else if (!state) {
        std::cout << "not running (" << device.folder().string() << (device.exists() ? ")" : ", not made yet)") << '\n';
    } else {
        std::cout << (healthy ? "ready" : "running, but does not answer") << " on https://localhost:" << state->https_port
                  << "  (" << state->cores << " cores, " << state->memory / platform::kMiB << " MiB, " << npu_text(*state)
                  << ", pid " << state->process.pid << ", " << device.folder().string() << ")\n";
        if (state->npu && !platform::is_running(state->npu_process))
            std::cout << "its NPU's process has ended: flexserve device logs npu\n";
    }
    if (!healthy) throw Exit{1};
}

// Puts the terminal into raw mode for as long as it lives, so that Ctrl-C and the like reach the guest.
class RawTerminal final {
public:
    RawTerminal() : active_(::tcgetattr(STDIN_FILENO, &saved_) == 0) {
        if (!active_) return;
        termios raw = saved_;
        ::cfmakeraw(&raw);
        raw.c_oflag |= OPOST; // the guest's kernel and ours would both else have to send \r
        ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    ~RawTerminal() {
        if (active_) ::tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
    }

private:
    termios saved_{};
    bool active_;
};

void console(const Device& device) {
    constexpr char kEscape = 0x1d; // Ctrl-]
    const platform::FileDescriptor socket = device.open_console();
    std::cerr << platform::log_tail(device.folder() / platform::files::kConsoleLog, 5)
              << "[device console; leave with Ctrl-], press Enter for a prompt]\n";
    const RawTerminal raw;
    bool input_open = true;
    while (true) {
        pollfd entries[2] = {{.fd = socket.get(), .events = POLLIN, .revents = 0},
                             {.fd = input_open ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0}};
        if (::poll(entries, 2, -1) < 0) break;
        char buffer[4096];
        if (entries[0].revents != 0) {
            const ssize_t got = ::read(socket.get(), buffer, sizeof buffer);
            if (got <= 0 || ::write(STDOUT_FILENO, buffer, static_cast<std::size_t>(got)) != got) break;
        }
        if (entries[1].revents != 0) {
            const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof buffer);
            const std::string_view typed(buffer, got > 0 ? static_cast<std::size_t>(got) : 0);
            if (got <= 0) input_open = false; // a script's input ended: keep showing output
            const std::size_t escape = typed.find(kEscape);
            const std::string_view passed = typed.substr(0, escape);
            if (::send(socket.get(), passed.data(), passed.size(), MSG_NOSIGNAL) < 0 || escape != typed.npos) break;
        }
    }
}

void logs(const Device& device, const std::string& which, int lines, bool follow) {
    const char* name = which == "secure" ? platform::files::kSecureLog
                       : which == "qemu" ? platform::files::kQemuLog
                       : which == "npu"  ? platform::files::kNpuLog
                                         : platform::files::kConsoleLog;
    const fs::path file = device.folder() / name;
    if (!fs::exists(file)) throw DeviceError("there is no log yet: the device was never started (flexserve device up)");
    std::cout << platform::log_tail(file, lines) << std::flush;
    if (!follow) return;
    const InterruptGuard guard;
    std::ifstream in(file, std::ios::binary | std::ios::ate);
    while (!interrupted) {
        char buffer[4096];
        in.read(buffer, sizeof buffer);
        std::cout.write(buffer, in.gcount()).flush();
        in.clear();
        if (in.gcount() == 0) std::this_thread::sleep_for(100ms);
    }
}

void exec(Device& device, const std::vector<std::string>& words, int timeout_s) {
    std::string line;
    for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
    std::optional<std::chrono::milliseconds> timeout;
    if (timeout_s > 0) timeout = std::chrono::seconds(timeout_s);
    if (json_wanted()) {
        int code = 0;
        const std::string text = device.exec_text(line, &code, timeout);
        const nlohmann::json json = {{"output", text}, {"exit", code}};
        // The guest's output need not be UTF-8.
        std::cout << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
        throw Exit{code};
    }
    throw Exit{device.exec(line, [](std::string_view part) { std::cout << part << std::flush; }, timeout)};
}

} // namespace

void register_device(CLI::App& app) {
    CLI::App* group = app.add_subcommand("device", "the emulated device: start, stop, look inside");
    group->require_subcommand(1);
    auto name = std::make_shared<std::string>("default");
    group->add_option("--name", *name, "which device, for more than one")->capture_default_str();
    const auto make = [name] { return Device(platform::device_folder(*name)); };

    auto options = std::make_shared<UpOptions>();
    CLI::App* up_command = group->add_subcommand("up", "boot the device and wait until it answers");
    up_command->add_option("--cores", options->cores, "cores, 1 to 4")->capture_default_str()->check(CLI::Range(1, 4));
    up_command->add_option("--memory", options->memory, "memory, 1G to 16G")->capture_default_str();
    up_command->add_option("--port", options->port, "HTTPS port on this machine (default 8443, or a free one)")
        ->check(CLI::Range(1, 65535));
    up_command->add_option("--timeout", options->timeout_s, "seconds to wait")->capture_default_str()->check(CLI::Range(1, 3600));
    up_command->add_flag("--attack-devices", options->attack_devices, "add a PCI device that does DMA wherever it is told");
    CLI::Option* no_npu = up_command->add_flag("--no-npu", options->no_npu, "a device without an NPU");
    const auto limit = [&](const char* flag, double* value, double most, const char* what) {
        up_command->add_option(flag, *value, what)->check(CLI::Range(0.0, most))->excludes(no_npu);
    };
    limit("--npu-tops", &options->npu.tops, platform::kNpuTopsMax, "the NPU's int8 operations a second, in 10^12 (default: as many as the host can)");
    limit("--npu-dram-gbps", &options->npu.dram_gbps, platform::kNpuDramGbpsMax, "what it moves between memory and its SRAM, GB/s (default: no limit)");
    limit("--npu-launch-us", &options->npu.launch_us, platform::kNpuLaunchUsMax, "from a job's arrival to its start, us (default: no wait)");
    up_command->add_option("--monitor", options->monitor, "boot this Flex-Monitor image")->check(CLI::ExistingFile);
    up_command->add_option("--trusted-os", options->trusted_os, "boot this trusted OS image")->check(CLI::ExistingFile);
    up_command->callback([=] {
        Device device = make();
        up(device, *options);
    });

    group->add_subcommand("down", "power the device off")->callback([=] {
        Device device = make();
        down(device);
    });
    group->add_subcommand("status", "is it running, does it answer (exit code 0: yes)")->callback([=] { status(make()); });
    group->add_subcommand("reset", "warm reset, as by a reset button")->callback([=] { make().reset(); });
    group->add_subcommand("console", "the terminal of the device's Linux")->callback([=] { console(make()); });

    auto which = std::make_shared<std::string>("console");
    auto lines = std::make_shared<int>(200);
    auto follow = std::make_shared<bool>(false);
    CLI::App* logs_command = group->add_subcommand("logs", "what the device wrote to its serial ports");
    logs_command->add_option("which", *which, "console (Linux and the monitor), secure (trusted OS), qemu, npu")
        ->capture_default_str()
        ->check(CLI::IsMember({"console", "secure", "qemu", "npu"}));
    logs_command->add_option("-n,--lines", *lines, "how many of the last lines")->capture_default_str()->check(CLI::NonNegativeNumber);
    logs_command->add_flag("-f,--follow", *follow, "go on until Ctrl-C");
    logs_command->callback([=] { logs(make(), *which, *lines, *follow); });

    auto timeout = std::make_shared<int>(0);
    CLI::App* exec_command = group->add_subcommand("exec", "run a shell command in the device's Linux");
    exec_command->add_option("--timeout", *timeout, "seconds (0: no limit)")->capture_default_str();
    // From the first word that is no option of ours, everything is the command's.
    exec_command->fallthrough(false)->prefix_command();
    exec_command->callback([=] {
        const std::vector<std::string> words = exec_command->remaining();
        if (words.empty()) throw DeviceError("say which command to run: flexserve device exec COMMAND...");
        Device device = make();
        exec(device, words, *timeout);
    });
}

} // namespace flex::cli
