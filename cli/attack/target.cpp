#include "cli/attack/target.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "launcher/sockets.h"
#include "package/chat_compiler.h"
#include "package/seal.h"
#include "port/files.h"
#include "port/identity.h"

namespace flex::attack {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using platform::DeviceError;

namespace {

constexpr const char* kModule = "/lib/flex/flexattack.ko";
constexpr const char* kCommandFile = "/dev/flexattack";
constexpr const char* kLieFile = "/run/flex-hostile";
constexpr const char* kSysfs = "/sys/class/misc/flexserve/";

std::string trimmed(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    return text;
}

std::string quoted(const std::string& text) { return "'" + text + "'"; } // none of ours contains a quote

} // namespace

Target::Target(platform::Device& device, fs::path model_file) : device_(device), model_file_(std::move(model_file)) {}

ApiClient Target::api() const {
    const auto state = device_.running();
    if (!state) throw DeviceError("the device is not running: start it with flexserve device up --attack-devices");
    return {device_.folder() / "device-ca.pem", state->https_port};
}

ApiClient Target::operator_api() const {
    const platform::RootKey root = device_.root_key();
    auto token = port::operator_token(port::derive_from(std::as_bytes(std::span(root))));
    if (!token) throw DeviceError(token.error().message);
    return api().as_operator(*std::move(token));
}

bool Target::has_attack_devices() const {
    const auto state = device_.running();
    return state && state->attack_devices;
}

Query Target::reference_query(const std::string& model) const {
    return {.model = model, .prompt = "What is FlexServe?", .prompt_tokens = {}, .chat = true, .max_tokens = 12, .extra = {}, .timeout = 60s};
}

void Target::prepare() {
    // By the version that `flexserve seal` would give it, so that a later sealing is a newer one.
    if (!fs::exists(package_file(kModel)))
        seal_as(kModel, static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch() / 1s));
    set_lie("none");
    reference_ = api().complete(reference_query());
    if (!reference_.ok) throw DeviceError("the device does not answer before any attack: " + reference_.error);
    if (reference_.tokens.empty()) throw DeviceError("the model answers with nothing: no answer to compare with");
}

std::optional<std::string> Target::damage(std::chrono::milliseconds patience) const {
    const auto give_up = Clock::now() + patience;
    std::string problem;
    do {
        if (!device_.running()) return "QEMU has ended";
        Query query = reference_query();
        query.timeout = std::max<std::chrono::milliseconds>(5s, patience);
        const Completion now = api().complete(query);
        if (now.same_as(reference_)) return std::nullopt;
        if (now.ok) return "the device answers \"" + now.text + "\" where it answered \"" + reference_.text + "\"";
        problem = "the device does not answer any more: " + now.error;
        std::this_thread::sleep_for(500ms);
    } while (Clock::now() < give_up);
    return problem;
}

std::string Target::exec(const std::string& line, std::chrono::milliseconds timeout, int* code) {
    return device_.exec_text(line, code, timeout);
}

std::uint64_t Target::stat(const std::string& name) {
    int code = 0;
    const std::string text = trimmed(exec("cat " + std::string(kSysfs) + name, 30s, &code));
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size())
        throw DeviceError("the device's Linux tells no number " + name + ": exit code " + std::to_string(code) + ", \"" + text + "\"");
    return value;
}

void Target::load_module() {
    int code = 0;
    const std::string said = exec("[ -e " + std::string(kCommandFile) + " ] || insmod " + kModule, 30s, &code);
    if (code != 0) throw DeviceError("the device's Linux does not load the hostile module: exit code " + std::to_string(code) + ", " + trimmed(said));
}

std::string Target::kernel(const std::string& command, std::chrono::milliseconds timeout) {
    load_module();
    const std::string file = kCommandFile;
    return exec("echo " + quoted(command) + " > " + file + "; cat " + file, timeout);
}

Outcome Target::kernel_outcome(const std::string& command, std::chrono::milliseconds timeout) {
    const std::string answer = kernel(command, timeout);
    std::istringstream lines(answer);
    Outcome outcome = failed("no result: " + trimmed(answer));
    bool first = true;
    for (std::string line; std::getline(lines, line);) {
        const std::size_t colon = line.find(": ");
        const std::string how = colon == std::string::npos ? line : line.substr(colon + 2);
        if (line.starts_with("BREACH:")) return breach(how);
        if (!first) continue;
        if (line.starts_with("blocked:")) outcome = blocked(how);
        else if (line.starts_with("skipped:")) outcome = skipped(how);
        else if (line.starts_with("error:")) outcome = failed(how);
        else continue;
        first = false;
    }
    return outcome;
}

