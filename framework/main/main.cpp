// flexserved: serves sealed models over HTTPS. In the device it is the only program of the secure world and
// takes no arguments; on Linux it is the same program without protection, for development.
//
//   flexserved [--home FOLDER] [--address A] [--port N] [--threads N] [--context N] [--kv f32|f16|q8_0]
//              [--cache MIB] [--stored-kv MIB] [--stored-kv-patience MS] [--npu on|off|auto]
//              [--gguf NAME=FILE]...
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "api/server.h"
#include "api/tls.h"
#include "npu/driver/linux_npu.h"
#include "npu/driver/secure.h"
#include "port/identity.h"
#ifdef FLEX_HAS_CHAT_COMPILER
#include "package/chat_compiler.h"
#endif

namespace {

using flex::Result;
using flex::Status;

// Thread stacks come out of protected memory in the device; glibc's default of 8 MiB each would waste it.
constexpr std::size_t kStackBytes = 1u << 20;

// Each arena keeps free memory of its own, which in the device is protected memory that others lack.
constexpr int kArenas = 2;
constexpr int kLargeBytes = 128 << 10;

constexpr std::uint64_t kStoredKvBytes = 1u << 30; // of the store, for idle conversations

struct Arguments {
    std::string home;
    flex::api::ServerOptions server;
    std::vector<std::pair<std::string, std::string>> gguf;
    bool endpoint_given = false;
};

Result<std::uint32_t> number(const char* text, std::uint32_t most) {
    char* end = nullptr;
    const unsigned long value = std::strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value > most) {
        return flex::fail(flex::ErrorCode::kInvalidArgument,
                          std::string("not a number up to ") + std::to_string(most) + ": " + text);
    }
    return static_cast<std::uint32_t>(value);
}

Status set(Arguments& arguments, const std::string& name, const char* value) {
    if (name == "--home") {
        arguments.home = value;
    } else if (name == "--address") {
        arguments.server.endpoint.address = value;
    } else if (name == "--port") {
        FLEX_ASSIGN(const auto port, number(value, 65535));
        arguments.server.endpoint.port = static_cast<std::uint16_t>(port);
    } else if (name == "--threads") {
        FLEX_ASSIGN(arguments.server.models.threads, number(value, 64));
    } else if (name == "--context") {
        FLEX_ASSIGN(arguments.server.models.context, number(value, 1u << 20));
    } else if (name == "--cache") {
        FLEX_ASSIGN(const std::uint64_t mib, number(value, 1u << 24));
        arguments.server.models.cache_bytes = mib << 20;
    } else if (name == "--stored-kv") {
        FLEX_ASSIGN(const std::uint64_t mib, number(value, 1u << 24));
        arguments.server.models.stored_kv_bytes = mib << 20;
    } else if (name == "--stored-kv-patience") {
        FLEX_ASSIGN(const std::uint32_t ms, number(value, 3600000));
        arguments.server.models.restore_patience = std::chrono::milliseconds(ms);
    } else if (name == "--kv") {
        FLEX_ASSIGN(arguments.server.models.kv, flex::engine::kv_type(value));
    } else if (name == "--npu") {
        FLEX_ASSIGN(arguments.server.models.npu_use, flex::engine::npu_use(value));
    } else if (const char* file = std::strchr(value, '='); name == "--gguf" && file != nullptr) {
        arguments.gguf.emplace_back(std::string(value, file), file + 1);
    } else {
        return flex::fail(flex::ErrorCode::kInvalidArgument, "unknown argument " + name + " " + value);
    }
    return {};
}

Result<std::unique_ptr<flex::port::Port>> make_port(const Arguments& arguments) {
    auto device = flex::port::make_device_port();
    if (device) return device;
    if (arguments.home.empty()) {
        return flex::fail(flex::ErrorCode::kInvalidArgument, "--home FOLDER is needed outside the device");
    }
    return flex::port::make_native_port(arguments.home);
}

/// Under the trusted OS the one that it gives (whether there is one shows when it is first used), on Linux
/// that of its driver.
Result<std::unique_ptr<flex::npu::Npu>> open_npu(flex::port::Port& port) {
    if (port.is_protected()) {
        FLEX_ASSIGN(auto npu, flex::npu::SecureNpu::create(port, {}));
        return std::unique_ptr<flex::npu::Npu>(std::move(npu));
    }
    FLEX_ASSIGN(auto npu, flex::npu::LinuxNpu::create(port));
    return std::unique_ptr<flex::npu::Npu>(std::move(npu));
}

