// flexserve demo: boot if needed, seal if needed, ask, show what was protected.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <spdlog/spdlog.h>

#include "cli/client.h"
#include "cli/client_api.h"
#include "cli/output.h"
#include "launcher/device.h"

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kModel = "demo";
constexpr const char* kQuestion = "What is Flex-Mem?";
constexpr std::chrono::seconds kBootTimeout(180);

std::atomic<bool> interrupted{false};

/// One attack from the normal-world kernel and how it ended; filled in by `flexserve attack --brief`.
struct AttackLine {
    std::string what;
    bool blocked = false;
    std::string how;
};

/// What an attacker in the normal world's kernel sees right now. Empty where the attack command is not part of this
/// build.
std::vector<AttackLine> attack_lines() { return {}; }

void ensure_running(platform::Device& device) {
    if (device.running()) return;
    spdlog::info("booting the device");
    device.start(platform::MachineOptions());
    device.wait_ready(
        kBootTimeout,
        [](std::string_view stage, std::chrono::milliseconds at) {
            spdlog::info("  {:5.1f} s  {}", static_cast<double>(at.count()) / 1000, stage);
        },
        &interrupted);
}

/// Seals the built-in model when the store has none, or an older one than the repository.
void ensure_sealed(const platform::Device& device) {
    const fs::path source = platform::repository() / "models/demo/demo.gguf";
    const fs::path package = device.folder() / "store" / (std::string(kModel) + ".flex");
    if (!fs::exists(source)) throw std::runtime_error("the demo model is missing: " + source.string());
    if (fs::exists(package) && fs::last_write_time(package) >= fs::last_write_time(source)) return;
    spdlog::info("sealing the demo model for this device");
    seal_for(device.folder().string(), source.string(), kModel, "auto");
}

double mebibytes(std::uint64_t frames) { return static_cast<double>(frames) * 4096 / 1048576; }

void print_panel(const Answer& answer, const DeviceStatus& before, const DeviceStatus& during,
                 const std::vector<AttackLine>& attacks) {
    std::printf("\n  memory, in frames of 4 KiB, by Flex-Monitor's table\n");
    std::printf("             %12s %12s\n", "before", "with model");
    const struct {
        const char* name;
        std::uint64_t before, during;
    } rows[] = {{"Normal", before.normal, during.normal},
                {"Flex", before.flex, during.flex},
                {"Adopted", before.adopted, during.adopted},
                {"Released", before.released, during.released}};
    for (const auto& row : rows) {
        std::printf("    %-8s %12llu %12llu   (%.1f MiB)\n", row.name, static_cast<unsigned long long>(row.before),
                    static_cast<unsigned long long>(row.during), mebibytes(row.during));
    }
    std::printf("\n  first token after %.0f ms: allocate %.1f, load %.1f, decrypt %.1f, compute %.1f ms\n", answer.ttft_ms,
                answer.allocate_ms, answer.load_ms, answer.decrypt_ms, answer.compute_ms);
    std::printf("  %u tokens in, %u tokens out, %.1f tokens/s\n", answer.prompt_tokens, answer.completion_tokens,
                answer.tokens_per_second);
    if (attacks.empty()) return;
    std::printf("\n  what an attacker in the normal world's kernel just saw\n");
    for (const AttackLine& line : attacks) {
        std::printf("    %-7s  %s: %s\n", line.blocked ? "blocked" : "BREACH", line.what.c_str(), line.how.c_str());
    }
}

void demo(const std::string& question) {
    std::signal(SIGINT, [](int) { interrupted = true; });
    platform::Device device(platform::device_folder());
    ensure_running(device);
    ensure_sealed(device);
    const auto state = device.running();
    if (!state) throw std::runtime_error("the device ended; see: flexserve device logs");
    ApiClient client(state->https_port, (device.folder() / "device-ca.pem").string());
    const DeviceStatus before = client.status();
    AskOptions options;
    options.temperature = 0;
    if (!json_wanted()) std::printf("\n> %s\n", question.c_str());
    const Answer answer = client.ask(
        kModel, {{"user", question}}, options, "",
        [](const std::string& text) {
            if (json_wanted()) return;
            std::fwrite(text.data(), 1, text.size(), stdout);
            std::fflush(stdout);
        },
        &interrupted);
    if (answer.interrupted) throw Exit{130};
    const DeviceStatus during = client.status();
    if (json_wanted()) {
        std::printf("%s\n", to_json(answer, kModel, during.is_protected).c_str());
        return;
    }
    std::printf("\n");
    print_panel(answer, before, during, attack_lines());
    std::printf("\n  go on with: flexserve chat %s\n", kModel);
}

} // namespace

void register_demo(CLI::App& app) {
    auto question = std::make_shared<std::string>(kQuestion);
    CLI::App* command = app.add_subcommand("demo", "boot the device, ask the built-in model, show what was protected");
    command->add_option("question", *question, "what to ask")->capture_default_str();
    command->callback([question] { demo(*question); });
}

} // namespace flex::cli
