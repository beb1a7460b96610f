#include "cli/client_api.h"

#include <httplib.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "port/files.h"
#include "port/identity.h"

namespace flex::cli {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

// Loading a large model into an emulated device takes minutes; Ctrl-C is the way to give up earlier.
constexpr std::chrono::seconds kAnswerTimeout(900);

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string error_text(const Json& body) {
    if (!body.is_object()) return "unknown error";
    const auto error = body.find("error");
    return error != body.end() && error->is_object() ? error->value("message", "unknown error")
                                                     : "unknown error";
}

Json parsed(const std::string& body) {
    Json json = Json::parse(body, nullptr, false);
    if (json.is_discarded()) throw std::runtime_error("the answer is no JSON");
    return json;
}

std::string why(httplib::Error error) {
    switch (error) {
    case httplib::Error::Connection:
        return "nothing answers there; start the device with: flexserve device up";
    case httplib::Error::SSLServerVerification:
    case httplib::Error::SSLServerHostnameVerification:
        return "what answers there is not your device: its certificate is not signed by the pinned "
               "device-ca.pem";
    case httplib::Error::SSLLoadingCerts:
        return "device-ca.pem cannot be read; start the device once to have it written";
    default:
        return "the connection failed (" + httplib::to_string(error) + ")";
    }
}

/// Cuts server-sent events out of a stream of bytes.
class EventReader {
public:
    template <class OnData> void push(std::string_view bytes, const OnData& on_data) {
        buffer_ += bytes;
        for (std::size_t end; (end = buffer_.find('\n')) != std::string::npos; buffer_.erase(0, end + 1)) {
            const std::string_view line(buffer_.data(), end);
            if (line.starts_with("data: ")) on_data(line.substr(6));
        }
    }

private:
    std::string buffer_;
};

/// Ends a request from outside when the flag goes up: a reader blocked in the library does not see signals.
class Interrupter {
public:
    Interrupter(httplib::SSLClient& client, const std::atomic<bool>* flag) {
        if (flag == nullptr) return;
        thread_ = std::thread([this, &client, flag] {
            while (!done_) {
                if (*flag) return client.stop();
                std::this_thread::sleep_for(20ms);
            }
        });
    }
    ~Interrupter() {
        done_ = true;
        if (thread_.joinable()) thread_.join();
    }
    Interrupter(const Interrupter&) = delete;
    Interrupter& operator=(const Interrupter&) = delete;

private:
    std::atomic<bool> done_{false};
    std::thread thread_;
};

Json request_body(const std::string& model, const std::vector<Message>& messages, const AskOptions& options,
                  const std::string& conversation) {
    Json body = {{"model", model},
                 {"temperature", options.temperature},
                 {"top_p", options.top_p},
                 {"top_k", options.top_k},
                 {"min_p", options.min_p},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}}}};
    if (options.repeat_penalty != 1) body["repeat_penalty"] = options.repeat_penalty;
    if (options.presence_penalty != 0) body["presence_penalty"] = options.presence_penalty;
    if (options.frequency_penalty != 0) body["frequency_penalty"] = options.frequency_penalty;
    for (const std::string& bias : options.logit_bias) {
        const std::size_t equals = bias.find('=');
        const Json value = Json::parse(bias.substr(equals + 1), nullptr, false);
        body["logit_bias"][bias.substr(0, equals)] =
            value.is_number() ? value : Json(bias); // the server says what is wrong
    }
    if (!options.stop.empty()) body["stop"] = options.stop;
    if (options.seed) body["seed"] = *options.seed;
    if (options.max_tokens != 0) body["max_tokens"] = options.max_tokens;
    if (!options.npu.empty()) body["npu"] = options.npu;
    if (!conversation.empty()) body["prompt_cache_key"] = conversation;
    if (options.no_thinking) body["chat_template_kwargs"] = {{"enable_thinking", false}};
    if (options.raw) {
        body["prompt"] = messages.back().content;
        return body;
    }
    Json list = Json::array();
    if (!options.system.empty()) list.push_back({{"role", "system"}, {"content", options.system}});
    for (const Message& message : messages)
        list.push_back({{"role", message.role}, {"content", message.content}});
    body["messages"] = list;
    return body;
}

