// flexserve seal | run | chat | demo: the user's side of the device.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace flex::cli {

/// Adds the subcommands to `app`. Failures leave their callbacks as std::exception with one line for the
/// user.
void register_client(CLI::App& app);
void register_seal(CLI::App& app);
void register_ask(CLI::App& app); ///< run, chat
void register_demo(CLI::App& app);
void register_agent(CLI::App& app);
void register_top(CLI::App& app);
void register_sessions(CLI::App& app);
void register_device_bench(CLI::App& app); ///< device bench; after `device` is registered

/// What a person decides about an answer.
struct AskOptions {
    double temperature = 0.7;
    double top_p = 0.95;
    unsigned top_k = 40;
    double min_p = 0;
    double repeat_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
    std::vector<std::string> logit_bias; ///< "ID=BIAS"
    std::vector<std::string> stop;
    std::optional<std::uint64_t> seed;
    unsigned max_tokens = 0; ///< 0: what the context holds
    std::string system;
    bool raw = false;         ///< plain completion, without the chat template
    bool no_thinking = false; ///< ask models that think aloud not to
    std::string npu;          ///< "on", "off", "auto"; empty: as the device does by itself
};

/// While one of these lives, Ctrl-C sets a flag (and makes a read return) instead of ending the program.
class InterruptGuard {
public:
    InterruptGuard();
    ~InterruptGuard();
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;
    /// One for the program; cleared when a guard begins.
    [[nodiscard]] static std::atomic<bool>& interrupted();
};

/// `text` without what could command a terminal: control characters but line ends and tabs.
[[nodiscard]] std::string printable(std::string_view text);

/// Seals `source` for the device in `folder` (its device.pub) into its store as NAME.flex; progress on stderr
/// when it takes long. Throws std::runtime_error.
void seal_for(const std::string& folder, const std::string& source, const std::string& name,
              const std::string& cipher);

/// The same for the pseudo-device of this machine.
void seal_native(const std::string& source, const std::string& name);

/// Folder of the pseudo-device that runs on this machine without protection.
[[nodiscard]] std::string native_folder();

} // namespace flex::cli
