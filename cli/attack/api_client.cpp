#include "cli/attack/api_client.h"

#include <httplib.h>
#include <nlohmann/json.hpp>

namespace flex::attack {
namespace {

using Json = nlohmann::json;

void set_up(httplib::SSLClient& client, const std::filesystem::path& ca_file, std::chrono::milliseconds timeout,
            const std::string& api_key, const std::string& operator_token) {
    if (!api_key.empty()) client.set_bearer_token_auth(api_key);
    if (!operator_token.empty()) client.set_default_headers({{"Flexserve-Operator", operator_token}});
    client.set_ca_cert_path(ca_file);
    client.enable_server_certificate_verification(true);
    client.set_connection_timeout(std::chrono::seconds(10));
    client.set_read_timeout(timeout);
    client.set_write_timeout(std::chrono::seconds(10));
}

Reply reply_of(const httplib::Result& result) {
    if (!result) return {0, {}, "no HTTP answer: " + httplib::to_string(result.error())};
    return {result->status, result->body, {}};
}

Json body_of(const Query& query, bool stream) {
    Json body = {{"model", query.model}, {"max_tokens", query.max_tokens}, {"temperature", 0}, {"return_tokens", true}};
    if (query.chat) body["messages"] = {{{"role", "user"}, {"content", query.prompt}}};
    else if (!query.prompt_tokens.empty()) body["prompt"] = query.prompt_tokens;
    else body["prompt"] = query.prompt;
    if (stream) body["stream"] = true;
    if (!query.extra.empty()) body.update(Json::parse("{" + query.extra + "}"));
    return body;
}

const char* path_of(const Query& query) { return query.chat ? "/v1/chat/completions" : "/v1/completions"; }

std::string message_of(const std::string& body) {
    const Json json = Json::parse(body, nullptr, false);
    if (!json.is_object() || !json.contains("error") || !json["error"].is_object()) return body.substr(0, 200);
    return json["error"].value("message", "");
}

void read_choice(const Json& choice, Completion& out) {
    for (const char* part : {"message", "delta"})
        if (choice.contains(part) && choice[part].is_object()) out.text += choice[part].value("content", "");
    if (choice.contains("text") && choice["text"].is_string()) out.text += choice["text"].get<std::string>();
    if (choice.contains("tokens") && choice["tokens"].is_array()) out.tokens = choice["tokens"].get<std::vector<std::uint32_t>>();
    if (choice.contains("finish_reason") && choice["finish_reason"].is_string()) out.finish_reason = choice["finish_reason"];
}

/// Takes apart the server-sent events of a streamed answer as they come.
class EventReader {
public:
    EventReader(Completion& out, const std::function<bool(std::string_view)>& on_text) : out_(out), on_text_(on_text) {}

    bool push(std::string_view data) {
        buffer_ += data;
        for (std::size_t end = 0; (end = buffer_.find("\n\n")) != std::string::npos;) {
            const std::string event = buffer_.substr(0, end);
            buffer_.erase(0, end + 2);
            if (!take(event)) return false;
        }
        return true;
    }
    /// What did not look like an event: an error's body.
    [[nodiscard]] const std::string& rest() const { return buffer_; }

private:
    bool take(const std::string& event) {
        if (event == "data: [DONE]") {
            out_.ok = out_.error.empty();
            return true;
        }
        const Json json = Json::parse(event.substr(std::min<std::size_t>(event.size(), 6)), nullptr, false);
        if (!json.is_object()) {
            out_.error = "an event of the stream is no JSON";
            return false;
        }
        if (json.contains("error")) out_.error = json["error"].value("message", "the stream ended with an error");
        const std::size_t before = out_.text.size();
        for (const Json& choice : json.value("choices", Json::array())) read_choice(choice, out_);
        if (out_.text.size() == before) return true;
        return on_text_(std::string_view(out_.text).substr(before));
    }

    Completion& out_;
    const std::function<bool(std::string_view)>& on_text_;
    std::string buffer_;
};

} // namespace

Reply ApiClient::get(const std::string& path, std::chrono::milliseconds timeout) const {
    httplib::SSLClient client("127.0.0.1", port_);
    set_up(client, ca_file_, timeout, api_key_, operator_token_);
    return reply_of(client.Get(path));
}

Reply ApiClient::post(const std::string& path, const std::string& body, std::chrono::milliseconds timeout) const {
    httplib::SSLClient client("127.0.0.1", port_);
    set_up(client, ca_file_, timeout, api_key_, operator_token_);
    return reply_of(client.Post(path, body, "application/json"));
}

Reply ApiClient::remove(const std::string& path, std::chrono::milliseconds timeout) const {
    httplib::SSLClient client("127.0.0.1", port_);
    set_up(client, ca_file_, timeout, api_key_, operator_token_);
    return reply_of(client.Delete(path));
}

Completion ApiClient::complete(const Query& query) const {
    const Reply reply = post(path_of(query), body_of(query, false).dump(), query.timeout);
    Completion out;
    out.status = reply.status;
    out.error = reply.error;
    if (reply.status == 0) return out;
    if (reply.status != 200) {
        out.error = message_of(reply.body);
        return out;
    }
    const Json json = Json::parse(reply.body, nullptr, false);
    if (!json.is_object() || !json.contains("choices") || !json["choices"].is_array() || json["choices"].empty()) {
        out.error = "the answer has not the form of a completion";
        return out;
    }
    out.ok = true;
    out.body = reply.body;
    read_choice(json["choices"][0], out);
    if (json["choices"][0].contains("logits")) out.logits = json["choices"][0]["logits"].dump();
    if (json.contains("usage")) {
        out.prompt_tokens = json["usage"].value("prompt_tokens", 0u);
        out.cached_tokens = json["usage"].value(Json::json_pointer("/prompt_tokens_details/cached_tokens"), 0u);
    }
    return out;
}

Completion ApiClient::stream(const Query& query, const std::function<bool(std::string_view)>& on_text) const {
    httplib::SSLClient client("127.0.0.1", port_);
    set_up(client, ca_file_, query.timeout, api_key_, operator_token_);
    Completion out;
    EventReader reader(out, on_text);
    httplib::Request request;
    request.method = "POST";
    request.path = path_of(query);
    request.body = body_of(query, true).dump();
    request.set_header("Content-Type", "application/json");
    request.content_receiver = [&](const char* data, std::size_t length, std::uint64_t, std::uint64_t) {
        return reader.push({data, length});
    };
    const httplib::Result result = client.send(request);
    if (!result) {
        if (out.error.empty()) out.error = "the stream broke: " + httplib::to_string(result.error());
        out.ok = false;
        return out;
    }
    out.status = result->status;
    if (result->status != 200) {
        out.ok = false;
        out.error = message_of(reader.rest().empty() ? result->body : reader.rest());
    } else if (!out.ok && out.error.empty()) {
        out.error = "the stream ended without its end mark";
    }
    return out;
}

} // namespace flex::attack