/// Takes in one event of a streamed answer; returns the text it brings.
std::string take(const Json& chunk, Answer& answer) {
    if (chunk.contains("error")) throw std::runtime_error(error_text(chunk));
    if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object()) {
        answer.prompt_tokens = usage->value("prompt_tokens", 0u);
        answer.completion_tokens = usage->value("completion_tokens", 0u);
    }
    if (const auto timings = chunk.find("timings"); timings != chunk.end() && timings->is_object()) {
        answer.prepare_ms = timings->value("prepare_ms", 0.0);
        answer.allocate_ms = timings->value("allocate_ms", 0.0);
        answer.load_ms = timings->value("load_ms", 0.0);
        answer.decrypt_ms = timings->value("decrypt_ms", 0.0);
        answer.compute_ms = timings->value("compute_ms", 0.0);
        answer.ttft_ms = timings->value("ttft_ms", 0.0);
        answer.tokens_per_second = timings->value("decode_tokens_per_second", 0.0);
        answer.npu_passes = timings->value("npu_passes", 0u);
        answer.npu_ms = timings->value("npu_ms", 0.0);
    }
    const auto choices = chunk.find("choices");
    if (choices == chunk.end() || !choices->is_array() || choices->empty()) return {};
    const Json& choice = choices->front();
    if (const auto reason = choice.find("finish_reason"); reason != choice.end() && reason->is_string()) {
        answer.finish_reason = reason->get<std::string>();
    }
    if (const auto delta = choice.find("delta"); delta != choice.end()) return delta->value("content", "");
    return choice.value("text", "");
}

} // namespace

struct ApiClient::State {
    State(std::uint16_t p, const std::string& ca_file, std::string t)
        : port(p), token(std::move(t)), client("localhost", p) {
        client.set_hostname_addr_map({{"localhost", "127.0.0.1"}}); // no name service, no IPv6 detour
        client.set_ca_cert_path(ca_file);
        client.enable_server_certificate_verification(true);
        client.set_keep_alive(true);
        client.set_tcp_nodelay(true);
        client.set_connection_timeout(10s);
        client.set_read_timeout(kAnswerTimeout);
        client.set_write_timeout(30s);
    }
    [[noreturn]] void fail(httplib::Error error) const {
        throw std::runtime_error("https://localhost:" + std::to_string(port) + ": " + why(error));
    }
    std::string get(const char* path, const httplib::Headers& headers = {}) {
        const auto got = client.Get(path, headers);
        if (!got) fail(got.error());
        if (got->status != 200) throw std::runtime_error(error_text(Json::parse(got->body, nullptr, false)));
        return got->body;
    }
    std::string get_as_operator(const char* path) {
        return get(path, {{"Authorization", "Bearer " + token}});
    }

    std::uint16_t port;
    std::string token; // empty: not the operator's
    httplib::SSLClient client;
};

ApiClient::ApiClient(std::uint16_t port, const std::string& ca_file, std::string operator_token)
    : state_(std::make_unique<State>(port, ca_file, std::move(operator_token))) {}
ApiClient::~ApiClient() = default;
ApiClient::ApiClient(ApiClient&&) noexcept = default;

namespace {

std::string token_of(crypto::Bytes root_key) {
    auto token = port::operator_token(port::derive_from(root_key));
    if (!token) throw std::runtime_error(token.error().message);
    return *std::move(token);
}

} // namespace

std::string operator_token(const platform::Device& device) {
    if (!device.exists())
        throw std::runtime_error("there is no device yet; start it with: flexserve device up");
    const platform::RootKey root = device.root_key();
    return token_of(std::as_bytes(std::span(root)));
}

std::string operator_token_natively(const std::string& folder) {
    const auto root = port::read_file(folder + "/root.key", sizeof(platform::RootKey));
    if (!root) throw std::runtime_error("nothing was served natively yet: " + root.error().message);
    return token_of(*root);
}

ApiClient connect_to(const platform::Device& device) {
    const auto state = device.running();
    if (!state) throw std::runtime_error("the device is not running; start it with: flexserve device up");
    return {state->https_port, (device.folder() / "device-ca.pem").string(), operator_token(device)};
}

ApiClient connect_natively(std::uint16_t port, const std::string& folder) {
    return {port, folder + "/device-ca.pem", operator_token_natively(folder)};
}

bool ApiClient::stream(const std::string& path, const std::string& body,
                       const std::function<void(std::string_view)>& on_event,
                       const std::atomic<bool>* interrupt) {
    EventReader events;
    std::string failure; // body of an answer that is not a stream
    std::optional<std::string> broken;
    int status = 0;
    httplib::Request request;
    request.method = "POST";
    request.path = path;
    request.headers.emplace("Content-Type", "application/json");
    request.body = body;
    request.response_handler = [&](const httplib::Response& response) {
        status = response.status;
        return true;
    };
    request.content_receiver = [&](const char* data, std::size_t bytes, std::uint64_t, std::uint64_t) {
        if (status != 200) {
            failure.append(data, bytes);
            return failure.size() < 65536;
        }
        try {
            events.push({data, bytes}, [&](std::string_view event) {
                if (event != "[DONE]") on_event(event);
            });
        } catch (const std::exception& error) {
            broken = error.what();
            return false;
        }
        return true;
    };
    const httplib::Result result = [&] {
        const Interrupter interrupter(state_->client, interrupt);
        return state_->client.send(request);
    }();
    if (broken) throw std::runtime_error(*broken);
    if (!result) {
        if (interrupt == nullptr || !*interrupt) state_->fail(result.error());
        return false;
    }
    if (status != 200) throw std::runtime_error(error_text(Json::parse(failure, nullptr, false)));
    return true;
}

