#include "api/workflows.h"

#include <nlohmann/json.hpp>

#include "api/http.h"
#include "api/openai.h"
#include "api/prepare.h"
#include "base/json_depth.h"
#include "schedule/flow.h"

namespace flex::api {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPeerInterval(100);

Error invalid(const std::string& what) { return fail(ErrorCode::kInvalidArgument, what); }

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }
double rounded(double ms) { return std::round(ms * 1000) / 1000; }

/// What a client sent, checked.
struct FlowRequest {
    schedule::Workflow workflow;
    std::vector<std::string> inputs;
    std::vector<bool> reveal; // by node
    bool stream = false;
    std::string cache_key;
};

Result<std::vector<bool>> read_reveal(const Json& object, const schedule::Workflow& workflow) {
    std::vector<bool> reveal(workflow.nodes.size(), false);
    const auto found = object.find("reveal");
    if (found == object.end()) return reveal;
    if (found->is_boolean()) return std::vector<bool>(workflow.nodes.size(), found->get<bool>());
    if (!found->is_array()) return invalid("reveal must be true, false or an array of node ids");
    for (const Json& id : *found) {
        const auto node = std::ranges::find_if(workflow.nodes, [&](const auto& n) { return id == n.id; });
        if (node == workflow.nodes.end()) return invalid("reveal names " + dump(id) + ", which is no node");
        reveal[static_cast<std::size_t>(node - workflow.nodes.begin())] = true;
    }
    return reveal;
}

Result<std::map<std::string, std::string>> read_inputs(const Json& object) {
    std::map<std::string, std::string> given;
    const auto found = object.find("inputs");
    if (found == object.end()) return given;
    if (!found->is_object() || found->size() > schedule::kMaxInputs)
        return invalid("inputs must be an object of at most " + std::to_string(schedule::kMaxInputs) +
                       " texts");
    for (const auto& [name, value] : found->items()) {
        if (!value.is_string()) return invalid("each of inputs must be a string");
        given[name] = value.get<std::string>();
    }
    return given;
}

Result<FlowRequest> parse_flow(std::string_view body) {
    if (json_deeper_than(body, kMaxJsonDepth))
        return invalid("the JSON is nested more than " + std::to_string(kMaxJsonDepth) + " deep");
    const Json object = Json::parse(body, nullptr, false);
    if (!object.is_object()) return invalid("the body must be a JSON object");
    for (const auto& [name, value] : object.items()) {
        if (name != "workflow" && name != "inputs" && name != "reveal" && name != "stream" &&
            name != "prompt_cache_key")
            return invalid("there is no field \"" + name + "\" here");
    }
    if (!object.contains("workflow")) return invalid("workflow is missing");
    FlowRequest request;
    FLEX_ASSIGN(request.workflow, schedule::parse_workflow(dump(object["workflow"])));
    FLEX_ASSIGN(const auto given, read_inputs(object));
    FLEX_ASSIGN(request.inputs, schedule::bind_inputs(request.workflow, given));
    FLEX_ASSIGN(request.reveal, read_reveal(object, request.workflow));
    if (const auto stream = object.find("stream"); stream != object.end()) {
        if (!stream->is_boolean()) return invalid("stream must be true or false");
        request.stream = stream->get<bool>();
    }
    if (const auto key = object.find("prompt_cache_key"); key != object.end()) {
        if (!key->is_string() || key->get_ref<const std::string&>().size() > kMaxStopBytes)
            return invalid("prompt_cache_key must be a string of at most " + std::to_string(kMaxStopBytes) +
                           " bytes");
        request.cache_key = key->get<std::string>();
    }
    return request;
}

/// A node as the chat request that it stands for.
Result<CompletionRequest> node_request(const schedule::Node& node,
                                       const std::vector<schedule::Backend::Prompt>& messages) {
    Json body = Json::parse(node.parameters, nullptr, false);
    body["model"] = node.model;
    body["messages"] = Json::array();
    for (const auto& message : messages)
        body["messages"].push_back({{"role", message.role}, {"content", message.content}});
    return parse_request(Endpoint::kChat, dump(body));
}

/// All that can be told before anything runs.
Status check(const FlowRequest& request, pipeline::Registry& models) {
    FLEX_ASSIGN(const auto names, models.names());
    for (const schedule::Node& node : request.workflow.nodes) {
        if (!std::ranges::binary_search(names, node.model))
            return fail(ErrorCode::kNotFound,
                        "node " + node.id + ": there is no model \"" + node.model + "\"");
        std::vector<schedule::Backend::Prompt> messages;
        for (const auto& message : node.messages) messages.push_back({message.role, {}});
        if (const auto parsed = node_request(node, messages); !parsed)
            return fail(parsed.error().code, "node " + node.id + ": " + parsed.error().message);
    }
    return {};
}

