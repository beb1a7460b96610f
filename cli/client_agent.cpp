// flexserve agent FLOW: runs a workflow next to the models in the device, shows its progress and where the
// time went.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "cli/client.h"
#include "cli/client_api.h"
#include "cli/client_native.h"
#include "cli/output.h"
#include "cli/synth.h"
#include "launcher/device.h"
#include "port/files.h"

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxFile = 1u << 20;

struct AgentArguments {
    std::string flow;
    std::vector<std::string> inputs;
    bool native = false, stream = false, setup = false;
};

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string read_text(const std::string& path) {
    const auto content = port::read_file(path, kMaxFile);
    if (!content) throw std::runtime_error(content.error().message);
    return {reinterpret_cast<const char*>(content->data()), content->size()};
}

fs::path ready_workflows() { return platform::repository() / "models/workflows"; }

/// A file, or the name of one that comes with FlexServe.
Json read_flow(const std::string& name) {
    std::string path = name;
    if (!fs::exists(path)) path = (ready_workflows() / (name + ".json")).string();
    if (!fs::exists(path)) {
        std::string known;
        for (const auto& entry : fs::directory_iterator(ready_workflows()))
            known += (known.empty() ? "" : ", ") + entry.path().stem().string();
        throw std::runtime_error("there is no workflow " + name + "; ready ones are: " + known);
    }
    Json flow = Json::parse(read_text(path), nullptr, false);
    if (!flow.is_object()) throw std::runtime_error(path + " is not a JSON object");
    return flow;
}

/// KEY=TEXT, or KEY=@FILE.
Json read_inputs(const std::vector<std::string>& given) {
    Json inputs = Json::object();
    for (const std::string& one : given) {
        const std::size_t equals = one.find('=');
        if (equals == std::string::npos || equals == 0)
            throw std::runtime_error("--input " + one + ": write it like name=text or name=@file");
        const std::string value = one.substr(equals + 1);
        inputs[one.substr(0, equals)] = value.starts_with('@') ? read_text(value.substr(1)) : value;
    }
    return inputs;
}

/// Makes and seals the synthetic models that the workflow names and the store lacks.
void set_up(const Json& flow, bool native) {
    const auto setup = flow.find("setup");
    if (setup == flow.end())
        throw std::runtime_error("this workflow does not say which models to make: seal them yourself");
    const fs::path folder = native ? fs::path(native_folder()) : platform::device_folder();
    for (const auto& [name, how] : setup->items()) {
        if (fs::exists(folder / "store" / (name + ".flex"))) {
            spdlog::info("{} is sealed already", name);
            continue;
        }
        const std::string shape = how.value("shape", "");
        const std::string file =
            (fs::temp_directory_path() / ("flexserve-" + std::to_string(::getpid()) + ".gguf")).string();
        spdlog::info("making {} ({}, random weights) and sealing it", name, shape);
        const std::unique_ptr<const std::string, void (*)(const std::string*)> cleanup(
            &file, [](const std::string* path) { std::remove(path->c_str()); });
        write_synth_model(shape, file, how.value("seed", std::uint64_t{1}));
        if (native)
            seal_native(file, name);
        else
            seal_for(folder.string(), file, name, "auto");
    }
}

/// What comes while it runs, for a person. Goes to stderr, so that stdout has the output alone.
class ProgressPrinter {
public:
    explicit ProgressPrinter(bool stream) : stream_(stream) {}

    void operator()(const Json& event) {
        const std::string type = event.value("type", ""), node = event.value("node", "");
        if (type == "node.text") return text(node, event.value("text", ""));
        if (type != "node.started" && type != "node.ended") return;
        end_line();
        const bool started = type == "node.started";
        const double at = event.value(started ? "started_ms" : "ended_ms", 0.0) / 1000;
        std::fprintf(stderr, "%8.2f s  %-16s %s\n", at, printable(node).c_str(),
                     started ? ("asks " + printable(event.value("model", ""))).c_str()
                             : event.value("state", "").c_str());
    }
    void end_line() {
        if (!speaker_.empty()) std::fputc('\n', stderr);
        speaker_.clear();
    }

private:
    void text(const std::string& node, const std::string& text) {
        if (!stream_) return;
        if (speaker_ != node) {
            end_line();
            std::fprintf(stderr, "            %s: ", printable(node).c_str());
            speaker_ = node;
        }
        std::fputs(printable(text).c_str(), stderr);
    }
    const bool stream_;
    std::string speaker_; // whose text the line at hand has
};

