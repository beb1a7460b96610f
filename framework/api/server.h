// The HTTPS server: TLS ends here, next to the model.
//
//   POST /v1/chat/completions, /v1/completions, /v1/flexserve/workflows
//   GET  /v1/models, /health; /flexserve/status, /metrics for the operator
//   GET, DELETE /flexserve/sessions; DELETE /flexserve/sessions/ID: the caller's own conversations
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "pipeline/registry.h"
#include "port/port.h"

namespace flex::api {

struct ServerOptions {
    port::Endpoint endpoint; ///< port 0: any free one
    pipeline::RegistryOptions models;
};

/// Any thread; run() belongs to one.
class Server {
public:
    /// Listens when it returns. `port` must outlive it. Errors: kIo (address in use), kInternal.
    static Result<std::unique_ptr<Server>> create(port::Port& port, const ServerOptions& options);
    ~Server();

    [[nodiscard]] std::uint16_t port() const;
    [[nodiscard]] pipeline::Registry& models();

    /// Serves until stop(). Error: kIo when accepting connections fails.
    Status run();
    void stop();

private:
    struct State;
    explicit Server(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

} // namespace flex::api