class GenerationCall final : public schedule::Call {
public:
    explicit GenerationCall(std::shared_ptr<Generation> generation) : generation_(std::move(generation)) {}
    ~GenerationCall() override { generation_->cancel(); } // does nothing to one that is done
    News news() override {
        auto progress = generation_->wait(std::chrono::milliseconds(0));
        return {std::move(progress.text), progress.done};
    }
    Result<schedule::CallResult> result() override {
        FLEX_ASSIGN(const GenerationResult result, generation_->result());
        const GenerationTimings& t = result.timings;
        return schedule::CallResult{result.prompt_tokens,
                                    result.cached_tokens,
                                    static_cast<std::uint32_t>(result.tokens.size()),
                                    t.allocate_ms + t.load_ms + t.decrypt_ms,
                                    t.ttft_ms,
                                    t.decode_tokens_per_second};
    }

private:
    std::shared_ptr<Generation> generation_;
};

Json node_json(const schedule::Node& node, const schedule::NodeReport& report) {
    Json json = {{"node", node.id}, {"model", node.model}, {"state", schedule::name_of(report.state)}};
    json["ready_ms"] = rounded(report.ready_ms);
    json["started_ms"] = rounded(report.started_ms);
    json["first_text_ms"] = rounded(report.first_text_ms);
    json["ended_ms"] = rounded(report.ended_ms);
    json["prompt_tokens"] = report.result.prompt_tokens;
    json["cached_tokens"] = report.result.cached_tokens;
    json["answer_tokens"] = report.result.answer_tokens;
    json["load_ms"] = rounded(report.result.load_ms);
    json["ttft_ms"] = rounded(report.result.first_token_ms);
    json["tokens_per_second"] = rounded(report.result.tokens_per_second);
    return json;
}

} // namespace

/// Passes hints to the registry on a thread of its own: opening a model reads its package.
class Workflows::Hints {
public:
    explicit Hints(pipeline::Registry& models) : models_(models), thread_([this] { work(); }) {}
    ~Hints() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
            changed_.notify_all();
        }
        thread_.join();
    }
    void give(const std::string& model, bool expected) {
        const std::lock_guard lock(mutex_);
        waiting_.emplace_back(model, expected);
        changed_.notify_all();
    }

private:
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
            if (stop_) return;
            const auto [model, expected] = waiting_.front();
            waiting_.pop_front();
            lock.unlock();
            // What fails here fails the request, too, and that tells why.
            static_cast<void>(models_.expect(model, expected));
            lock.lock();
        }
    }

    pipeline::Registry& models_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::pair<std::string, bool>> waiting_;
    bool stop_ = false;
    std::thread thread_;
};

/// One workflow under way.
class Workflows::Run final : public schedule::Backend {
public:
    Run(Workflows& owner, FlowRequest request, Caller caller)
        : owner_(owner), request_(std::move(request)), caller_(std::move(caller)),
          flow_(request_.workflow, request_.inputs, *this) {}
    ~Run() override {
        const std::lock_guard lock(owner_.mutex_);
        --owner_.counters_.running;
    }

    Result<std::unique_ptr<schedule::Call>> start(const schedule::Node& node,
                                                  const std::vector<Prompt>& messages,
                                                  std::shared_ptr<schedule::Bell> bell) override {
        FLEX_ASSIGN(auto parsed, node_request(node, messages));
        parsed.cache_key = request_.cache_key;
        FLEX_ASSIGN(auto prepared, prepare(owner_.models_, std::move(parsed), caller_, Clock::now()));
        prepared.generation->set_listener([bell] { bell->ring(); });
        FLEX_TRY(owner_.generator_.submit(prepared.generation));
        return std::unique_ptr<schedule::Call>(
            std::make_unique<GenerationCall>(std::move(prepared.generation)));
    }
    void expect(const std::string& model, bool expected) override { owner_.hints_->give(model, expected); }

