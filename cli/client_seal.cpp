// flexserve seal: GGUF -> package for one device.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <spdlog/spdlog.h>

#include "cli/client.h"
#include "cli/output.h"
#include "launcher/device.h"
#include "package/chat_compiler.h"
#include "package/package.h"
#include "package/seal.h"
#include "port/files.h"
#include "port/identity.h"
#include "port/port.h"

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSuffix = ".flex";

struct SealArguments {
    std::string source, output, cipher = "auto", device, chat_template;
    std::uint64_t version = 0; // 0: choose
    bool native = false;
};

template <class T> T need(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message);
    return std::move(result).value();
}

void need(const Status& status) {
    if (!status) throw std::runtime_error(status.error().message);
}

/// Appears when sealing takes more than two seconds; only for a person to see.
class ProgressBar {
public:
    void operator()(std::uint64_t done, std::uint64_t total) {
        const auto now = std::chrono::steady_clock::now();
        if (!::isatty(STDERR_FILENO) || now - begin_ < std::chrono::seconds(2)) return;
        if (done != total && now - drawn_ < std::chrono::milliseconds(100)) return;
        drawn_ = now;
        constexpr int kWidth = 40;
        const int filled = static_cast<int>(done * kWidth / total);
        std::fprintf(stderr, "\rsealing [%s%s] %3d %%  %.1f of %.1f MiB", std::string(filled, '#').c_str(),
                     std::string(kWidth - filled, ' ').c_str(), static_cast<int>(done * 100 / total),
                     static_cast<double>(done) / 1048576, static_cast<double>(total) / 1048576);
        shown_ = true;
    }
    ~ProgressBar() {
        if (shown_) std::fputc('\n', stderr);
    }

private:
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(), drawn_;
    bool shown_ = false;
};

std::string home() { return platform::data_home().string(); }

/// The public key of the device in `folder`. A device that does not exist yet is made: sealing needs no boot.
crypto::Public32 device_public(const std::string& folder) {
    platform::Device device{fs::path(folder)};
    if (!device.exists()) {
        device.create();
        std::fprintf(stderr, "flexserve: made a new device in %s\n", folder.c_str());
    }
    if (!fs::exists(folder + "/device.pub")) {
        const platform::RootKey key = device.root_key();
        need(port::provision_for_user(std::as_bytes(std::span(key)), folder, home()));
    }
    const auto text = need(port::read_file(folder + "/device.pub", 4096));
    return need(port::parse_device_public({reinterpret_cast<const char*>(text.data()), text.size()}));
}

crypto::Public32 native_public() {
    const std::string folder = native_folder();
    need(port::make_native_port(folder)); // makes its key on first use
    need(port::provision_native(folder, home()));
    const auto text = need(port::read_file(folder + "/device.pub", 4096));
    return need(port::parse_device_public({reinterpret_cast<const char*>(text.data()), text.size()}));
}

/// Rising with every sealing, without a book of what was sealed where.
std::uint64_t next_version(const std::string& target) {
    const auto now = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
            .count());
    return std::max(now, package::version_of(target) + 1);
}

/// `chat_template`: instead of the model's own; may be empty. Notes go to stderr.
package::SealResult run_seal(package::SealOptions options, const std::string& chat_template) {
    if (options.version == 0) options.version = next_version(options.target);
    auto chat = package::chat_form_of_file(options.source, chat_template);
    if (!chat) throw std::runtime_error(options.source + ": " + chat.error().message);
    options.chat_form = std::move(chat->form);
    if (!chat->note.empty()) spdlog::info("note: {}", chat->note);
    const auto key = need(port::publisher_key(home()));
    ProgressBar bar;
    options.progress = [&bar](std::uint64_t done, std::uint64_t total) { bar(done, total); };
    auto sealed = package::seal(options, key);
    if (!sealed) throw std::runtime_error(options.source + ": " + sealed.error().message);
    if (!sealed->conversions.empty())
        spdlog::info("note: converted to Q8_0, the only quantised type that is computed with: {}", sealed->conversions);
    return std::move(*sealed);
}

/// TCG emulates AES slowly and ChaCha20 four times faster; processors with AES instructions are the other way
/// round (docs/package-format.md).
crypto::Cipher choose_cipher(const std::string& name, bool native) {
    if (name == "auto") return native ? crypto::Cipher::kAes256Gcm : crypto::Cipher::kChaCha20Poly1305;
    return need(crypto::cipher_from(name));
}

