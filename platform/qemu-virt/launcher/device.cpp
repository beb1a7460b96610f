#include "launcher/device.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>
#include <span>
#include <thread>

#include <nlohmann/json.hpp>

#include "launcher/boot_watch.h"
#include "launcher/sockets.h"
#include "port/identity.h"

namespace flex::platform {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {

std::chrono::milliseconds since(Clock::time_point start) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
}

nlohmann::json npu_json(const RunState& state) {
    if (!state.npu) return nullptr;
    return {{"pid", state.npu_process.pid}, {"pid_start_time", state.npu_process.start_time},
            {"tops", state.npu->tops},      {"dram_gbps", state.npu->dram_gbps},
            {"launch_us", state.npu->launch_us}};
}

// Ends the process unless told that all went well.
class StartedNpu final {
public:
    explicit StartedNpu(ProcessId id) : id_(id) {}
    StartedNpu(const StartedNpu&) = delete;
    StartedNpu& operator=(const StartedNpu&) = delete;
    ~StartedNpu() {
        if (!kept_) end_process(id_, 1s);
    }
    void keep() { kept_ = true; }

private:
    ProcessId id_;
    bool kept_ = false;
};

} // namespace

Device::Device(fs::path folder) : folder_(std::move(folder)) {}

bool Device::exists() const { return fs::exists(folder_ / files::kFlash); }

void Device::create() {
    std::error_code error;
    fs::create_directories(folder_ / files::kStore, error);
    if (!error) fs::create_directories(folder_ / files::kData, error);
    if (error) throw DeviceError("cannot make " + folder_.string() + ": " + error.message());
    // The device counts as existing once its flash does; so the identity that follows from the key is written from the
    // finished flash, and again should that be interrupted.
    create_flash(folder_ / files::kFlash);
}

std::optional<RunState> Device::last_state() const {
    std::ifstream in(folder_ / files::kState);
    const nlohmann::json json = nlohmann::json::parse(in, nullptr, false);
    if (!json.is_object()) return std::nullopt;
    RunState state;
    try {
        state.process.pid = json.at("pid");
        state.process.start_time = json.at("pid_start_time");
        state.https_port = json.at("https_port");
        state.agent_port = json.at("agent_port");
        state.cores = json.at("cores");
        state.memory = json.at("memory");
        state.attack_devices = json.at("attack_devices");
        state.started_at = json.at("started_at");
        if (const nlohmann::json& npu = json.at("npu"); !npu.is_null()) {
            state.npu_process = {.pid = npu.at("pid"), .start_time = npu.at("pid_start_time")};
            state.npu = {.tops = npu.at("tops"), .dram_gbps = npu.at("dram_gbps"), .launch_us = npu.at("launch_us")};
        }
    } catch (const nlohmann::json::exception&) {
        return std::nullopt; // written by another version: whatever it was, we did not start it
    }
    return state;
}

std::optional<RunState> Device::running() const {
    std::optional<RunState> state = last_state();
    return state && is_running(state->process) ? state : std::nullopt;
}

void Device::end_leftovers() const {
    const std::optional<RunState> state = last_state();
    if (state && !is_running(state->process)) end_process(state->npu_process, 1s);
}

RunState Device::need_running() const {
    if (const std::optional<RunState> state = running()) return *state;
    throw DeviceError("the device is not running: start it with flexserve device up");
}

FileDescriptor Device::lock() const {
    FileDescriptor fd(::open((folder_ / files::kLock).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) throw DeviceError("cannot write to " + folder_.string() + ": " + std::strerror(errno));
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
        throw DeviceError("another flexserve is starting or stopping this device");
    return fd;
}

void Device::save(const RunState& state) const {
    const nlohmann::json json = {
        {"pid", state.process.pid},         {"pid_start_time", state.process.start_time},
        {"https_port", state.https_port},   {"agent_port", state.agent_port},
        {"cores", state.cores},             {"memory", state.memory},
        {"attack_devices", state.attack_devices}, {"started_at", state.started_at},
        {"npu", npu_json(state)},
    };
    const fs::path file = folder_ / files::kState;
    const fs::path fresh = file.string() + ".new";
    std::ofstream out(fresh);
    out << json.dump(1) << '\n';
    out.close();
    if (!out) throw DeviceError("cannot write " + fresh.string() + ": " + std::strerror(errno));
    fs::rename(fresh, file);
}

ProcessId Device::start_npu(const MachineOptions& options) const {
    const std::vector<std::string> arguments = npu_arguments(*options.npu);
    const ProcessId id = spawn_detached(arguments, folder_, files::kNpuLog,
                                        arguments[0] + " is missing: run ./flexserve doctor to see what to do",
                                        options.ends_with_us ? Lifetime::kEndsWithUs : Lifetime::kOutlivesUs);
    for (const Clock::time_point start = Clock::now(); !is_listening(id); std::this_thread::sleep_for(5ms)) {
        if (is_running(id) && since(start) < 10s) continue;
        end_process(id, 1s);
        throw DeviceError("the NPU's process does not start\nthe end of " + (folder_ / files::kNpuLog).string() + ":\n" +
                          log_tail(folder_ / files::kNpuLog, 5));
    }
    return id;
}

RunState Device::start(const MachineOptions& options) {
    options.check();
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) throw DeviceError("cannot make " + folder_.string() + ": " + error.message());
    const FileDescriptor held = lock();
    if (running()) throw DeviceError("the device is already running (flexserve device status)");
    if (!exists()) create();

    const RootKey key = root_key();
    const Status provisioned = port::provision_for_user(std::as_bytes(std::span(key)), folder_, data_home());
    if (!provisioned.ok()) throw DeviceError("cannot write the device's identity: " + provisioned.error().message);
    write_firmware(folder_ / files::kFlash, options.firmware, folder_);
    std::ofstream info(folder_ / files::kLoaderInfo, std::ios::binary);
    info << loader_info(options);
    info.close();
    if (!info) throw DeviceError("cannot write to " + folder_.string() + ": " + std::strerror(errno));
    end_leftovers();
    for (const char* stale : {files::kConsoleLog, files::kSecureLog, files::kNpuLog, files::kQmpSocket, files::kConsoleSocket,
                              files::kNpuSocket, files::kState})
        fs::remove(folder_ / stale);

    RunState state;
    state.https_port = free_port(options.https_port != 0 ? options.https_port : kGuestHttpsPort);
    if (options.https_port != 0 && state.https_port != options.https_port)
        throw DeviceError("port " + std::to_string(options.https_port) + " of this machine is taken: choose another");
    state.agent_port = free_port(0, state.https_port);
    state.cores = options.cores;
    state.memory = options.memory;
    state.attack_devices = options.attack_devices;
    state.started_at = std::chrono::duration_cast<std::chrono::seconds>(
                           std::chrono::system_clock::now().time_since_epoch()).count();
    if (options.npu) {
        state.npu = options.npu;
        state.npu_process = start_npu(options);
    }
    StartedNpu npu(state.npu_process);
    state.process = spawn_detached(qemu_arguments(options, state.https_port, state.agent_port), folder_, files::kQemuLog,
                                   "qemu-system-aarch64 is not installed: ./flexserve doctor tells how to mend that",
                                   options.ends_with_us ? Lifetime::kEndsWithUs : Lifetime::kOutlivesUs);
    save(state);
    npu.keep();
    return state;
}

