// An HTTPS client of the framework's API that talks to one pinned device only.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/client.h"
#include "launcher/device.h"

namespace flex::cli {

struct Message {
    std::string role, content;
};

struct Answer {
    std::string text;
    std::string finish_reason; ///< "stop", "length"; empty when interrupted
    bool interrupted = false;
    unsigned prompt_tokens = 0, completion_tokens = 0;
    double prepare_ms = 0, allocate_ms = 0, load_ms = 0, decrypt_ms = 0, compute_ms = 0, ttft_ms = 0,
           tokens_per_second = 0;
    unsigned npu_passes = 0; ///< that the NPU computed, prompt and answer
    double npu_ms = 0;       ///< they took
};

/// How much of a model is in memory: its first stages.
struct Residency {
    std::string model;
    unsigned stages = 0, loaded = 0;
    std::uint64_t bytes = 0, bytes_loaded = 0;
};

/// Of GET /flexserve/status, which is the operator's.
struct DeviceStatus {
    std::string protection;
    bool is_protected = false;
    std::uint64_t normal = 0, shared = 0, flex = 0, adopted = 0, released = 0; ///< frames of 4 KiB
    std::uint64_t mapped_bytes = 0;
    std::vector<Residency> models; ///< open, wholly in memory or in part
    /// That the NPU has ended, and what they took by its own count; 0 without one.
    std::uint64_t npu_jobs = 0, npu_busy_ns = 0;
    /// How often the secure world took it from Linux, and what taking it and giving it back took in all.
    std::uint64_t npu_switches = 0, npu_acquire_ns = 0, npu_release_ns = 0;
};

/// One thread. All functions throw std::runtime_error with one line for the user.
class ApiClient {
public:
    /// `ca_file`: the only certificate authority that is believed (the device's device-ca.pem).
    /// `operator_token`: for status() and metrics() alone; clients do without.
    ApiClient(std::uint16_t port, const std::string& ca_file, std::string operator_token = {});
    ~ApiClient();
    ApiClient(ApiClient&&) noexcept;

    /// Asks and hands out the text as it comes. `conversation`: secret name under which the device may keep
    /// what it has computed for the next question; empty: none. When `*interrupt` becomes true the answer
    /// stops there.
    Answer ask(const std::string& model, const std::vector<Message>& messages, const AskOptions& options,
               const std::string& conversation, const std::function<void(const std::string&)>& on_text,
               const std::atomic<bool>* interrupt = nullptr);

    /// Sends `body` and hands out each event of the streamed answer (JSON) as it comes. False: interrupted.
    bool stream(const std::string& path, const std::string& body,
                const std::function<void(std::string_view)>& on_event,
                const std::atomic<bool>* interrupt = nullptr);
    /// One of the caller's sessions, or all (`id` empty): the list as JSON, or how many were deleted. The
    /// caller is known by `api_key`, else by `conversation` (prompt_cache_key of its requests).
    struct Caller {
        std::string api_key, conversation;
    };
    std::string sessions(const Caller& caller);
    std::size_t delete_sessions(const Caller& caller, const std::string& id);

    std::vector<std::string> models();
    DeviceStatus status();
    /// Prometheus text.
    std::string metrics();

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// The operator's token of a device, or of what serves natively from `folder`. Throws when that was never
/// made.
[[nodiscard]] std::string operator_token(const platform::Device& device);
[[nodiscard]] std::string operator_token_natively(const std::string& folder);

/// A client, with that token, of the device if it runs, or of what serves natively from `folder` at `port`.
[[nodiscard]] ApiClient connect_to(const platform::Device& device);
[[nodiscard]] ApiClient connect_natively(std::uint16_t port, const std::string& folder);

/// An Answer as one line of JSON, for scripts.
[[nodiscard]] std::string to_json(const Answer& answer, const std::string& model, bool is_protected);

} // namespace flex::cli