void seal(const SealArguments& arguments) {
    package::SealOptions options;
    options.source = arguments.source;
    const std::string output =
        arguments.output.empty() ? fs::path(arguments.source).stem().string() + kSuffix : arguments.output;
    if (!output.ends_with(kSuffix))
        throw std::runtime_error("the package's name must end with .flex: " + output);
    options.name = fs::path(output).stem().string();
    options.version = arguments.version;
    options.cipher = choose_cipher(arguments.cipher, arguments.native);
    if (!fs::exists(arguments.source)) throw std::runtime_error("there is no file " + arguments.source);

    std::string store;
    if (arguments.native) {
        options.device = native_public();
        store = native_folder() + "/store";
    } else if (!arguments.device.empty()) {
        auto text = port::read_file(arguments.device, 4096);
        if (!text) throw std::runtime_error(text.error().message);
        auto key = port::parse_device_public({reinterpret_cast<const char*>(text->data()), text->size()});
        if (!key) throw std::runtime_error(arguments.device + ": " + key.error().message);
        options.device = *key;
        store = ".";
    } else {
        const std::string folder = platform::device_folder().string();
        options.device = device_public(folder);
        store = folder + "/store";
    }
    // A bare name goes where the device looks for it; a path is taken as it is.
    options.target = output.find('/') == std::string::npos ? store + "/" + output : output;
    const auto sealed = run_seal(options, arguments.chat_template);
    const auto& m = sealed.manifest;
    if (json_wanted()) {
        std::printf("{\"package\":\"%s\",\"name\":\"%s\",\"version\":%llu,\"cipher\":\"%s\",\"bytes\":%llu,"
                    "\"chunks\":%zu}\n",
                    options.target.c_str(), m.name.c_str(), static_cast<unsigned long long>(m.version),
                    crypto::name_of(m.cipher), static_cast<unsigned long long>(m.file_bytes),
                    m.chunks.size());
    } else {
        std::printf("sealed %s: %zu tensors, %.1f MiB, %s, version %llu\n", options.target.c_str(),
                    sealed.tensors, static_cast<double>(m.file_bytes) / 1048576, crypto::name_of(m.cipher),
                    static_cast<unsigned long long>(m.version));
        std::printf("run it with: flexserve run %s%s\n", m.name.c_str(), arguments.native ? " --native" : "");
    }
}

} // namespace

std::string native_folder() { return home() + "/native"; }

namespace {
package::SealOptions options_for(const std::string& folder, const std::string& source, const std::string& name,
                                 crypto::Cipher cipher) {
    package::SealOptions options;
    options.source = source;
    options.name = name;
    options.target = folder + "/store/" + name + kSuffix;
    options.version = 0; // choose
    options.cipher = cipher;
    return options;
}
} // namespace

void seal_for(const std::string& folder, const std::string& source, const std::string& name,
              const std::string& cipher) {
    auto options = options_for(folder, source, name, choose_cipher(cipher, false));
    options.device = device_public(folder);
    run_seal(options, "");
}

void seal_native(const std::string& source, const std::string& name) {
    auto options = options_for(native_folder(), source, name, choose_cipher("auto", true));
    options.device = native_public();
    run_seal(options, "");
}

void register_seal(CLI::App& app) {
    auto arguments = std::make_shared<SealArguments>();
    CLI::App* command = app.add_subcommand("seal", "encrypt a GGUF model for one device");
    command->add_option("model", arguments->source, "the model, a GGUF file")->required();
    command->add_option(
        "-o,--output", arguments->output,
        "NAME.flex: into the device's store; a path with a slash: there (default: the model's name)");
    command
        ->add_option("--version", arguments->version,
                     "a device refuses versions older than one it has seen (default: seconds since 1970)")
        ->check(CLI::PositiveNumber);
    auto* device = command->add_option("--device", arguments->device, "another device's device.pub");
    command
        ->add_flag("--native", arguments->native, "for run --native on this machine, which protects nothing")
        ->excludes(device);
    command->add_option("--cipher", arguments->cipher, "auto, chacha20-poly1305, aes-256-gcm")
        ->capture_default_str()
        ->check(CLI::IsMember({"auto", "chacha20-poly1305", "aes-256-gcm"}));
    command->add_option("--template", arguments->chat_template,
                        "chat template instead of the model's own: chatml, llama3, or a file with a Jinja template");
    command->callback([arguments] { seal(*arguments); });
}

} // namespace flex::cli
