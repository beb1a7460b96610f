#include "support/native_server.h"

#include <fstream>
#include <thread>

#include "api/server.h"
#include "api/tls.h"
#include "launcher/paths.h"
#include "package/chat_compiler.h"
#include "port/port.h"

namespace flex::test {
namespace {

template <class T> T value_or_throw(Result<T> result) {
    if (!result) throw platform::DeviceError(result.error().message);
    return std::move(*result);
}

} // namespace

struct NativeServer::State {
    std::unique_ptr<port::Port> port;
    std::unique_ptr<api::Server> server;
    std::thread thread;
    std::filesystem::path ca_file;
};

NativeServer::NativeServer(const std::filesystem::path& folder, const std::string& name, const std::filesystem::path& gguf)
    : state_(std::make_unique<State>()) {
    std::filesystem::create_directories(folder);
    state_->port = value_or_throw(port::make_native_port(folder));
    api::ServerOptions options;
    options.endpoint = {"127.0.0.1", 0};
    options.models.threads = 2;
    state_->server = value_or_throw(api::Server::create(*state_->port, options));
    auto chat = value_or_throw(package::chat_form_of_file(gguf, ""));
    if (const Status added = state_->server->models().add_gguf(name, gguf, std::move(chat.form)); !added) throw platform::DeviceError(added.error().message);
    state_->ca_file = folder / "device-ca.pem";
    std::ofstream(state_->ca_file) << value_or_throw(api::device_ca_pem(*state_->port));
    state_->thread = std::thread([server = state_->server.get()] { (void)server->run(); });
}

NativeServer::~NativeServer() {
    state_->server->stop();
    state_->thread.join();
}

attack::ApiClient NativeServer::api() const { return {state_->ca_file, state_->server->port()}; }

} // namespace flex::test
