#include "api/server.h"

#include <httplib.h>

#include "api/generator.h"
#include "api/http.h"
#include "api/metrics.h"
#include "api/openai.h"
#include "api/operator.h"
#include "api/prepare.h"
#include "api/sessions.h"
#include "api/tls.h"
#include "api/workflows.h"

namespace flex::api {
namespace {

using Clock = std::chrono::steady_clock;

// Some generations compute and a few wait, a thread each; the threads left over answer everything else,
// refusals included.
constexpr std::size_t kConnectionThreads = 14;
constexpr std::size_t kMaxWaitingConnections = 16;
constexpr time_t kReadSeconds = 10, kWriteSeconds = 10, kKeepAliveSeconds = 5;
constexpr std::size_t kKeepAliveRequests = 100;
constexpr std::chrono::milliseconds kPollInterval(100);
constexpr std::chrono::milliseconds kReclaimWait(500);
constexpr int kReclaimAttempts = 20;

GeneratorOptions generator_options(engine::NpuUse npu) {
    return {.max_running = 4, .max_waiting = 3, .max_requests = 10, .max_lanes = 4, .npu = npu};
}

Callers callers_of(port::Port& port) {
    auto key = port.device_key(kCallerKeyLabel);
    return key ? Callers(std::move(*key)) : Callers(); // then nobody is known again after a restart
}

/// One answer on its way to a client.
struct Answer {
    explicit Answer(PreparedRequest prepared)
        : head(std::move(prepared.head)), request(std::move(prepared.request)),
          generation(std::move(prepared.generation)) {}
    AnswerHead head;
    CompletionRequest request;
    std::shared_ptr<Generation> generation;
    Generation::Progress first; ///< what had come when the response began
    bool begun = false;
    Clock::time_point peer_checked = Clock::now();

    ~Answer() { generation->cancel(); } // does nothing to one that is done
};

/// Waits for text if it is streamed, else for the end: each waking takes time from whoever computes. Gives up on
/// the generation when the client has gone.
Generation::Progress wait(Answer& answer, const httplib::Request& request) {
    const auto until = answer.request.stream ? Generation::Until::kText : Generation::Until::kEnd;
    for (;;) {
        auto progress = answer.generation->wait(kPollInterval, until);
        if (const auto now = Clock::now(); now - answer.peer_checked >= kPollInterval) {
            answer.peer_checked = now;
            if (peer_has_gone(request)) answer.generation->cancel();
        }
        if (progress.done || !progress.text.empty()) return progress;
    }
}

void send_whole(const std::shared_ptr<Answer>& answer, const httplib::Request& request,
                httplib::Response& response) {
    std::string text;
    std::vector<AnswerLogprobs> logprobs;
    for (auto progress = std::move(answer->first);; progress = wait(*answer, request)) {
        text += progress.text;
        logprobs.insert(logprobs.end(), progress.logprobs.begin(), progress.logprobs.end());
        if (progress.done) break;
    }
    const auto result = answer->generation->result();
    if (!result) return send_error(response, result.error());
    response.set_content(format_answer(answer->head, answer->request, text, logprobs, *result), kJson);
}

/// The next part of a stream; false ends the connection.
bool send_part(Answer& answer, const httplib::Request& request, httplib::DataSink& sink) {
    const auto progress = answer.begun ? wait(answer, request) : std::move(answer.first);
    std::string events;
    if (!std::exchange(answer.begun, true)) events += format_first_event(answer.head);
    if (!progress.text.empty() || !progress.logprobs.empty())
        events += format_text_event(answer.head, answer.request, progress.text, progress.logprobs);
    if (progress.done) {
        const auto result = answer.generation->result();
        events += result ? format_last_events(answer.head, answer.request, *result)
                         : format_error_event(result.error());
    }
    if (!sink.write(events.data(), events.size())) return false;
    if (progress.done) sink.done();
    return true;
}

} // namespace

struct Server::State {
    State(port::Port& p, const ServerOptions& o)
        : port(p), options(o), models(p, o.models), generator(generator_options(o.models.npu_use)) {}
    ~State() {
        stopping = true;
        if (reclaimer.joinable()) reclaimer.join();
    }

    void complete(Endpoint endpoint, const httplib::Request& request, httplib::Response& response);
    void route();
    [[nodiscard]] bool from_operator(const httplib::Request& request);
    [[nodiscard]] ServerStatus status();
    void keep_memory();

