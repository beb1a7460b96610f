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
#include "package/package.h"
#ifdef FLEX_HAS_ATTACK
#include "cli/attack/runner.h"
#endif

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kModel = "demo";
constexpr const char* kQuestion = "What is Flex-Mem?";
constexpr std::chrono::seconds kBootTimeout(180);

std::atomic<bool> interrupted{false};

void ensure_running(platform::Device& device) {
    if (device.running()) return;
    spdlog::info("booting the device");
    platform::MachineOptions options;
    options.attack_devices = true; // the panel shows what becomes of their DMA
    device.start(options);
    device.wait_ready(
        kBootTimeout,
        [](std::string_view stage, std::chrono::milliseconds at) {
            spdlog::info("  {:5.1f} s  {}", static_cast<double>(at.count()) / 1000, stage);
        },
        &interrupted);
}

fs::path demo_source() { return platform::repository() / "models/demo/demo.gguf"; }

/// Seals the built-in model when the store has none, an older one than the repository, or one of another
/// format.
void ensure_sealed(const platform::Device& device) {
    const fs::path source = demo_source();
    const fs::path package = device.folder() / "store" / (std::string(kModel) + ".flex");
    if (!fs::exists(source)) throw std::runtime_error("the demo model is missing: " + source.string());
    if (fs::exists(package) && package::version_of(package.string()) != 0 &&
        fs::last_write_time(package) >= fs::last_write_time(source))
        return;
    spdlog::info("sealing the demo model for this device");
    seal_for(device.folder().string(), source.string(), kModel, "auto");
}

double mebibytes(std::uint64_t frames) { return static_cast<double>(frames) * 4096 / 1048576; }

void print_panel(const Answer& answer, const DeviceStatus& before, const DeviceStatus& during) {
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
        std::printf("    %-8s %12llu %12llu   (%.1f MiB)\n", row.name,
                    static_cast<unsigned long long>(row.before), static_cast<unsigned long long>(row.during),
                    mebibytes(row.during));
    }
    std::printf("\n  first token after %.0f ms (parts overlap): check %.0f, allocate %.0f, load %.0f, "
                "decrypt %.0f, compute %.0f\n",
                answer.ttft_ms, answer.prepare_ms, answer.allocate_ms, answer.load_ms, answer.decrypt_ms,
                answer.compute_ms);
    std::printf("  %u tokens in, %u tokens out, %.1f tokens/s\n", answer.prompt_tokens,
                answer.completion_tokens, answer.tokens_per_second);
}

/// What a hostile kernel in the normal world sees right now, each attack printed as it ends. Returns whether
/// all of them were held off.
bool print_attacks(platform::Device& device, const fs::path& model) {
#ifdef FLEX_HAS_ATTACK
    std::printf("\n  and what an attacker in the normal world's kernel sees when it tries\n");
    std::fflush(stdout);
    attack::Target target(device, model);
    target.prepare();
    bool good = true;
    for (const attack::Attack& attack : attack::all_attacks()) {
        if (!attack.brief || interrupted) continue;
        const attack::Report report = attack::carry_out(attack, target);
        good = good && report.good();
        std::printf("    %-7s  %s: %s\n", attack::name_of(report.outcome.verdict), attack.does.c_str(),
                    report.outcome.how.c_str());
        if (!report.damage.empty()) std::printf("    DAMAGE   %s\n", report.damage.c_str());
        std::fflush(stdout);
    }
    return good;
#else
    static_cast<void>(device);
    static_cast<void>(model);
    return true;
#endif
}

void demo(const std::string& question) {
    std::signal(SIGINT, [](int) { interrupted = true; });
    platform::Device device(platform::device_folder());
    ensure_running(device);
    ensure_sealed(device);
    ApiClient client = connect_to(device);
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
    print_panel(answer, before, during);
    const bool good = print_attacks(device, demo_source());
    std::printf("\n  go on with: flexserve chat %s\n", kModel);
    if (!good) throw Exit{1};
}

} // namespace

void register_demo(CLI::App& app) {
    auto question = std::make_shared<std::string>(kQuestion);
    CLI::App* command =
        app.add_subcommand("demo", "boot the device, ask the built-in model, show what was protected");
    command->add_option("question", *question, "what to ask")->capture_default_str();
    command->callback([question] { demo(*question); });
}

} // namespace flex::cli
