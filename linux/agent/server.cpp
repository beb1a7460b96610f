#include "linux/agent/server.h"

#include <cerrno>
#include <chrono>

namespace flex::agent {

void Server::serve(Request& request) {
    switch (request.op()) {
    case FLEX_RPC_CLOSE:
        return request.finish(handles_.close(request.argument(0)));
    case FLEX_RPC_TIME: {
        auto now = std::chrono::system_clock::now().time_since_epoch();
        request.set_out(
            0, static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()));
        return request.finish(0);
    }
    case FLEX_RPC_LOG:
        log_.write("framework", request.text());
        return request.finish(0);
    default:
        return request.op() < FLEX_RPC_LISTEN ? serve_file(request) : serve_stream(request);
    }
}

void Server::serve_file(Request& request) {
    switch (request.op()) {
    case FLEX_RPC_OPEN:
        return files_.open(request);
    case FLEX_RPC_READ:
        return files_.read(request);
    case FLEX_RPC_WRITE:
        return files_.write(request);
    case FLEX_RPC_SIZE:
        return files_.size(request);
    case FLEX_RPC_SYNC:
        return files_.sync(request);
    case FLEX_RPC_RENAME:
        return files_.rename(request);
    case FLEX_RPC_UNLINK:
        return files_.unlink(request);
    case FLEX_RPC_LIST:
        return files_.list(request);
    case FLEX_RPC_TRUNCATE:
        return files_.truncate(request);
    default:
        return request.finish(-ENOSYS);
    }
}

void Server::serve_stream(Request& request) {
    switch (request.op()) {
    case FLEX_RPC_LISTEN:
        return streams_.listen(request);
    case FLEX_RPC_ACCEPT:
        return streams_.accept(request);
    case FLEX_RPC_RECEIVE:
        return streams_.receive(request);
    case FLEX_RPC_SEND:
        return streams_.send(request);
    case FLEX_RPC_POLL:
        return streams_.poll(request);
    case FLEX_RPC_SHUTDOWN:
        return streams_.shutdown(request);
    default:
        return request.finish(-ENOSYS);
    }
}

} // namespace flex::agent