void print_table(const Json& last) {
    std::fprintf(stderr, "\n  %-16s %-16s %-8s %8s %8s %8s %6s %6s %6s %8s\n", "node", "model", "state",
                 "waited", "first", "ended", "in", "cached", "out", "tokens/s");
    for (const Json& node : last.value("nodes", Json::array())) {
        const auto seconds = [&](const char* field) { return node.value(field, 0.0) / 1000; };
        std::fprintf(stderr, "  %-16s %-16s %-8s %7.2fs %7.2fs %7.2fs %6u %6u %6u %8.1f\n",
                     printable(node.value("node", "")).c_str(), printable(node.value("model", "")).c_str(),
                     node.value("state", "").c_str(),
                     std::max(0.0, seconds("started_ms") - seconds("ready_ms")), seconds("first_text_ms"),
                     seconds("ended_ms"), node.value("prompt_tokens", 0u), node.value("cached_tokens", 0u),
                     node.value("answer_tokens", 0u), node.value("tokens_per_second", 0.0));
    }
    std::fprintf(stderr, "  all: %.2f s (times since the start; waited: ready, but without a place)\n",
                 last.value("total_ms", 0.0) / 1000);
}

struct Connection {
    std::unique_ptr<NativeServer> native;
    std::unique_ptr<ApiClient> client;
};

Connection connect(bool native) {
    Connection connection;
    if (native) {
        connection.native = std::make_unique<NativeServer>("", 0);
        connection.client =
            std::make_unique<ApiClient>(connection.native->port(), connection.native->ca_file());
        spdlog::warn("--native: the models and this workflow are NOT protected on this machine");
        return connection;
    }
    connection.client = std::make_unique<ApiClient>(connect_to(platform::Device(platform::device_folder())));
    return connection;
}

int run_flow(const AgentArguments& arguments) {
    Json flow = read_flow(arguments.flow);
    const bool synthetic = flow.contains("setup");
    if (arguments.setup) {
        set_up(flow, arguments.native);
        return 0;
    }
    flow.erase("setup"); // ours, not the server's
    const Json body = {{"workflow", flow},
                       {"inputs", read_inputs(arguments.inputs)},
                       {"stream", true},
                       {"reveal", arguments.stream}};
    const bool json = json_wanted();
    if (synthetic && !json)
        spdlog::info("note: the models of this workflow have random weights; their answers are random text");
    Connection connection = connect(arguments.native);
    const InterruptGuard guard;
    ProgressPrinter progress(arguments.stream);
    Json last;
    const bool whole = [&] {
        try {
            return connection.client->stream(
                "/v1/flexserve/workflows", dump(body),
                [&](std::string_view text) {
                    const Json event = Json::parse(text);
                    if (event.value("type", "").starts_with("workflow.")) last = event;
                    if (!json) progress(event);
                    if (json && arguments.stream) std::printf("%s\n", std::string(text).c_str());
                },
                &InterruptGuard::interrupted());
        } catch (const std::exception& error) {
            const bool lacks_model = synthetic && std::string_view(error.what()).find("there is no model") !=
                                                      std::string_view::npos;
            throw std::runtime_error(std::string(error.what()) +
                                     (lacks_model ? "; make it with: flexserve agent " + arguments.flow +
                                                        " --setup" + (arguments.native ? " --native" : "")
                                                  : ""));
        }
    }();
    progress.end_line();
    if (!whole) {
        if (!json) std::fprintf(stderr, "cancelled\n");
        return 130;
    }
    if (json && !arguments.stream) std::printf("%s\n", dump(last).c_str());
    if (!json) print_table(last);
    if (last.value("type", "") == "workflow.finished") {
        if (!json) std::printf("\n%s\n", printable(last.value("output", "")).c_str());
        return 0;
    }
    if (!json)
        spdlog::error(
            "{}",
            printable(
                last.value("error", Json::object()).value("message", "the workflow ended without a result")));
    return 1;
}

} // namespace

void register_agent(CLI::App& app) {
    auto arguments = std::make_shared<AgentArguments>();
    CLI::App* command =
        app.add_subcommand("agent", "run a workflow: a graph of calls to several models (docs/workflows.md)");
    command
        ->add_option("flow", arguments->flow,
                     "a file, or a ready one: ui-navigation, mail-triage, search-answer")
        ->required();
    command->add_option("--input", arguments->inputs, "NAME=TEXT or NAME=@FILE; may be given several times")
        ->allow_extra_args(false);
    command->add_flag("--stream", arguments->stream,
                      "show the answers in between, too; else they stay in the secure world");
    command->add_flag("--setup", arguments->setup,
                      "make and seal the synthetic models that the workflow names, and stop");
    command->add_flag("--native", arguments->native, "run on this machine, without protection");
    command->callback([arguments] {
        if (const int code = run_flow(*arguments); code != 0) throw Exit{code};
    });
}

} // namespace flex::cli
