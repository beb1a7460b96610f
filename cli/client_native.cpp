#include "cli/client_native.h"

#include <filesystem>
#include <stdexcept>
#include <thread>

#include <spdlog/spdlog.h>

#include "api/server.h"
#include "cli/client.h"
#include "launcher/paths.h"
#include "package/chat_compiler.h"

namespace flex::cli {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const Error& error) { throw std::runtime_error(error.message); }

/// A model's name that the API accepts, from a file's.
std::string name_for(const std::string& path) {
    std::string name = fs::path(path).stem().string().substr(0, package::kMaxNameBytes);
    for (char& c : name) {
        if (!package::is_valid_name(std::string("x") + c)) c = '-';
    }
    return package::is_valid_name(name) ? name : "model";
}

} // namespace

struct NativeServer::State {
    ~State() {
        if (server) server->stop();
        if (thread.joinable()) thread.join();
    }
    std::unique_ptr<port::Port> system;
    std::unique_ptr<api::Server> server;
    std::thread thread;
    std::string ca_file, model;
};

NativeServer::NativeServer(const std::string& model, unsigned context) : state_(std::make_unique<State>()) {
    const std::string folder = native_folder();
    auto system = port::make_native_port(folder);
    if (!system) fail(system.error());
    state_->system = std::move(*system);
    if (const auto done = port::provision_native(folder, platform::data_home().string()); !done)
        fail(done.error());
    state_->ca_file = folder + "/device-ca.pem";

    api::ServerOptions options;
    options.endpoint = {"127.0.0.1", 0};
    options.models.threads = std::max(1u, std::thread::hardware_concurrency());
    options.models.context = context;
    auto server = api::Server::create(*state_->system, options);
    if (!server) fail(server.error());
    state_->server = std::move(*server);
    const bool is_gguf = model.ends_with(".gguf");
    state_->model = is_gguf ? name_for(model) : model;
    if (is_gguf) {
        auto chat = package::chat_form_of_file(model, "");
        if (!chat) fail(chat.error());
        if (!chat->note.empty()) spdlog::warn("{}", chat->note);
        if (const auto added = state_->server->models().add_gguf(state_->model, model, std::move(chat->form)); !added)
            fail(added.error());
    } else if (!model.empty() && !fs::exists(folder + "/store/" + model + ".flex")) {
        throw std::runtime_error("there is no native package \"" + model +
                                 "\"; seal one (flexserve seal MODEL.gguf -o " + model +
                                 ".flex --native) or name a .gguf file");
    }
    state_->thread = std::thread([raw = state_->server.get()] { static_cast<void>(raw->run()); });
}

NativeServer::~NativeServer() = default;
std::uint16_t NativeServer::port() const { return state_->server->port(); }
const std::string& NativeServer::ca_file() const { return state_->ca_file; }
const std::string& NativeServer::model() const { return state_->model; }

} // namespace flex::cli
