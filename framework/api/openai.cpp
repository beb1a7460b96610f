#include "api/openai.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/json_depth.h"

namespace flex::api {
namespace {

using Json = nlohmann::ordered_json;

Error invalid(const std::string& what) { return fail(ErrorCode::kInvalidArgument, what); }

/// The field, or null when it is absent or null (which the API treats alike).
const Json* field(const Json& object, const char* name) {
    const auto found = object.find(name);
    return found == object.end() || found->is_null() ? nullptr : &*found;
}

Status read_bool(const Json& object, const char* name, bool& out) {
    const Json* value = field(object, name);
    if (value == nullptr) return {};
    if (!value->is_boolean()) return invalid(std::string(name) + " must be true or false");
    out = value->get<bool>();
    return {};
}

Status read_float(const Json& object, const char* name, float& out) {
    const Json* value = field(object, name);
    if (value == nullptr) return {};
    if (!value->is_number()) return invalid(std::string(name) + " must be a number");
    out = static_cast<float>(value->get<double>());
    return {};
}

Status read_count(const Json& object, const char* name, std::uint32_t& out, std::uint32_t least) {
    const Json* value = field(object, name);
    if (value == nullptr) return {};
    if (!value->is_number_unsigned() || value->get<std::uint64_t>() > UINT32_MAX ||
        value->get<std::uint64_t>() < least) {
        return invalid(std::string(name) + " must be a whole number, at least " + std::to_string(least));
    }
    out = value->get<std::uint32_t>();
    return {};
}

/// A string, or an array of {"type": "text", "text": …} (the other types are not for a text model).
Result<std::string> read_content(const Json& content) {
    if (content.is_string()) return content.get<std::string>();
    if (content.is_null()) return std::string();
    if (!content.is_array()) return invalid("messages[].content must be a string or an array of text parts");
    std::string text;
    for (const Json& part : content) {
        const Json* type = part.is_object() ? field(part, "type") : nullptr;
        const Json* value = part.is_object() ? field(part, "text") : nullptr;
        if (type == nullptr || *type != "text" || value == nullptr || !value->is_string()) {
            return invalid("messages[].content may have parts of type \"text\" only");
        }
        text += value->get<std::string>();
    }
    return text;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// {"type": "function", "function": {"name", "arguments": text of a JSON object}}
Result<tokenizer::ToolCall> read_call(const Json& call) {
    const Json* function = call.is_object() ? field(call, "function") : nullptr;
    const Json* name = function != nullptr && function->is_object() ? field(*function, "name") : nullptr;
    const Json* arguments = name != nullptr ? field(*function, "arguments") : nullptr;
    if (arguments == nullptr || !name->is_string())
        return invalid("each of tool_calls must have a function with a name and arguments");
    // Clients send the text of an object; a template may want it laid out its own way.
    const Json value =
        arguments->is_string() && !json_deeper_than(arguments->get_ref<const std::string&>(), kMaxJsonDepth)
            ? Json::parse(arguments->get_ref<const std::string&>(), nullptr, false)
            : *arguments;
    if (!value.is_object()) return invalid("tool_calls[].function.arguments must be a JSON object");
    return tokenizer::ToolCall{name->get<std::string>(), dump(value)};
}

Result<tokenizer::ChatMessage> read_message(const Json& message) {
    const Json* role = message.is_object() ? field(message, "role") : nullptr;
    const Json* calls = message.is_object() ? field(message, "tool_calls") : nullptr;
    if (role == nullptr || !role->is_string() || (!message.contains("content") && calls == nullptr))
        return invalid("each of messages must have a role and a content");
    tokenizer::ChatMessage parsed;
    FLEX_ASSIGN(parsed.role, tokenizer::role_from(role->get<std::string>()));
    if (message.contains("content")) {
        FLEX_ASSIGN(parsed.content, read_content(message["content"]));
    }
    const bool is_assistant = parsed.role == tokenizer::Role::kAssistant;
    if (const Json* reasoning = field(message, "reasoning_content"); reasoning != nullptr && is_assistant) {
        if (!reasoning->is_string()) return invalid("messages[].reasoning_content must be a string");
        parsed.reasoning = reasoning->get<std::string>();
    }
    if (calls == nullptr) return parsed;
    if (!calls->is_array() || !is_assistant)
        return invalid("tool_calls must be an array of an assistant's message");
    if (calls->size() > kMaxCalls) return invalid("more than " + std::to_string(kMaxCalls) + " tool_calls");
    for (const Json& call : *calls) {
        FLEX_ASSIGN(auto one, read_call(call));
        parsed.calls.push_back(std::move(one));
    }
    return parsed;
}

/// tools, unless tool_choice says that none may be used. Which one is the model's choice.
Status read_tools(const Json& object, CompletionRequest& request) {
    const Json* choice = field(object, "tool_choice");
    if (choice != nullptr && *choice != "auto" && *choice != "none")
        return invalid("tool_choice may be \"auto\" or \"none\"");
    const Json* tools = field(object, "tools");
    if (tools == nullptr || (choice != nullptr && *choice == "none")) return {};
    if (!tools->is_array() || tools->size() > kMaxTools)
        return invalid("tools must be an array of at most " + std::to_string(kMaxTools));
    for (const Json& tool : *tools) {
        const Json* function = tool.is_object() ? field(tool, "function") : nullptr;
        const Json* name = function != nullptr && function->is_object() ? field(*function, "name") : nullptr;
        if (name == nullptr || !name->is_string() || tool.value("type", Json()) != "function")
            return invalid("each of tools must be of type \"function\" with a function that has a name");
        request.conversation.tools.push_back(dump(tool));
    }
    return {};
}

Status read_messages(const Json& object, CompletionRequest& request) {
    const Json* messages = field(object, "messages");
    if (messages == nullptr || !messages->is_array() || messages->empty()) {
        return invalid("messages must be an array with at least one message");
    }
    if (messages->size() > kMaxMessages)
        return invalid("more than " + std::to_string(kMaxMessages) + " messages");
    for (const Json& message : *messages) {
        FLEX_ASSIGN(auto parsed, read_message(message));
        request.conversation.messages.push_back(std::move(parsed));
    }
    return read_tools(object, request);
}

Status read_prompt(const Json& object, CompletionRequest& request) {
    const Json* prompt = field(object, "prompt");
    if (prompt == nullptr) return invalid("prompt is missing");
    // An array of one string is what some clients send for a single prompt.
    if (prompt->is_array() && prompt->size() == 1 && prompt->front().is_string()) prompt = &prompt->front();
    if (prompt->is_string()) {
        request.prompt = prompt->get<std::string>();
        return {};
    }
    if (!prompt->is_array() || prompt->empty())
        return invalid("prompt must be one string or one array of token ids");
    for (const Json& token : *prompt) {
        if (!token.is_number_unsigned() || token.get<std::uint64_t>() > UINT32_MAX) {
            return invalid("prompt must be one string or one array of token ids");
        }
        request.prompt_tokens.push_back(token.get<TokenId>());
    }
    return {};
}

Status read_stop(const Json& object, GenerationOptions& options) {
    const Json* stop = field(object, "stop");
    if (stop == nullptr) return {};
    const Json list = stop->is_array() ? *stop : Json::array({*stop});
    if (list.size() > kMaxStopStrings)
        return invalid("more than " + std::to_string(kMaxStopStrings) + " stop strings");
    for (const Json& text : list) {
        if (!text.is_string() || text.get_ref<const std::string&>().empty() ||
            text.get_ref<const std::string&>().size() > kMaxStopBytes) {
            return invalid("stop must be a string or an array of strings of 1 to " +
                           std::to_string(kMaxStopBytes) + " bytes");
        }
        options.stop.push_back(text.get<std::string>());
    }
    return {};
}

/// {"token id": bias, …}
Status read_logit_bias(const Json& object, engine::SamplerOptions& sampler) {
    const Json* biases = field(object, "logit_bias");
    if (biases == nullptr) return {};
    const Error wrong =
        invalid("logit_bias must be an object of token ids with a bias from -100 to 100 each");
    if (!biases->is_object()) return wrong;
    for (const auto& [key, bias] : biases->items()) {
        TokenId token = 0;
        const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
        if (error != std::errc() || end != key.data() + key.size() || !bias.is_number()) return wrong;
        sampler.logit_bias.emplace_back(token, static_cast<float>(bias.get<double>()));
    }
    return {};
}

/// Chat: logprobs says whether, top_logprobs how many. Completion: logprobs is how many.
Status read_logprobs(const Json& object, CompletionRequest& request) {
    GenerationOptions& options = request.options;
    const bool is_chat = request.endpoint == Endpoint::kChat;
    const Json* given = field(object, "logprobs");
    if (is_chat || (given != nullptr && given->is_boolean())) { // false from those who mean none
        FLEX_TRY(read_bool(object, "logprobs", options.logprobs));
        FLEX_TRY(read_count(object, "top_logprobs", options.top_logprobs, 0));
        if (options.top_logprobs > 0 && !options.logprobs) return invalid("top_logprobs needs logprobs");
    } else if (given != nullptr) {
        FLEX_TRY(read_count(object, "logprobs", options.top_logprobs, 0));
        options.logprobs = true;
    }
    if (options.top_logprobs > engine::kMaxTopLogprobs) {
        return invalid(std::string(is_chat ? "top_logprobs" : "logprobs") + " must be at most " +
                       std::to_string(engine::kMaxTopLogprobs));
    }
    return {};
}

Status read_sampling(const Json& object, CompletionRequest& request) {
    engine::SamplerOptions& sampler = request.options.sampler;
    sampler.temperature = 1.0F; // the API's default
    sampler.top_k = 0;
    FLEX_TRY(read_float(object, "temperature", sampler.temperature));
    FLEX_TRY(read_float(object, "top_p", sampler.top_p));
    FLEX_TRY(read_float(object, "min_p", sampler.min_p));
    FLEX_TRY(read_float(object, "repeat_penalty", sampler.repeat_penalty));     // llama.cpp's name …
    FLEX_TRY(read_float(object, "repetition_penalty", sampler.repeat_penalty)); // … and vLLM's
    FLEX_TRY(read_float(object, "presence_penalty", sampler.presence_penalty));
    FLEX_TRY(read_float(object, "frequency_penalty", sampler.frequency_penalty));
    FLEX_TRY(read_logit_bias(object, sampler));
    FLEX_TRY(read_count(object, "top_k", sampler.top_k, 0));
    if (const Json* seed = field(object, "seed"); seed != nullptr) {
        if (!seed->is_number_integer()) return invalid("seed must be a whole number");
        sampler.seed = seed->is_number_unsigned() ? seed->get<std::uint64_t>()
                                                  : static_cast<std::uint64_t>(seed->get<std::int64_t>());
        request.has_seed = true;
    }
    return engine::check(sampler);
}

/// Fields that change what the answer means are refused rather than ignored.
Status refuse_unsupported(const Json& object) {
    std::uint32_t one = 1;
    for (const char* name : {"n", "best_of"}) {
        FLEX_TRY(read_count(object, name, one, 1));
        if (one != 1) return invalid(std::string(name) + " must be 1: one answer per request");
    }
    for (const char* name : {"functions", "suffix"}) {
        const Json* value = field(object, name);
        if (value != nullptr && !value->empty()) return invalid(std::string(name) + " is not supported");
    }
    const Json* format = field(object, "response_format");
    const Json* type = format != nullptr && format->is_object() ? field(*format, "type") : nullptr;
    if (format != nullptr && (type == nullptr || *type != "text"))
        return invalid("response_format is not supported");
    return {};
}

Status read_extras(const Json& object, CompletionRequest& request) {
    FLEX_TRY(read_bool(object, "stream", request.stream));
    FLEX_TRY(read_bool(object, "echo", request.echo));
    FLEX_TRY(read_bool(object, "return_tokens", request.return_tokens));
    FLEX_TRY(read_bool(object, "return_logits", request.options.keep_logits));
    if (request.options.keep_logits && request.stream)
        return invalid("return_logits does not go with stream");
    if (const Json* options = field(object, "stream_options"); options != nullptr) {
        if (!options->is_object()) return invalid("stream_options must be an object");
        FLEX_TRY(read_bool(*options, "include_usage", request.stream_usage));
    }
    if (const Json* arguments = field(object, "chat_template_kwargs"); arguments != nullptr) {
        if (!arguments->is_object()) return invalid("chat_template_kwargs must be an object");
        bool thinking = true;
        FLEX_TRY(read_bool(*arguments, "enable_thinking", thinking));
        if (field(*arguments, "enable_thinking") != nullptr) request.conversation.thinking = thinking;
    }
    FLEX_TRY(read_count(object, "max_tokens", request.max_tokens, 1));
    FLEX_TRY(read_count(object, "max_completion_tokens", request.max_tokens, 1));
    if (const Json* use = field(object, "npu"); use != nullptr) {
        if (!use->is_string()) return invalid("npu must be \"on\", \"off\" or \"auto\"");
        FLEX_ASSIGN(request.options.npu, engine::npu_use(use->get<std::string>()));
    }
    if (const Json* key = field(object, "prompt_cache_key"); key != nullptr) {
        if (!key->is_string() || key->get_ref<const std::string&>().size() > kMaxStopBytes) {
            return invalid("prompt_cache_key must be a string of at most " + std::to_string(kMaxStopBytes) +
                           " bytes");
        }
        request.cache_key = key->get<std::string>();
    }
    return {};
}

std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

Json head_json(const AnswerHead& head, bool stream) {
    const bool chat = head.endpoint == Endpoint::kChat;
    const char* object = !chat ? "text_completion" : stream ? "chat.completion.chunk" : "chat.completion";
    return {{"id", head.id}, {"object", object}, {"created", head.created}, {"model", head.model}};
}

Json usage_json(const GenerationResult& result) {
    return {{"prompt_tokens", result.prompt_tokens},
            {"completion_tokens", result.tokens.size()},
            {"total_tokens", result.prompt_tokens + result.tokens.size()},
            {"prompt_tokens_details", {{"cached_tokens", result.cached_tokens}}}};
}

double rounded(double value) { return std::round(value * 1000) / 1000; }

Json timings_json(const GenerationTimings& t) {
    return {{"prepare_ms", rounded(t.prepare_ms)},
            {"queue_ms", rounded(t.queue_ms)},
            {"allocate_ms", rounded(t.allocate_ms)},
            {"load_ms", rounded(t.load_ms)},
            {"decrypt_ms", rounded(t.decrypt_ms)},
            {"compute_ms", rounded(t.compute_ms)},
            {"ttft_ms", rounded(t.ttft_ms)},
            {"decode_ms", rounded(t.decode_ms)},
            {"decode_tokens_per_second", rounded(t.decode_tokens_per_second)},
            {"npu_ms", rounded(t.npu_ms)},
            {"npu_passes", t.npu_passes}};
}

Json chat_entry(const AnswerLogprobs::Entry& entry) {
    Json bytes = Json::array();
    for (const char c : entry.bytes) bytes.push_back(static_cast<unsigned char>(c));
    return {{"token", entry.bytes}, {"logprob", entry.logprob}, {"bytes", std::move(bytes)}};
}

/// As each of the two endpoints has them; null when nobody asked.
Json logprobs_json(const AnswerHead& head, const CompletionRequest& request,
                   const std::vector<AnswerLogprobs>& logprobs) {
    if (!request.options.logprobs) return nullptr;
    if (head.endpoint == Endpoint::kChat) {
        Json content = Json::array();
        for (const AnswerLogprobs& place : logprobs) {
            Json entry = chat_entry(place.token);
            entry["top_logprobs"] = Json::array();
            for (const auto& top : place.top) entry["top_logprobs"].push_back(chat_entry(top));
            content.push_back(std::move(entry));
        }
        return {{"content", std::move(content)}, {"refusal", nullptr}};
    }
    Json tokens = Json::array(), token_logprobs = Json::array(), top_logprobs = Json::array();
    for (const AnswerLogprobs& place : logprobs) {
        tokens.push_back(place.token.bytes);
        token_logprobs.push_back(place.token.logprob);
        Json top = Json::object();
        for (const auto& entry : place.top) top[entry.bytes] = entry.logprob;
        top_logprobs.push_back(std::move(top));
    }
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(token_logprobs)},
            {"top_logprobs", std::move(top_logprobs)}};
}

const char* finish_reason(const GenerationResult& result) { return result.stopped ? "stop" : "length"; }

Json error_json(const std::string& message, const char* type, const char* code) {
    Json error = {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
    if (code != nullptr) error["code"] = code;
    return {{"error", error}};
}

Json error_json(const Error& error) {
    switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kForbidden:
        return error_json(error.message, "invalid_request_error", nullptr);
    case ErrorCode::kContextFull:
        return error_json(error.message, "invalid_request_error", "context_length_exceeded");
    case ErrorCode::kNotFound:
        return error_json(error.message, "invalid_request_error", "model_not_found");
    case ErrorCode::kAuthentication:
    case ErrorCode::kCorrupt:
    case ErrorCode::kUnsupported:
        return error_json(error.message, "server_error", "model_refused");
    case ErrorCode::kBusy:
        return error_json(error.message, "server_error", "busy");
    case ErrorCode::kOutOfMemory:
        return error_json(error.message, "server_error", "out_of_memory");
    default:
        return error_json(error.message, "server_error", nullptr);
    }
}

} // namespace