void Target::set_lie(const std::string& mode) {
    // Renamed into place: the agent reads the file for every request, and half a mode would be another one.
    exec("echo " + quoted(mode) + " > " + kLieFile + ".new && mv " + kLieFile + ".new " + kLieFile);
}

fs::path Target::package_file(const std::string& name) const {
    return device_.folder() / platform::files::kStore / (name + ".flex");
}

std::uint64_t Target::seal_as(const std::string& name, std::uint64_t version) {
    return seal_for(device_, {.gguf = model_file_, .name = name, .version = version, .file = {}});
}

void Target::remove_package(const std::string& name) { fs::remove(package_file(name)); }

bool Target::drop_models() {
    for (const auto give_up = Clock::now() + 10s; Clock::now() < give_up; std::this_thread::sleep_for(200ms)) {
        const Reply status = operator_api().get("/flexserve/status");
        if (status.status == 200 && status.body.find("\"models\":[]") != std::string::npos) return true;
        exec("cat " + std::string(kSysfs) + "lent_bytes > " + kSysfs + "reclaim");
    }
    return false;
}

bool Target::stop_program() {
    exec("echo stop > " + std::string(kSysfs) + "program");
    for (const auto give_up = Clock::now() + 30s; Clock::now() < give_up; std::this_thread::sleep_for(200ms))
        if (exec("cat " + std::string(kSysfs) + "program").starts_with("stopped")) return true;
    return false;
}

bool Target::start_program() {
    try {
        exec("killall flex-agentd", 5s); // init starts another, which starts the program
    } catch (const DeviceError&) {
        // The connection ended with it.
    }
    const auto state = device_.running();
    if (!state) return false;
    for (const auto give_up = Clock::now() + 60s; Clock::now() < give_up; std::this_thread::sleep_for(500ms))
        if (platform::https_healthy(state->https_port, 2s)) return true;
    return false;
}

fs::path Target::data_folder() const { return device_.folder() / platform::files::kData; }

std::optional<fs::path> demo_model_file() {
    const fs::path folder = platform::repository() / "models/demo";
    std::optional<fs::path> found;
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
        if (entry.path().extension() == ".gguf" && (!found || entry.path() < *found)) found = entry.path();
    return found;
}

namespace {

crypto::Public32 device_key(const platform::Device& device) {
    const auto text = port::read_file(device.folder() / "device.pub", 4096);
    if (!text) throw DeviceError(text.error().message);
    const auto key = port::parse_device_public({reinterpret_cast<const char*>(text->data()), text->size()});
    if (!key) throw DeviceError(key.error().message);
    return *key;
}

/// Compiled once a model: attacks seal the same one again and again.
const std::vector<std::byte>& chat_form(const fs::path& gguf) {
    static std::map<fs::path, std::vector<std::byte>> forms;
    const auto [place, isnew] = forms.try_emplace(gguf);
    if (isnew) {
        auto chat = package::chat_form_of_file(gguf, "");
        if (!chat) throw DeviceError(gguf.string() + ": " + chat.error().message);
        place->second = std::move(chat->form);
    }
    return place->second;
}

} // namespace

std::uint64_t seal_for(const platform::Device& device, const Sealing& sealing) {
    const auto key = sealing.by_another_publisher ? crypto::random_secret() : port::publisher_key(platform::data_home());
    if (!key) throw DeviceError(key.error().message);
    package::SealOptions options;
    options.source = sealing.gguf;
    options.target = sealing.file.empty() ? device.folder() / platform::files::kStore / (sealing.name + ".flex") : sealing.file;
    options.name = sealing.name;
    options.device = device_key(device);
    options.chat_form = chat_form(sealing.gguf);
    if (sealing.for_another_device) {
        const auto stranger = crypto::random_secret();
        const auto public_key = stranger ? crypto::x25519_public(*stranger) : stranger.error();
        if (!public_key) throw DeviceError(public_key.error().message);
        options.device = *public_key;
    }
    // Small chunks, so that a small model has several of one size.
    options.chunk_bytes = package::kMinChunkBytes;
    // Nanoseconds: two sealings never have the same version.
    options.version = sealing.version != 0
                          ? sealing.version
                          : static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch() / 1ns);
    const auto sealed = package::seal(options, *key);
    if (!sealed) throw DeviceError("cannot seal " + sealing.gguf.string() + ": " + sealed.error().message);
    return options.version;
}

} // namespace flex::attack
