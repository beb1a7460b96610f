// flex-agentd: serves the files and streams that the secure world asks for. Untrusted: it carries ciphertext.
#include "linux/agent/control.h"
#include "linux/agent/device.h"
#include "linux/agent/hostile.h"
#include "linux/agent/log.h"
#include "linux/agent/pressure.h"
#include "linux/agent/server.h"
#include "linux/agent/supervisor.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <getopt.h>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace flex::agent {
namespace {

struct Options {
    std::string device = FLEXSERVE_DEVICE;
    std::string store = "/store";
    std::string data = "/data";
    std::string console = "/dev/console";
    std::string log = "/var/log/flex-agentd.log";
    std::string hostile = "/run/flex-hostile";
    std::uint16_t control_port = 7001;
    bool start = true;
};

class Agent {
public:
    explicit Agent(const Options& options)
        : options_(options), log_(options.console, options.log), device_(options.device),
          server_(handles_, options.store, options.data, log_),
          supervisor_([this] { return device_.start(); }, log_, std::chrono::seconds(1)) {}

    void run() {
        // As many as there are slots: a slot that blocks never keeps another waiting.
        std::vector<std::thread> workers;
        for (unsigned i = 0; i < FLEX_RPC_SLOTS; i++) workers.emplace_back([this] { work(); });
        if (options_.start) {
            // A program left over from an agent that died has lost all its handles: it cannot go on.
            device_.stop();
            std::thread([this] { supervisor_.run(); }).detach();
        }
        std::thread([this] { watch_pressure("/proc/pressure/memory", "/sys/class/misc/flexserve", log_); }).detach();
        if (options_.control_port) serve_control_port(options_.control_port);
        for (auto& worker : workers) worker.join();
    }

private:
    [[noreturn]] void work() {
        std::mt19937_64 random(std::random_device{}());
        for (;;) {
            auto event = device_.next();
            if (!event) continue;
            if (event->type == FLEXSERVE_EVENT_RPC) serve(event->slot, random());
            if (event->type == FLEXSERVE_EVENT_EXITED) {
                if (supervisor_.ended(event->slot, event->value)) handles_.close_all();
            }
        }
    }

    void serve(unsigned number, std::uint64_t random) {
        flex_rpc_slot& slot = device_.slot(number);
        Liar liar(HostileMode::read(options_.hostile), random);
        if (!liar.before(slot)) {
            if (slot.op == FLEX_RPC_LOAD) return load(slot, number);
            do {
                serve_once(slot);
            } while (liar.again(slot));
            liar.after(slot);
        }
        device_.done(number);
    }

    void serve_once(flex_rpc_slot& slot) {
        Request request(slot);
        try {
            server_.serve(request);
        } catch (const std::bad_alloc&) {
            request.finish(-ENOMEM);
        }
    }

    // The driver completes the slot, also when it fails.
    void load(flex_rpc_slot& slot, unsigned number) {
        Request request(slot);
        auto file = handles_.find(request.argument(0));
        if (file && file->kind == HandleKind::kFile) {
            device_.load(number, file->descriptor.get());
            return;
        }
        request.finish(-EBADF);
        device_.done(number);
    }

    Options options_;
    Log log_;
    Device device_;
    HandleTable handles_;
    Server server_;
    Supervisor supervisor_;
};

[[noreturn]] void usage(const char* name, int status) {
    std::fprintf(
        status ? stderr : stdout,
        "usage: %s [--store DIR] [--data DIR] [--log FILE] [--console FILE] [--control-port N (0: none)]\n"
        "       [--hostile-file FILE] [--no-start]\n",
        name);
    std::exit(status);
}

Options parse(int argc, char** argv) {
    enum { kStore = 1, kData, kLog, kConsole, kControl, kHostile, kNoStart, kHelp };
    const option known[] = {{"store", required_argument, nullptr, kStore},
                            {"data", required_argument, nullptr, kData},
                            {"log", required_argument, nullptr, kLog},
                            {"console", required_argument, nullptr, kConsole},
                            {"control-port", required_argument, nullptr, kControl},
                            {"hostile-file", required_argument, nullptr, kHostile},
                            {"no-start", no_argument, nullptr, kNoStart},
                            {"help", no_argument, nullptr, kHelp},
                            {nullptr, 0, nullptr, 0}};
    Options options;
    for (int c = 0; (c = getopt_long(argc, argv, "", known, nullptr)) != -1;) {
        switch (c) {
        case kStore:
            options.store = optarg;
            break;
        case kData:
            options.data = optarg;
            break;
        case kLog:
            options.log = optarg;
            break;
        case kConsole:
            options.console = optarg;
            break;
        case kControl:
            options.control_port = static_cast<std::uint16_t>(std::strtoul(optarg, nullptr, 10));
            break;
        case kHostile:
            options.hostile = optarg;
            break;
        case kNoStart:
            options.start = false;
            break;
        case kHelp:
            usage(argv[0], 0);
        default:
            usage(argv[0], 2);
        }
    }
    if (optind != argc) usage(argv[0], 2);
    return options;
}

} // namespace
} // namespace flex::agent

int main(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN);
    try {
        flex::agent::Agent(flex::agent::parse(argc, argv)).run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "flex-agentd: %s\n", error.what());
        return 1;
    }
}
