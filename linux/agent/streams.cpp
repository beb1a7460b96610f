#include "linux/agent/streams.h"

#include <cerrno>
#include <chrono>
#include <climits>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <vector>

namespace flex::agent {
namespace {

using Clock = std::chrono::steady_clock;

// A timeout of the ABI: milliseconds, negative for none.
class Deadline {
public:
    explicit Deadline(std::uint64_t argument)
        : milliseconds_(static_cast<std::int64_t>(argument)), start_(Clock::now()) {}

    // For poll(2): what is left, at least 0; -1 for ever.
    [[nodiscard]] int left() const {
        if (milliseconds_ < 0) return -1;
        auto gone = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start_).count();
        return static_cast<int>(std::clamp<std::int64_t>(milliseconds_ - gone, 0, INT_MAX));
    }

private:
    std::int64_t milliseconds_;
    Clock::time_point start_;
};

// 0 when ready, -EAGAIN at the deadline.
int wait_for(int fd, short events, const Deadline& deadline) {
    pollfd entry{fd, events, 0};
    int ready = 0;
    do {
        ready = ::poll(&entry, 1, deadline.left());
    } while (ready < 0 && errno == EINTR);
    if (ready < 0) return -errno;
    return ready == 0 ? -EAGAIN : 0;
}

std::shared_ptr<Handle> handle_of(const HandleTable& handles, HandleKind kind, Request& request) {
    auto handle = handles.find(request.argument(0));
    if (handle && handle->kind == kind) return handle;
    request.finish(-EBADF);
    return nullptr;
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

} // namespace

void Streams::listen(Request& request) {
    std::uint64_t port = request.argument(0);
    if (port == 0 || port > 65535) return request.finish(-EINVAL);
    Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.valid()) return request.finish(-errno);
    int one = 1;
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    int backlog = static_cast<int>(std::min<std::uint64_t>(request.argument(1), SOMAXCONN));
    if (bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(socket.get(), backlog) != 0)
        return request.finish(-errno);
    request.finish(handles_.add(HandleKind::kListener, std::move(socket)));
}

void Streams::accept(Request& request) {
    auto listener = handle_of(handles_, HandleKind::kListener, request);
    if (!listener) return;
    Deadline deadline(request.argument(1));
    for (;;) {
        sockaddr_in peer{};
        socklen_t length = sizeof peer;
        Descriptor socket(accept4(listener->descriptor.get(), reinterpret_cast<sockaddr*>(&peer), &length,
                                  SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (socket.valid()) {
            int one = 1; // answers are streamed token by token
            setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            request.set_out(0, std::uint64_t{ntohl(peer.sin_addr.s_addr)} << 16 | ntohs(peer.sin_port));
            return request.finish(handles_.add(HandleKind::kStream, std::move(socket)));
        }
        if (!would_block(errno) && errno != ECONNABORTED) return request.finish(-errno);
        if (int error = wait_for(listener->descriptor.get(), POLLIN, deadline)) return request.finish(error);
    }
}

void Streams::receive(Request& request) {
    auto stream = handle_of(handles_, HandleKind::kStream, request);
    if (!stream) return;
    auto into = request.answer();
    into = into.first(std::min<std::uint64_t>(request.argument(1), into.size()));
    Deadline deadline(request.argument(2));
    for (;;) {
        ssize_t got = recv(stream->descriptor.get(), into.data(), into.size(), 0);
        if (got >= 0) return request.finish(got, static_cast<std::size_t>(got));
        if (!would_block(errno)) return request.finish(-errno);
        if (int error = wait_for(stream->descriptor.get(), POLLIN, deadline)) return request.finish(error);
    }
}

void Streams::send(Request& request) {
    auto stream = handle_of(handles_, HandleKind::kStream, request);
    if (!stream) return;
    auto from = request.data();
    Deadline deadline(request.argument(2));
    std::size_t done = 0;
    while (done < from.size()) {
        ssize_t put = ::send(stream->descriptor.get(), from.data() + done, from.size() - done, MSG_NOSIGNAL);
        if (put >= 0) {
            done += static_cast<std::size_t>(put);
            continue;
        }
        int error = would_block(errno) ? wait_for(stream->descriptor.get(), POLLOUT, deadline) : -errno;
        if (error && done == 0) return request.finish(error);
        if (error) break;
    }
    request.finish(static_cast<std::int64_t>(done));
}

void Streams::poll(Request& request) {
    struct Entry {
        std::uint32_t handle, events;
    };
    std::uint64_t count = request.argument(0);
    if (count > 32 || request.data().size() < count * sizeof(Entry)) return request.finish(-EINVAL);
    std::vector<Entry> entries(count);
    if (count) std::memcpy(entries.data(), request.data().data(), count * sizeof(Entry));
    std::vector<std::shared_ptr<Handle>> held(count);
    std::vector<pollfd> descriptors(count);
    bool missing = false;
    for (std::size_t i = 0; i < count; i++) {
        held[i] = handles_.find(entries[i].handle);
        missing |= !held[i];
        descriptors[i] = {held[i] ? held[i]->descriptor.get() : -1,
                          static_cast<short>(entries[i].events & 0x7fff), 0};
    }
    Deadline deadline(request.argument(1));
    int ready = 0;
    do {
        ready = ::poll(descriptors.data(), descriptors.size(), missing ? 0 : deadline.left());
    } while (ready < 0 && errno == EINTR);
    if (ready < 0) return request.finish(-errno);
    for (std::size_t i = 0; i < count; i++) {
        entries[i].events =
            held[i] ? static_cast<std::uint32_t>(descriptors[i].revents) : std::uint32_t{POLLNVAL};
        ready += !held[i];
    }
    if (count) std::memcpy(request.answer().data(), entries.data(), count * sizeof(Entry));
    request.finish(ready, count * sizeof(Entry));
}

void Streams::shutdown(Request& request) {
    auto stream = handle_of(handles_, HandleKind::kStream, request);
    if (!stream) return;
    if (request.argument(1) > 2) return request.finish(-EINVAL);
    // The ABI's 0, 1, 2 are SHUT_RD, SHUT_WR, SHUT_RDWR.
    request.finish(::shutdown(stream->descriptor.get(), static_cast<int>(request.argument(1))) == 0 ? 0
                                                                                                    : -errno);
}

} // namespace flex::agent