Result<CompletionRequest> parse_request(Endpoint endpoint, std::string_view body) {
    if (json_deeper_than(body, kMaxJsonDepth))
        return invalid("the JSON is nested more than " + std::to_string(kMaxJsonDepth) + " deep");
    const Json object = Json::parse(body, nullptr, false);
    if (object.is_discarded()) return invalid("the body is not JSON");
    if (!object.is_object()) return invalid("the body must be a JSON object");
    CompletionRequest request;
    request.endpoint = endpoint;
    const Json* model = field(object, "model");
    if (model == nullptr || !model->is_string())
        return invalid("model is missing; /v1/models lists what there is");
    request.model = model->get<std::string>();
    FLEX_TRY(endpoint == Endpoint::kChat ? read_messages(object, request) : read_prompt(object, request));
    FLEX_TRY(read_sampling(object, request));
    FLEX_TRY(read_stop(object, request.options));
    FLEX_TRY(read_logprobs(object, request));
    FLEX_TRY(refuse_unsupported(object));
    FLEX_TRY(read_extras(object, request));
    return request;
}

std::string format_answer(const AnswerHead& head, const CompletionRequest& request, const std::string& text,
                          const std::vector<AnswerLogprobs>& logprobs, const GenerationResult& result) {
    Json choice = {{"index", 0}};
    if (head.endpoint == Endpoint::kChat)
        choice["message"] = {{"role", "assistant"}, {"content", text}};
    else
        choice["text"] = request.echo ? request.prompt + text : text;
    choice["logprobs"] = logprobs_json(head, request, logprobs);
    choice["finish_reason"] = finish_reason(result);
    if (request.return_tokens) choice["tokens"] = result.tokens;
    if (request.options.keep_logits) choice["logits"] = result.logits;
    Json answer = head_json(head, false);
    answer["choices"] = Json::array({choice});
    answer["usage"] = usage_json(result);
    answer["timings"] = timings_json(result.timings);
    return dump(answer);
}

