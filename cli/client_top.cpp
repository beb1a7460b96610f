// flexserve top: what the device is doing, as a picture that renews itself.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/client_api.h"
#include "cli/client_metrics.h"
#include "cli/client_top_view.h"
#include "cli/output.h"
#include "launcher/device.h"

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxColumns = 160;
constexpr int kNativePort = 8443; // flexserved's own default
// What Linux' module tells of the monitor (linux/README.md); one shell command for all, since each costs the
// device some.
constexpr const char* kReadStats =
    "cd /sys/class/misc/flexserve && grep -s . monitor/aborts_* monitor/dma_faults monitor/calls_denied "
    "monitor/registers_denied monitor/lists_refused npu/state npu/jobs; true";

struct TopArguments {
    double interval = 2;
    bool once = false, native = false, token = false;
    int port = 0;
};

/// Where the figures come from.
class Source {
public:
    explicit Source(const TopArguments& arguments) {
        if (arguments.native) {
            const int port = arguments.port != 0 ? arguments.port : kNativePort;
            client_ = std::make_unique<ApiClient>(
                connect_natively(static_cast<std::uint16_t>(port), native_folder()));
            return;
        }
        device_ = std::make_unique<platform::Device>(platform::device_folder());
        client_ = std::make_unique<ApiClient>(connect_to(*device_));
    }
    TopSnapshot look() {
        TopSnapshot out;
        out.metrics = Metrics::parse(client_->metrics());
        out.has_stats = device_ != nullptr;
        if (device_)
            out.stats = parse_stats(device_->exec_text(kReadStats, nullptr, std::chrono::seconds(10)));
        return out;
    }

private:
    std::unique_ptr<platform::Device> device_; // null: native
    std::unique_ptr<ApiClient> client_;
};

Json to_json(const TopSnapshot& snapshot) {
    Json json = {{"metrics", Json::array()}, {"device", Json::object()}};
    for (const Sample& sample : snapshot.metrics.samples())
        json["metrics"].push_back(
            {{"name", sample.name}, {"labels", sample.labels}, {"value", sample.value}});
    for (const auto& [name, value] : snapshot.stats) json["device"][name] = value;
    return json;
}

/// Alternate screen, no echo, no waiting for Enter: undone however the program leaves the scope.
class FullScreen {
public:
    FullScreen() : active_(::tcgetattr(STDIN_FILENO, &saved_) == 0) {
        if (active_) {
            termios raw = saved_;
            raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO); // ISIG stays: Ctrl-C is InterruptGuard's
            ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
        }
        std::fputs("\033[?1049h\033[?25l", stdout);
        std::fflush(stdout);
    }
    ~FullScreen() {
        std::fputs("\033[?25h\033[?1049l", stdout);
        std::fflush(stdout);
        if (active_) ::tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
    }
    FullScreen(const FullScreen&) = delete;
    FullScreen& operator=(const FullScreen&) = delete;

    void show(const std::string& page) const {
        std::string out = "\033[H";
        for (const char c : page) out += c == '\n' ? std::string("\033[K\n") : std::string(1, c);
        std::fputs((out + "\033[J").c_str(), stdout);
        std::fflush(stdout);
    }
    /// Waits; true when somebody pressed q.
    [[nodiscard]] bool wait(double seconds) const {
        pollfd input{active_ ? STDIN_FILENO : -1, POLLIN, 0};
        if (::poll(&input, 1, static_cast<int>(seconds * 1000)) <= 0) return false;
        char key = 0;
        const ssize_t got = ::read(STDIN_FILENO, &key, 1);
        return got <= 0 || key == 'q' || key == 'Q';
    }

private:
    termios saved_{};
    bool active_;
};

int columns() {
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? std::min<int>(size.ws_col, kMaxColumns) : 100;
}

void watch(Source& source, double interval) {
    const InterruptGuard guard;
    const FullScreen screen;
    while (!InterruptGuard::interrupted()) {
        std::string page;
        try {
            page = render_top(source.look(), columns());
        } catch (const std::exception& error) { // it may come back
            page = std::string("flexserve top: ") + error.what() + "\n";
        }
        screen.show(page + "\nq or Ctrl-C ends\n");
        if (screen.wait(interval)) return;
    }
}

void top(const TopArguments& arguments) {
    if (arguments.token) {
        const std::string token = arguments.native
                                      ? operator_token_natively(native_folder())
                                      : operator_token(platform::Device(platform::device_folder()));
        std::printf("%s\n", token.c_str());
        return;
    }
    Source source(arguments);
    if (!json_wanted() && !arguments.once && ::isatty(STDOUT_FILENO))
        return watch(source, arguments.interval);
    const InterruptGuard guard;
    do {
        const TopSnapshot snapshot = source.look();
        std::printf("%s\n",
                    json_wanted()
                        ? to_json(snapshot).dump(-1, ' ', false, Json::error_handler_t::replace).c_str()
                        : render_top(snapshot, columns()).c_str());
        std::fflush(stdout);
        if (!arguments.once) ::usleep(static_cast<useconds_t>(arguments.interval * 1e6)); // Ctrl-C ends it
    } while (!arguments.once && !InterruptGuard::interrupted());
}

} // namespace

void register_top(CLI::App& app) {
    auto arguments = std::make_shared<TopArguments>();
    CLI::App* command = app.add_subcommand(
        "top", "what the device is doing: frames, models in memory, sessions, faults blocked");
    command->add_option("-i,--interval", arguments->interval, "seconds between two looks")
        ->capture_default_str()
        ->check(CLI::Range(0.2, 60.0));
    command->add_flag("--once", arguments->once, "one look, and stop");
    command->add_flag("--token", arguments->token,
                      "print the operator's token, for whoever reads /metrics, and stop");
    auto* native = command->add_flag("--native", arguments->native,
                                     "of a flexserved on this machine (--home of flexserve's native folder)");
    command->add_option("--port", arguments->port, "its port (default 8443)")
        ->needs(native)
        ->check(CLI::Range(1, 65535));
    command->callback([arguments] { top(*arguments); });
}

} // namespace flex::cli