void Device::wait_ready(std::chrono::milliseconds timeout, const Progress& progress, const std::atomic<bool>* cancel) {
    const RunState state = need_running();
    const Clock::time_point start = Clock::now();
    BootWatch watch(folder_);
    Clock::time_point next_probe = start + 1s;
    const auto give_up = [&](const std::string& why, const fs::path& log) {
        kill();
        std::string message = why;
        if (const std::string tail = log_tail(folder_ / log, 12); !tail.empty())
            message += "\nthe end of " + (folder_ / log).string() + ":\n" + tail;
        throw DeviceError(message);
    };
    while (true) {
        if (const auto stage = watch.poll(); stage && progress) progress(*stage, since(start));
        if (cancel != nullptr && *cancel) {
            kill();
            throw DeviceError("stopped while booting");
        }
        if (!is_running(state.process)) {
            const bool spoke = !log_tail(folder_ / files::kQemuLog, 1).empty();
            give_up("QEMU ended while the device was booting", spoke ? files::kQemuLog : files::kConsoleLog);
        }
        if (state.npu && !is_running(state.npu_process))
            give_up("the NPU's process ended while the device was booting", files::kNpuLog);
        if (!watch.failure().empty()) give_up("the device failed to boot: " + watch.failure(), watch.failure_log());
        if (since(start) >= timeout)
            give_up("the device was not ready after " + std::to_string(timeout.count() / 1000) + " s; it got as far as: " +
                        std::string(watch.stage()),
                    files::kConsoleLog);
        if (Clock::now() >= next_probe) {
            // Before the framework listens a probe may hang; once it does, a busy host may make it slow.
            if (https_healthy(state.https_port, watch.framework_is_up() ? 5s : 1s)) return;
            next_probe = Clock::now() + 250ms;
        }
        std::this_thread::sleep_for(50ms);
    }
}

void Device::kill() {
    const std::optional<RunState> state = last_state();
    if (!state) return;
    end_process(state->process, 3s);
    end_process(state->npu_process, 1s);
    fs::remove(folder_ / files::kState);
}

bool Device::stop(std::chrono::milliseconds patience) {
    const std::optional<RunState> state = running();
    if (!state) {
        end_leftovers();
        return true;
    }
    const FileDescriptor held = lock();
    const Clock::time_point start = Clock::now();
    try {
        agent_exec(state->agent_port, "sync; poweroff -f", [](std::string_view) {}, patience);
    } catch (const DeviceError&) {
        // A guest that does not listen, or goes before it answers: the wait below tells which.
    }
    const auto left = patience - since(start);
    const bool gone = wait_for_end(state->process, std::max<std::chrono::milliseconds>(left, 0ms));
    kill(); // what is left of it
    return gone;
}

void Device::reset() {
    static_cast<void>(need_running());
    qmp(folder_, "system_reset");
}

int Device::exec(const std::string& line, const std::function<void(std::string_view)>& output,
                 std::optional<std::chrono::milliseconds> timeout) {
    const std::optional<int> code = agent_exec(need_running().agent_port, line, output, timeout);
    if (!code) throw DeviceError("the device ended the connection before the command was done");
    return *code;
}

std::string Device::exec_text(const std::string& line, int* code, std::optional<std::chrono::milliseconds> timeout) {
    std::string text;
    const int result = exec(line, [&](std::string_view part) { text += part; }, timeout);
    if (code != nullptr) *code = result;
    return text;
}

FileDescriptor Device::open_console() const {
    static_cast<void>(need_running());
    return connect_unix(folder_, files::kConsoleSocket);
}

std::string log_tail(const fs::path& file, int lines) {
    std::ifstream in(file, std::ios::binary);
    std::deque<std::string> last;
    for (std::string line; std::getline(in, line);) {
        std::erase_if(line, [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; });
        last.push_back(std::move(line));
        if (last.size() > static_cast<std::size_t>(lines)) last.pop_front();
    }
    std::string text;
    for (const std::string& line : last) text += line + '\n';
    return text;
}

} // namespace flex::platform