std::string format_first_event(const AnswerHead& head) {
    if (head.endpoint != Endpoint::kChat) return {};
    Json chunk = head_json(head, true);
    chunk["choices"] = Json::array(
        {{{"index", 0}, {"delta", {{"role", "assistant"}, {"content", ""}}}, {"finish_reason", nullptr}}});
    return event(chunk);
}

std::string format_text_event(const AnswerHead& head, const CompletionRequest& request,
                              const std::string& text, const std::vector<AnswerLogprobs>& logprobs) {
    Json choice = {{"index", 0}};
    if (head.endpoint == Endpoint::kChat)
        choice["delta"] = {{"content", text}};
    else
        choice["text"] = text;
    if (request.options.logprobs) choice["logprobs"] = logprobs_json(head, request, logprobs);
    choice["finish_reason"] = nullptr;
    Json chunk = head_json(head, true);
    chunk["choices"] = Json::array({choice});
    return event(chunk);
}

std::string format_last_events(const AnswerHead& head, const CompletionRequest& request,
                               const GenerationResult& result) {
    Json choice = {{"index", 0}};
    if (head.endpoint == Endpoint::kChat)
        choice["delta"] = Json::object();
    else
        choice["text"] = "";
    choice["finish_reason"] = finish_reason(result);
    if (request.return_tokens) choice["tokens"] = result.tokens;
    Json last = head_json(head, true);
    last["choices"] = Json::array({choice});
    last["timings"] = timings_json(result.timings);
    std::string events = event(last);
    if (request.stream_usage) { // a chunk of its own with no choices, as the API has it
        Json usage = head_json(head, true);
        usage["choices"] = Json::array();
        usage["usage"] = usage_json(result);
        events += event(usage);
    }
    return events + "data: [DONE]\n\n";
}

