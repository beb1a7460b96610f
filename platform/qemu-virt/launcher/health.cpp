#include <sys/socket.h>
#include <sys/time.h>

#include <csignal>
#include <ctime>
#include <memory>
#include <string>

#include <openssl/ssl.h>

#include "launcher/sockets.h"

namespace flex::platform {

namespace {

/// While one lives, writing to a broken connection is an error of this thread's call and not the program's end: OpenSSL's sockets know
/// no MSG_NOSIGNAL.
class NoBrokenPipe final {
public:
    NoBrokenPipe() {
        sigemptyset(&pipe_);
        sigaddset(&pipe_, SIGPIPE);
        blocked_ = pthread_sigmask(SIG_BLOCK, &pipe_, &before_) == 0;
    }
    NoBrokenPipe(const NoBrokenPipe&) = delete;
    NoBrokenPipe& operator=(const NoBrokenPipe&) = delete;
    ~NoBrokenPipe() {
        if (!blocked_) return;
        constexpr timespec kNow{};
        if (sigismember(&before_, SIGPIPE) == 0) sigtimedwait(&pipe_, nullptr, &kNow);
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }

private:
    sigset_t pipe_{}, before_{};
    bool blocked_ = false;
};

} // namespace

// OpenSSL itself rather than cpp-httplib: one request, and its headers alone would double the time this room takes to build.
bool https_healthy(std::uint16_t port, std::chrono::milliseconds timeout) {
    const NoBrokenPipe guard;
    const std::optional<FileDescriptor> fd = connect_local(port);
    if (!fd) return false;
    timeval limit{};
    limit.tv_sec = timeout.count() / 1000;
    limit.tv_usec = timeout.count() % 1000 * 1000;
    ::setsockopt(fd->get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd->get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);

    const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
    if (!context) return false;
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
    const std::unique_ptr<SSL, decltype(&SSL_free)> session(SSL_new(context.get()), &SSL_free);
    if (!session || SSL_set_fd(session.get(), fd->get()) != 1 || SSL_connect(session.get()) != 1) return false;
    const std::string request = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (SSL_write(session.get(), request.data(), static_cast<int>(request.size())) != static_cast<int>(request.size())) return false;
    const std::string good = "HTTP/1.1 200 ";
    std::string answer;
    char chunk[256];
    while (answer.size() < good.size()) {
        const int got = SSL_read(session.get(), chunk, sizeof chunk);
        if (got <= 0) return false;
        answer.append(chunk, static_cast<std::size_t>(got));
    }
    return answer.starts_with(good);
}

} // namespace flex::platform
