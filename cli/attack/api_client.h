// A client of the device's HTTPS API as an attacker or a test needs it: pins the device's certificate, reports failures as values, and
// shows what a polite client hides.
//
// Thread-safety: each call opens a connection of its own; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace flex::attack {

struct Query {
    std::string model;
    std::string prompt;                      ///< text …
    std::vector<std::uint32_t> prompt_tokens; ///< … or token ids
    bool chat = false;                       ///< /v1/chat/completions with `prompt` as the user's message
    std::uint32_t max_tokens = 16;
    std::string extra; ///< further members of the JSON object, e.g. `"return_logits":true`
    std::chrono::milliseconds timeout{60000};
};

/// An HTTP answer; status 0: there was none, and `error` says why.
struct Reply {
    int status = 0;
    std::string body;
    std::string error;
};

struct Completion {
    bool ok = false;
    int status = 0;                    ///< as Reply
    std::string error;                 ///< the server's message, or why there was no answer
    std::string text;
    std::vector<std::uint32_t> tokens; ///< of the answer, without the one that ended it
    std::string finish_reason;
    std::uint32_t prompt_tokens = 0, cached_tokens = 0; ///< the latter: of the former, not computed again
    std::string logits; ///< after the prompt, as the JSON has them: equal texts are equal bits; only when asked for
    std::string body; ///< the JSON as it came (not streamed answers)

    /// The same answer, token for token.
    [[nodiscard]] bool same_as(const Completion& other) const {
        return ok && other.ok && text == other.text && tokens == other.tokens;
    }
};

class ApiClient {
public:
    /// ca_file: the only certificate authority believed (PEM).
    ApiClient(std::filesystem::path ca_file, std::uint16_t port) : ca_file_(std::move(ca_file)), port_(port) {}

    /// The same for a caller who brings this API key.
    [[nodiscard]] ApiClient as(std::string api_key) const {
        ApiClient other = *this;
        other.api_key_ = std::move(api_key);
        return other;
    }
    /// The same with the operator's token besides (framework/api/operator.h).
    [[nodiscard]] ApiClient as_operator(std::string token) const {
        ApiClient other = *this;
        other.operator_token_ = std::move(token);
        return other;
    }

    [[nodiscard]] std::uint16_t port() const { return port_; }
    [[nodiscard]] const std::filesystem::path& ca_file() const { return ca_file_; }

    [[nodiscard]] Reply get(const std::string& path, std::chrono::milliseconds timeout = std::chrono::seconds(10)) const;
    [[nodiscard]] Reply post(const std::string& path, const std::string& body,
                             std::chrono::milliseconds timeout = std::chrono::seconds(60)) const;

    /// DELETE.
    [[nodiscard]] Reply remove(const std::string& path, std::chrono::milliseconds timeout = std::chrono::seconds(20)) const;

    /// Greedy (temperature 0).
    [[nodiscard]] Completion complete(const Query& query) const;
    /// The same, streamed. `on_text` gets each piece; false hangs up.
    [[nodiscard]] Completion stream(const Query& query, const std::function<bool(std::string_view)>& on_text) const;

private:
    std::filesystem::path ca_file_;
    std::uint16_t port_;
    std::string api_key_, operator_token_; // empty: none
};

} // namespace flex::attack