/// Null: there is none, or it is not to be used.
Result<std::unique_ptr<flex::npu::Npu>> make_npu(flex::port::Port& port, flex::engine::NpuUse use) {
    using flex::ErrorCode;
    std::unique_ptr<flex::npu::Npu> none;
    if (use == flex::engine::NpuUse::kOff) return none;
    auto npu = open_npu(port);
    if (use == flex::engine::NpuUse::kOn) {
        FLEX_TRY(npu.ok() ? Status() : npu.error());
        // That the normal world does not give it now is no reason not to start.
        const Status begun = (*npu)->begin();
        if (!begun && begun.error().code != ErrorCode::kBusy) return begun.error();
        if (begun) (*npu)->end(false);
    } else if (!npu) {
        if (npu.error().code != ErrorCode::kUnsupported)
            std::fprintf(stderr, "flexserved: without an NPU: %s\n", npu.error().message.c_str());
        return none;
    }
    return npu;
}

/// Chat templates are compiled on a publisher's machine: in the device there are only packages that have this
/// behind them.
Result<std::vector<std::byte>> chat_form_of(const std::string& gguf) {
#ifdef FLEX_HAS_CHAT_COMPILER
    FLEX_ASSIGN(auto chat, flex::package::chat_form_of_file(gguf, ""));
    if (!chat.note.empty()) std::fprintf(stderr, "flexserved: %s: %s\n", gguf.c_str(), chat.note.c_str());
    return std::move(chat.form);
#else
    static_cast<void>(gguf);
    return std::vector<std::byte>();
#endif
}

Status serve(Arguments arguments) {
    flex::crypto::initialise();
    FLEX_ASSIGN(const auto port, make_port(arguments));
    auto& options = arguments.server;
    FLEX_ASSIGN(const auto npu, make_npu(*port, options.models.npu_use));
    options.models.npu = npu.get();
    const auto endpoint = port->default_endpoint();
    if (options.endpoint.address.empty()) options.endpoint = {endpoint.address, options.endpoint.port};
    if (options.endpoint.port == 0 && !arguments.endpoint_given) options.endpoint.port = endpoint.port;
    // Accepting fails for good only when the world around misbehaves; serving goes on as soon as it stops.
    for (;;) {
        FLEX_ASSIGN(const auto server, flex::api::Server::create(*port, options));
        for (const auto& [name, file] : arguments.gguf) {
            FLEX_ASSIGN(const auto form, chat_form_of(file));
            FLEX_TRY(server->models().add_gguf(name, file, form));
        }
        std::fprintf(stderr, "flexserved: ready on https://%s:%u, %s\n", options.endpoint.address.c_str(),
                     server->port(), port->name());
        const auto status = server->run();
        if (status) return {};
        std::fprintf(stderr, "flexserved: %s; starting again\n", status.error().message.c_str());
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}

unsigned cores() {
    const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
    return online < 1 ? 1 : static_cast<unsigned>(online);
}

} // namespace

int main(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN);
    // Setting the thresholds keeps glibc from raising them: what a model leaves free goes back to its owner.
    mallopt(M_ARENA_MAX, kArenas);
    mallopt(M_MMAP_THRESHOLD, kLargeBytes);
    mallopt(M_TRIM_THRESHOLD, kLargeBytes);
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) == 0) {
        pthread_attr_setstacksize(&attributes, kStackBytes);
        pthread_setattr_default_np(&attributes);
        pthread_attr_destroy(&attributes);
    }
    Arguments arguments;
    arguments.server.models.threads = cores();
    arguments.server.models.stored_kv_bytes = kStoredKvBytes;
    Status status;
    for (int i = 1; status && i < argc; i += 2) {
        if (std::strcmp(argv[i], "--port") == 0) arguments.endpoint_given = true;
        status = set(arguments, argv[i], i + 1 < argc ? argv[i + 1] : "");
    }
    if (status) status = serve(std::move(arguments));
    if (!status) {
        std::fprintf(stderr, "flexserved: %s\n", status.error().message.c_str());
        return 1;
    }
    return 0;
}