    port::Port& port;
    ServerOptions options;
    pipeline::Registry models;
    Callers callers = callers_of(port);
    Generator generator; // goes before the models it computes with
    Workflows workflows{models, generator, callers};
    std::unique_ptr<httplib::SSLServer> http;
    std::uint16_t bound = 0;
    std::atomic<bool> stopping{false};
    Clock::time_point started = Clock::now();
    std::thread reclaimer;
};

void Server::State::complete(Endpoint endpoint, const httplib::Request& request,
                             httplib::Response& response) {
    const auto received = Clock::now();
    auto parsed = parse_request(endpoint, request.body);
    if (!parsed) return send_error(response, parsed.error());
    // All logits of a prompt are more of a model than any answer: enough of them are its last matrix.
    if (parsed->options.keep_logits && !from_operator(request))
        return send_error(response, fail(ErrorCode::kForbidden,
                                         std::string("return_logits is for the operator, who sends ") +
                                             kOperatorHeader + "; flexserve top --token prints the token"));
    auto prepared =
        prepare(models, std::move(*parsed), callers.of(request.get_header_value("Authorization")), received);
    if (!prepared) return send_error(response, prepared.error());
    const auto answer = std::make_shared<Answer>(std::move(*prepared));
    if (auto queued = generator.submit(answer->generation); !queued)
        return send_error(response, queued.error());
    // The status line waits for the first text, so that what fails until then fails with a status of its own.
    answer->first = wait(*answer, request);
    if (answer->first.done) {
        if (const auto result = answer->generation->result(); !result)
            return send_error(response, result.error());
    }
    if (!answer->request.stream) return send_whole(answer, request, response);
    response.set_header("Cache-Control", "no-cache");
    response.set_chunked_content_provider("text/event-stream",
                                          [answer, &request](std::size_t, httplib::DataSink& sink) {
                                              return send_part(*answer, request, sink);
                                          });
}

bool Server::State::from_operator(const httplib::Request& request) {
    return is_operator(port, request.get_header_value("Authorization"),
                       request.get_header_value(kOperatorHeader));
}

void Server::State::route() {
    const auto get_as_operator = [this](const char* path, auto content) {
        http->Get(path, [this, content](const auto& request, auto& response) {
            if (from_operator(request)) return content(response);
            response.status = 401;
            response.set_header("WWW-Authenticate", "Bearer");
        });
    };
    http->Post("/v1/chat/completions",
               [this](const auto& request, auto& response) { complete(Endpoint::kChat, request, response); });
    http->Post("/v1/completions", [this](const auto& request, auto& response) {
        complete(Endpoint::kCompletion, request, response);
    });
    http->Post("/v1/flexserve/workflows",
               [this](const auto& request, auto& response) { workflows.run(request, response); });
    http->Get("/v1/models", [this](const auto&, auto& response) {
        auto names = models.names();
        if (!names) return send_error(response, names.error());
        response.set_content(format_models(*names), kJson);
    });
    http->Get("/health",
              [](const auto&, auto& response) { response.set_content(R"({"status":"ok"})", kJson); });
    get_as_operator("/flexserve/status",
                    [this](auto& response) { response.set_content(format_status(status()), kJson); });
    get_as_operator("/metrics", [this](auto& response) {
        response.set_content(format_metrics(status(), generator.counters(), workflows.counters()),
                             "text/plain; version=0.0.4; charset=utf-8");
    });
    route_sessions(*http, models, callers);
    http->set_error_handler([](const auto&, auto& response) {
        if (response.body.empty()) response.set_content(format_http_error(response.status), kJson);
    });
    http->set_exception_handler([](const auto&, auto& response, std::exception_ptr) {
        send_error(response, fail(ErrorCode::kOutOfMemory, "the request needs more memory than there is"));
    });
}

ServerStatus Server::State::status() {
    ServerStatus status;
    status.protection = port.name();
    status.is_protected = port.is_protected();
    status.uptime_seconds = std::chrono::duration<double>(Clock::now() - started).count();
    status.memory = port.memory_info();
    status.models = models.status();
    status.cache = models.counters();
    status.generator = generator.status();
    status.stored = models.store_status();
    if (options.models.npu != nullptr) status.npu = options.models.npu->counters();
    return status;
}

void Server::State::keep_memory() {
    while (!stopping) {
        std::uint64_t bytes = port.wait_reclaim(kReclaimWait);
        if (bytes == 0) models.tend();
        // What is computing cannot go; a short answer may end in time for the one who asked.
        for (int attempt = 0; bytes > 0 && attempt < kReclaimAttempts && !stopping; ++attempt) {
            bytes -= std::min(bytes, models.give_back(bytes));
            if (bytes > 0) std::this_thread::sleep_for(kPollInterval);
        }
    }
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::create(port::Port& port, const ServerOptions& options) {
    auto state = std::make_unique<State>(port, options);
    Status tls;
    state->http = std::make_unique<httplib::SSLServer>([&](SSL_CTX& context) {
        tls = configure_tls(&context, port);
        return tls.ok();
    });
    if (!tls) return tls.error();
    httplib::SSLServer& http = *state->http;
    http.new_task_queue = [] { return new httplib::ThreadPool(kConnectionThreads, kMaxWaitingConnections); };
    http.set_payload_max_length(kMaxBodyBytes);
    http.set_read_timeout(kReadSeconds);
    http.set_write_timeout(kWriteSeconds);
    http.set_keep_alive_timeout(kKeepAliveSeconds);
    http.set_keep_alive_max_count(kKeepAliveRequests);
    http.set_tcp_nodelay(true);
    state->route();
    const auto& at = options.endpoint;
    const int bound = at.port == 0                             ? http.bind_to_any_port(at.address)
                      : http.bind_to_port(at.address, at.port) ? at.port
                                                               : -1;
    if (bound <= 0) {
        return fail(ErrorCode::kIo, "cannot listen on " + at.address + ":" + std::to_string(at.port) +
                                        "; is another server running there?");
    }
    state->bound = static_cast<std::uint16_t>(bound);
    // Only where memory is protected does anybody ask for it back this way, or where it was limited.
    if (port.is_protected() || options.models.cache_bytes != 0)
        state->reclaimer = std::thread([raw = state.get()] { raw->keep_memory(); });
    return std::unique_ptr<Server>(new Server(std::move(state)));
}

std::uint16_t Server::port() const { return state_->bound; }
pipeline::Registry& Server::models() { return state_->models; }

Status Server::run() {
    if (!state_->http->listen_after_bind() && !state_->stopping) {
        return fail(ErrorCode::kIo, "accepting connections failed");
    }
    return {};
}

void Server::stop() {
    state_->stopping = true;
    state_->workflows.stop();
    state_->http->stop();
}

} // namespace flex::api
