// Whoever can reach the device's HTTPS port: old protocol versions, noise, malformed HTTP and JSON.
#include <openssl/ssl.h>

#include <algorithm>
#include <memory>
#include <random>

#include <sys/socket.h>
#include <sys/time.h>

#include "cli/attack/attack.h"
#include "cli/attack/target.h"
#include "launcher/sockets.h"

namespace flex::attack {
namespace {

using platform::DeviceError;
using platform::FileDescriptor;

constexpr const char* kStarts = "tos/program_starts";

struct Free {
    void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
    void operator()(SSL* p) const { SSL_free(p); }
};

FileDescriptor connect(Target& target) {
    auto fd = platform::connect_local(target.api().port());
    if (!fd) throw DeviceError("nobody listens on the device's port");
    const timeval patience{.tv_sec = 5, .tv_usec = 0};
    ::setsockopt(fd->get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return std::move(*fd);
}

/// A TLS connection that judges nothing. `ssl` is null when the handshake failed.
struct Session {
    FileDescriptor fd;
    std::unique_ptr<SSL_CTX, Free> context;
    std::unique_ptr<SSL, Free> ssl;
};

Session handshake(Target& target, int min_version, int max_version) {
    Session session{connect(target), std::unique_ptr<SSL_CTX, Free>(SSL_CTX_new(TLS_client_method())), nullptr};
    // Level 0: this client would speak anything, however weak.
    SSL_CTX_set_security_level(session.context.get(), 0);
    SSL_CTX_set_min_proto_version(session.context.get(), min_version);
    SSL_CTX_set_max_proto_version(session.context.get(), max_version);
    session.ssl.reset(SSL_new(session.context.get()));
    SSL_set_fd(session.ssl.get(), session.fd.get());
    if (SSL_connect(session.ssl.get()) != 1) session.ssl.reset();
    return session;
}

Outcome downgrade(Target& target) {
    if (!handshake(target, TLS1_3_VERSION, TLS1_3_VERSION).ssl) return failed("not even TLS 1.3 is spoken");
    for (const int version : {TLS1_2_VERSION, TLS1_1_VERSION, TLS1_VERSION})
        if (handshake(target, version, version).ssl) return breach("a TLS version before 1.3 was accepted");
    return blocked("TLS 1.0, 1.1 and 1.2 are refused, 1.3 is spoken");
}

Outcome plain_http(Target& target) {
    const FileDescriptor fd = connect(target);
    const std::string request = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[4096];
    const ssize_t got = ::recv(fd.get(), buffer, sizeof buffer, 0);
    const std::string_view answer(buffer, got > 0 ? static_cast<std::size_t>(got) : 0);
    if (answer.find("\"data\"") != answer.npos) return breach("the API answers without TLS");
    return blocked("nothing but a TLS alert or the end of the connection comes back");
}

/// What is sent, and what of it would be wrong to accept.
struct Nasty {
    const char* name;
    std::string bytes;
};

std::string post(const std::string& body, const std::string& length) {
    return "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
           "Content-Length: " + length + "\r\n\r\n" + body;
}
std::string post(const std::string& body) { return post(body, std::to_string(body.size())); }

std::string repeated(const std::string& text, std::size_t times) {
    std::string all;
    for (std::size_t i = 0; i < times; ++i) all += text;
    return all;
}

std::vector<Nasty> nasty_requests() {
    std::mt19937 random(20260101);
    std::string noise(4096, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    return {
        {"noise", noise + "\r\n\r\n"},
        {"an endless request line", "GET /" + std::string(1 << 16, 'a') + " HTTP/1.1\r\n\r\n"},
        {"ten thousand headers", "GET /health HTTP/1.1\r\n" + repeated("X-A: b\r\n", 10000) + "\r\n"},
        {"a negative length", post("{}", "-1")},
        {"a length of 2^64", post("{}", "18446744073709551616")},
        {"a length of 2^63 without a body", post("{}", "9223372036854775807")},
        {"chunks of a false size", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                                   "Connection: close\r\n\r\nffffffffffffffff\r\nabc\r\n0\r\n\r\n"},
        {"a path out of the tree", "GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"},
        {"JSON nested 100000 deep", post(std::string(100000, '['))},
        {"a JSON string without end", post("{\"model\": \"" + std::string(100000, 'a'))},
        {"text that is no UTF-8", post("{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\xc0\xaf\"}]}")},
        {"a million empty messages", post("{\"model\":\"demo\",\"messages\":[" + repeated("{\"role\":\"user\",\"content\":\"\"},", 100000) + "{}]}")},
        {"token ids out of range", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                                   "Connection: close\r\nContent-Length: 59\r\n\r\n"
                                   "{\"model\":\"demo\",\"prompt\":[4294967295,0,1],\"max_tokens\":4096}"},
        {"a model's name that is a path", post("{\"model\":\"../data/secret\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}")},
        {"absurd sampling", post("{\"model\":\"demo\",\"temperature\":1e308,\"top_p\":-1,\"top_k\":4294967295,"
                                 "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}")},
    };
}

/// The status of what comes back, 0 when nothing does.
int send_raw(Target& target, const std::string& bytes) {
    const Session session = handshake(target, TLS1_3_VERSION, TLS1_3_VERSION);
    if (!session.ssl) throw DeviceError("the TLS handshake failed");
    for (std::size_t at = 0; at < bytes.size();) {
        const int sent = SSL_write(session.ssl.get(), bytes.data() + at, static_cast<int>(std::min<std::size_t>(bytes.size() - at, 16384)));
        if (sent <= 0) break; // the device need not listen to the end
        at += static_cast<std::size_t>(sent);
    }
    char buffer[4096];
    const int got = SSL_read(session.ssl.get(), buffer, sizeof buffer - 1);
    if (got < 12) return 0;
    buffer[got] = '\0';
    return std::atoi(buffer + 9); // HTTP/1.1 nnn
}

Outcome malformed_requests(Target& target) {
    const std::uint64_t starts = target.stat(kStarts);
    const auto requests = nasty_requests();
    for (const Nasty& nasty : requests) {
        const int status = send_raw(target, nasty.bytes);
        if (status >= 200 && status < 300) return breach(std::string(nasty.name) + " was accepted");
        if (target.stat(kStarts) != starts) return breach(std::string(nasty.name) + " ended the secure program");
    }
    return blocked(std::to_string(requests.size()) + " malformed requests were refused one by one");
}

/// Noise instead of a handshake, and connections that never say anything.
Outcome broken_connections(Target& target) {
    const std::uint64_t starts = target.stat(kStarts);
    std::mt19937 random(20260102);
    std::vector<FileDescriptor> silent;
    for (int i = 0; i < 24; ++i) {
        FileDescriptor fd = connect(target);
        std::string noise(1 + random() % 2000, '\0');
        for (char& c : noise) c = static_cast<char>(random());
        // Every other one begins like a TLS record (RFC 8446, 5.1), so that the noise gets further.
        if (i % 2 == 0) noise = std::string("\x16\x03\x01\x04\x00\x01\x00\x03\xfc\x03\x03", 11) + noise;
        ::send(fd.get(), noise.data(), noise.size(), MSG_NOSIGNAL);
        if (i % 3 == 0) silent.push_back(std::move(fd));
    }
    silent.clear();
    if (const auto problem = target.damage()) return breach(*problem);
    if (target.stat(kStarts) != starts) return breach("the secure program ended");
    return blocked("24 broken handshakes cost nothing but their connections");
}

} // namespace

std::vector<Attack> network_attacks() {
    return {
        {"tls-downgrade", 23, Kind::kHost, "asks for TLS versions before 1.3", downgrade},
        {"plain-http", 23, Kind::kHost, "talks to the API without TLS", plain_http},
        {"http-malformed", 24, Kind::kHost, "sends malformed HTTP and JSON", malformed_requests},
        {"tls-noise", 24, Kind::kHost, "sends noise instead of handshakes and leaves connections open", broken_connections},
    };
}

} // namespace flex::attack