namespace {

constexpr const char* kSessions = "/flexserve/sessions";

httplib::Headers headers_of(const ApiClient::Caller& caller) {
    httplib::Headers headers;
    if (!caller.api_key.empty()) headers.emplace("Authorization", "Bearer " + caller.api_key);
    if (!caller.conversation.empty()) headers.emplace("Prompt-Cache-Key", caller.conversation);
    return headers;
}

const std::string& checked(const httplib::Response& response) {
    if (response.status == 401)
        throw std::runtime_error("the device knows no caller by that: an API key has 32 bytes or more");
    if (response.status != 200)
        throw std::runtime_error(error_text(Json::parse(response.body, nullptr, false)));
    return response.body;
}

} // namespace

std::string ApiClient::sessions(const Caller& caller) {
    const auto got = state_->client.Get(kSessions, headers_of(caller));
    if (!got) state_->fail(got.error());
    return checked(*got);
}

std::size_t ApiClient::delete_sessions(const Caller& caller, const std::string& id) {
    const auto got = state_->client.Delete(kSessions + (id.empty() ? id : "/" + id), headers_of(caller));
    if (!got) state_->fail(got.error());
    return Json::parse(checked(*got)).value("deleted", std::size_t{0});
}

Answer ApiClient::ask(const std::string& model, const std::vector<Message>& messages,
                      const AskOptions& options, const std::string& conversation,
                      const std::function<void(const std::string&)>& on_text,
                      const std::atomic<bool>* interrupt) {
    Answer answer;
    const std::string body = dump(request_body(model, messages, options, conversation));
    const auto on_event = [&](std::string_view event) {
        const std::string text = take(Json::parse(event), answer);
        answer.text += text;
        if (!text.empty() && on_text) on_text(text);
    };
    answer.interrupted =
        !stream(options.raw ? "/v1/completions" : "/v1/chat/completions", body, on_event, interrupt);
    return answer;
}

std::vector<std::string> ApiClient::models() {
    std::vector<std::string> names;
    for (const Json& model : parsed(state_->get("/v1/models")).at("data"))
        names.push_back(model.value("id", ""));
    return names;
}

DeviceStatus ApiClient::status() {
    const Json body = parsed(state_->get_as_operator("/flexserve/status"));
    const Json& memory = body.at("memory");
    const Json& frames = memory.at("frames");
    DeviceStatus status;
    status.protection = body.value("protection", "");
    status.is_protected = body.value("protected", false);
    for (const Json& model : body.at("models"))
        status.models.push_back({model.value("name", ""), model.value("stages", 0u),
                                 model.value("stages_loaded", 0u), model.value("bytes", std::uint64_t{0}),
                                 model.value("bytes_loaded", std::uint64_t{0})});
    status.mapped_bytes = memory.value("mapped_bytes", std::uint64_t{0});
    const std::pair<const char*, std::uint64_t*> states[] = {{"normal", &status.normal},
                                                             {"shared", &status.shared},
                                                             {"flex", &status.flex},
                                                             {"adopted", &status.adopted},
                                                             {"released", &status.released}};
    for (const auto& [name, field] : states) {
        *field = frames.value(name, std::uint64_t{0});
    }
    if (const auto npu = body.find("npu"); npu != body.end() && npu->is_object()) {
        status.npu_jobs = npu->value("jobs", std::uint64_t{0});
        status.npu_busy_ns = npu->value("busy_ns", std::uint64_t{0});
        status.npu_switches = npu->value("switches", std::uint64_t{0});
        status.npu_acquire_ns = npu->value("acquire_ns", std::uint64_t{0});
        status.npu_release_ns = npu->value("release_ns", std::uint64_t{0});
    }
    return status;
}

std::string ApiClient::metrics() { return state_->get_as_operator("/metrics"); }

std::string to_json(const Answer& answer, const std::string& model, bool is_protected) {
    return dump({{"model", model},
                 {"protected", is_protected},
                 {"text", answer.text},
                 {"finish_reason", answer.finish_reason},
                 {"interrupted", answer.interrupted},
                 {"usage",
                  {{"prompt_tokens", answer.prompt_tokens}, {"completion_tokens", answer.completion_tokens}}},
                 {"timings",
                  {{"prepare_ms", answer.prepare_ms},
                   {"allocate_ms", answer.allocate_ms},
                   {"load_ms", answer.load_ms},
                   {"decrypt_ms", answer.decrypt_ms},
                   {"compute_ms", answer.compute_ms},
                   {"ttft_ms", answer.ttft_ms},
                   {"decode_tokens_per_second", answer.tokens_per_second},
                   {"npu_passes", answer.npu_passes}}}});
}

} // namespace flex::cli