std::string format_error_event(const Error& error) { return event(error_json(error)) + "data: [DONE]\n\n"; }

std::string format_error(const Error& error) { return dump(error_json(error)); }

std::string format_http_error(int status) {
    const bool ours = status >= 500;
    const char* message = status == 404
                              ? "no such address; see /v1/models, /v1/chat/completions, /v1/completions"
                          : status == 401 ? "this is for the operator; flexserve top --token prints the token"
                          : status == 413 ? "the body is too large (limit: 4 MiB)"
                          : status == 414 ? "the address is too long"
                          : ours          ? "the request failed inside the server"
                                          : "the request is not valid HTTP for this address";
    return dump(error_json(message, ours ? "server_error" : "invalid_request_error", nullptr));
}

int http_status(ErrorCode code) {
    switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kContextFull:
        return 400;
    case ErrorCode::kForbidden:
        return 403;
    case ErrorCode::kNotFound:
        return 404;
    case ErrorCode::kBusy:
    case ErrorCode::kOutOfMemory:
        return 503;
    default:
        return 500;
    }
}

std::string format_models(const std::vector<std::string>& names) {
    Json list = Json::array();
    for (const std::string& name : names) {
        list.push_back({{"id", name}, {"object", "model"}, {"created", 0}, {"owned_by", "flexserve"}});
    }
    return dump({{"object", "list"}, {"data", list}});
}