    /// Runs it. `write` gets the events and returns whether they could be sent. Returns the last one.
    Json go(const httplib::Request& http, const std::function<bool(const Json&)>& write) {
        const auto output = flow_.run([&](const schedule::Event& event) { return tell(event, http, write); });
        Json last = {{"type", output ? "workflow.finished" : "workflow.failed"}};
        last["workflow"] = request_.workflow.name;
        if (output) last["output"] = *output;
        if (!output) last.update(Json::parse(format_error(flow_.error().error), nullptr, false));
        if (!output && flow_.error().node) last["node"] = request_.workflow.nodes[*flow_.error().node].id;
        if (!output) last["deadline"] = flow_.error().deadline;
        last["total_ms"] = rounded(flow_.elapsed_ms());
        last["nodes"] = Json::array();
        for (std::size_t i = 0; i < request_.workflow.nodes.size(); ++i) {
            Json node = node_json(request_.workflow.nodes[i], flow_.reports()[i]);
            if (request_.reveal[i]) node["output"] = flow_.outputs()[i];
            last["nodes"].push_back(std::move(node));
        }
        count(output.has_value());
        return last;
    }
    [[nodiscard]] bool streams() const { return request_.stream; }
    [[nodiscard]] int status() const {
        return flow_.error().deadline ? 504 : http_status(flow_.error().error.code);
    }

private:
    bool tell(const schedule::Event& event, const httplib::Request& http,
              const std::function<bool(const Json&)>& write) {
        if (owner_.stopping_) return false;
        if (const auto now = Clock::now(); now - peer_checked_ >= kPeerInterval) {
            peer_checked_ = now;
            if (peer_has_gone(http)) return false;
        }
        if (event.kind == schedule::Event::Kind::kTick) return true;
        const schedule::Node& node = request_.workflow.nodes[event.node];
        if (event.kind == schedule::Event::Kind::kText)
            return !request_.reveal[event.node] ||
                   write({{"type", "node.text"}, {"node", node.id}, {"text", event.text}});
        Json json = {{"type", event.kind == schedule::Event::Kind::kStarted ? "node.started" : "node.ended"}};
        json.update(node_json(node, flow_.reports()[event.node]));
        return write(json);
    }
    void count(bool done) {
        const std::lock_guard lock(owner_.mutex_);
        const bool cancelled =
            !done && flow_.error().error.code == ErrorCode::kCancelled && !flow_.error().deadline;
        ++(done ? owner_.counters_.done : cancelled ? owner_.counters_.cancelled : owner_.counters_.failed);
        for (const auto& report : flow_.reports())
            owner_.counters_.nodes += report.state == schedule::NodeState::kDone;
    }

    Workflows& owner_;
    const FlowRequest request_;
    const Caller caller_;
    Clock::time_point peer_checked_ = Clock::now();
    schedule::Flow flow_;
};

Workflows::Workflows(pipeline::Registry& models, Generator& generator, const Callers& callers)
    : models_(models), generator_(generator), callers_(callers), hints_(std::make_unique<Hints>(models)) {}
Workflows::~Workflows() = default;

FlowCounters Workflows::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

void Workflows::run(const httplib::Request& request, httplib::Response& response) {
    auto parsed = parse_flow(request.body);
    if (!parsed) return send_error(response, parsed.error());
    if (const Status good = check(*parsed, models_); !good) return send_error(response, good.error());
    // Without a secret of the client's, the nodes of one run share with each other only.
    Caller caller = callers_.of(request.get_header_value("Authorization"));
    if (!caller.known() && parsed->cache_key.empty()) caller = callers_.fresh();
    {
        const std::lock_guard lock(mutex_);
        if (counters_.running >= kMaxFlows)
            return send_error(response,
                              fail(ErrorCode::kBusy,
                                   std::to_string(kMaxFlows) + " workflows run already; try again later"));
        ++counters_.running;
    }
    const auto run = std::make_shared<Run>(*this, std::move(*parsed), std::move(caller));
    if (!run->streams()) {
        const Json last = run->go(request, [](const Json&) { return true; });
        if (last["type"] == "workflow.failed") response.status = run->status();
        return response.set_content(dump(last), kJson);
    }
    response.set_header("Cache-Control", "no-cache");
    response.set_chunked_content_provider("text/event-stream",
                                          [run, &request](std::size_t, httplib::DataSink& sink) {
                                              const auto write = [&sink](const Json& json) {
                                                  const std::string text = event(json);
                                                  return sink.write(text.data(), text.size());
                                              };
                                              const Json last = run->go(request, write);
                                              const std::string end = event(last) + "data: [DONE]\n\n";
                                              if (!sink.write(end.data(), end.size())) return false;
                                              sink.done();
                                              return true;
                                          });
}

} // namespace flex::api
