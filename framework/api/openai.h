// The JSON of the OpenAI-compatible API: requests parsed once into checked values, answers formatted.
// Reference: platform.openai.com/docs/api-reference (chat/create, completions/create, models, errors).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/generation.h"
#include "base/result.h"
#include "npu/driver/npu.h"
#include "tokenizer/chat.h"

namespace flex::api {

/// Bounds on what a request may hold, whatever its size in bytes.
inline constexpr std::size_t kMaxBodyBytes = 4u << 20;
inline constexpr std::size_t kMaxJsonDepth = 32;
inline constexpr std::size_t kMaxMessages = 1024;
inline constexpr std::size_t kMaxTools = 128;
inline constexpr std::size_t kMaxCalls = 64; ///< of one message
inline constexpr std::size_t kMaxStopStrings = 16;
inline constexpr std::size_t kMaxStopBytes = 256;

enum class Endpoint : std::uint8_t { kChat, kCompletion };

struct CompletionRequest {
    Endpoint endpoint = Endpoint::kChat;
    std::string model;
    tokenizer::Conversation conversation; ///< kChat
    std::string prompt;                   ///< kCompletion: text …
    std::vector<TokenId> prompt_tokens;   ///< … or tokens
    bool echo = false;
    bool stream = false;
    bool stream_usage = false;    ///< stream_options.include_usage
    bool return_tokens = false;   ///< extension: the ids of the answer's tokens in the (last) choice
    std::uint32_t max_tokens = 0; ///< 0: what the context holds
    bool has_seed = false;
    std::string cache_key;     ///< prompt_cache_key
    GenerationOptions options; ///< without max_tokens and scope
};

/// Error: kInvalidArgument, names the field.
Result<CompletionRequest> parse_request(Endpoint endpoint, std::string_view body);

/// What all parts of one answer have in common.
struct AnswerHead {
    Endpoint endpoint = Endpoint::kChat;
    std::string id; ///< "chatcmpl-…", "cmpl-…"
    std::int64_t created = 0;
    std::string model;
};

/// A whole answer (stream: false).
[[nodiscard]] std::string format_answer(const AnswerHead& head, const CompletionRequest& request,
                                        const std::string& text, const std::vector<AnswerLogprobs>& logprobs,
                                        const GenerationResult& result);

/// Parts of a streamed answer, each a complete server-sent event ("data: …\n\n").
[[nodiscard]] std::string format_first_event(const AnswerHead& head); ///< empty for kCompletion
[[nodiscard]] std::string format_text_event(const AnswerHead& head, const CompletionRequest& request,
                                            const std::string& text,
                                            const std::vector<AnswerLogprobs>& logprobs);
[[nodiscard]] std::string format_last_events(const AnswerHead& head, const CompletionRequest& request,
                                             const GenerationResult& result); ///< with [DONE]
[[nodiscard]] std::string format_error_event(const Error& error);

/// {"error": {"message", "type", "param", "code"}}
[[nodiscard]] std::string format_error(const Error& error);
[[nodiscard]] std::string format_http_error(int status); ///< when only the status is known
[[nodiscard]] int http_status(ErrorCode code);

[[nodiscard]] std::string format_models(const std::vector<std::string>& names);

struct ServerStatus {
    std::string protection;
    bool is_protected = false;
    double uptime_seconds = 0;
    port::MemoryInfo memory;
    std::vector<pipeline::ModelStatus> models;
    pipeline::CacheCounters cache;
    GeneratorStatus generator;
    std::optional<npu::Counters> npu;            ///< nothing: there is none
    std::optional<memory::KvStoreStatus> stored; ///< conversations; nothing: they are not stored
};
[[nodiscard]] std::string format_status(const ServerStatus& status);

/// The conversations of one owner.
[[nodiscard]] std::string format_sessions(const std::vector<pipeline::SessionInfo>& sessions);
[[nodiscard]] std::string format_deleted(std::size_t sessions);

} // namespace flex::api