std::string format_status(const ServerStatus& status) {
    static constexpr const char* kStates[] = {"reserved", "normal",  "shared",  "claimed",
                                              "flex",     "adopted", "released"};
    Json frames = Json::object();
    for (std::size_t i = 0; i < std::size(kStates); ++i) frames[kStates[i]] = status.memory.frames[i];
    Json models = Json::array();
    for (const pipeline::ModelStatus& m : status.models) {
        models.push_back({{"name", m.name},
                          {"kind", m.kind},
                          {"version", m.version},
                          {"bytes", m.bytes},
                          {"bytes_loaded", m.bytes_loaded},
                          {"context", m.context},
                          {"in_use", m.in_use},
                          {"idle_seconds", rounded(m.idle_seconds)},
                          {"stages", m.stages},
                          {"stages_loaded", m.stages_loaded},
                          {"hot", m.hot},
                          {"idle_conversations", m.idle_conversations}});
    }
    const pipeline::CacheCounters& c = status.cache;
    const GeneratorStatus& g = status.generator;
    Json npu = nullptr;
    if (status.npu) {
        const npu::Counters& n = *status.npu;
        npu = {{"jobs", n.jobs},
               {"failures", n.failures},
               {"switches", n.switches},
               {"acquire_ns", n.acquire_ns},
               {"release_ns", n.release_ns},
               {"busy_ns", n.busy_ns}};
    }
    Json stored = nullptr;
    if (status.stored) {
        const memory::KvStoreStatus& s = *status.stored;
        Json recomputed = Json::object();
        for (const memory::KvLoss loss : memory::kKvLosses)
            recomputed[memory::name_of(loss)] = s.recomputed[static_cast<std::size_t>(loss)];
        stored = {{"sessions", s.sessions},
                  {"bytes", s.bytes},
                  {"limit", s.limit},
                  {"saved_blocks", s.saved_blocks},
                  {"restored_blocks", s.restored_blocks},
                  {"recomputed_blocks", recomputed},
                  {"save_failures", s.save_failures},
                  {"evicted", s.evicted},
                  {"deleted", s.deleted},
                  {"indexes_refused", s.indexes_refused}};
    }
    return dump({{"protection", status.protection},
                 {"protected", status.is_protected},
                 {"uptime_seconds", rounded(status.uptime_seconds)},
                 {"memory",
                  {{"frames", frames},
                   {"mapped_bytes", status.memory.mapped_bytes},
                   {"pool_bytes", status.memory.pool_bytes}}},
                 {"models", models},
                 {"cache",
                  {{"hits", c.hits},
                   {"partial_hits", c.partial_hits},
                   {"misses", c.misses},
                   {"stages_streamed", c.stages_streamed},
                   {"bytes_streamed", c.bytes_streamed},
                   {"prefetches", c.prefetches},
                   {"asks", c.asks},
                   {"bytes_asked", c.bytes_asked},
                   {"bytes_given_back", c.bytes_given_back}}},
                 {"npu", npu},
                 {"stored_conversations", stored},
                 {"requests",
                  {{"busy", g.busy},
                   {"waiting", g.waiting},
                   {"done", g.done},
                   {"failed", g.failed},
                   {"cancelled", g.cancelled}}}});
}

std::string format_sessions(const std::vector<pipeline::SessionInfo>& sessions) {
    Json list = Json::array();
    for (const pipeline::SessionInfo& session : sessions) {
        list.push_back({{"id", crypto::hex(session.id)},
                        {"model", session.model},
                        {"state", session.state},
                        {"tokens", session.tokens},
                        {"stored_tokens", session.stored_tokens}});
    }
    return dump({{"sessions", list}});
}

std::string format_deleted(std::size_t sessions) { return dump({{"deleted", sessions}}); }

} // namespace flex::api
