#include "launcher/device.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <csignal>
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

bool wait_for_end(const ProcessId& id, std::chrono::milliseconds patience) {
    const Clock::time_point start = Clock::now();
    while (is_running(id)) {
        if (since(start) >= patience) return false;
        std::this_thread::sleep_for(20ms);
    }
    return true;
}

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

std::optional<RunState> Device::running() const {
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
    } catch (const nlohmann::json::exception&) {
        return std::nullopt; // written by another version: whatever it was, we did not start it
    }
    if (!is_running(state.process)) return std::nullopt;
    return state;
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
    };
    const fs::path file = folder_ / files::kState;
    const fs::path fresh = file.string() + ".new";
    std::ofstream out(fresh);
    out << json.dump(1) << '\n';
    out.close();
    if (!out) throw DeviceError("cannot write " + fresh.string() + ": " + std::strerror(errno));
    fs::rename(fresh, file);
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
    for (const char* stale : {files::kConsoleLog, files::kSecureLog, files::kQmpSocket, files::kConsoleSocket, files::kState})
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
    state.process = spawn_detached(qemu_arguments(options, state.https_port, state.agent_port), folder_, files::kQemuLog,
                                   "qemu-system-aarch64 is not installed: ./flexserve doctor tells how to mend that",
                                   options.ends_with_us ? Lifetime::kEndsWithUs : Lifetime::kOutlivesUs);
    save(state);
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
    const std::optional<RunState> state = running();
    if (!state) return;
    ::kill(state->process.pid, SIGTERM);
    if (!wait_for_end(state->process, 3s)) {
        ::kill(state->process.pid, SIGKILL);
        wait_for_end(state->process, 3s);
    }
    fs::remove(folder_ / files::kState);
}

bool Device::stop(std::chrono::milliseconds patience) {
    const std::optional<RunState> state = running();
    if (!state) return true;
    const FileDescriptor held = lock();
    const Clock::time_point start = Clock::now();
    try {
        agent_exec(state->agent_port, "sync; poweroff -f", [](std::string_view) {}, patience);
    } catch (const DeviceError&) {
        // A guest that does not listen, or goes before it answers: the wait below tells which.
    }
    const auto left = patience - since(start);
    const bool gone = wait_for_end(state->process, std::max<std::chrono::milliseconds>(left, 0ms));
    if (gone)
        fs::remove(folder_ / files::kState);
    else
        kill();
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
