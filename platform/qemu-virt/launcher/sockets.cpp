#include "launcher/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include <nlohmann/json.hpp>

namespace flex::platform {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

sockaddr_in local_address(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

void send_all(int fd, std::string_view data) {
    while (!data.empty()) {
        const ssize_t sent = ::send(fd, data.data(), data.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) throw DeviceError(std::string("the connection to the device broke: ") + std::strerror(errno));
        data.remove_prefix(static_cast<std::size_t>(sent));
    }
}

// Appends what arrives; false at the end of the stream. Throws when the deadline passes.
bool receive_some(int fd, std::string& buffer, std::optional<Clock::time_point> deadline) {
    while (true) {
        int wait = -1;
        if (deadline) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - Clock::now()).count();
            wait = left > 0 ? static_cast<int>(left) : 0;
        }
        pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
        const int ready = ::poll(&entry, 1, wait);
        if (ready < 0 && errno == EINTR) continue;
        if (ready == 0) throw DeviceError("the device did not answer in time");
        char chunk[16384];
        const ssize_t got = ::recv(fd, chunk, sizeof chunk, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        buffer.append(chunk, static_cast<std::size_t>(got));
        return true;
    }
}

bool bindable(std::uint16_t port, std::uint16_t* bound) {
    const FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int one = 1; // as QEMU does, or a port in TIME_WAIT would look taken
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address = local_address(port);
    socklen_t length = sizeof address;
    if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(fd.get(), 1) != 0 ||
        ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
        return false;
    *bound = ntohs(address.sin_port);
    return true;
}

} // namespace

FileDescriptor connect_unix(const fs::path& folder, const std::string& name) {
    const FileDescriptor directory(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    FileDescriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = "/proc/self/fd/" + std::to_string(directory.get()) + "/" + name;
    if (path.size() >= sizeof address.sun_path) throw DeviceError("socket name too long: " + name);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (!directory || !fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
        throw DeviceError("cannot reach the device at " + (folder / name).string() + ": " + std::strerror(errno));
    return fd;
}

std::optional<FileDescriptor> connect_local(std::uint16_t port) {
    FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = local_address(port);
    if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return std::nullopt;
    return fd;
}

std::uint16_t free_port(std::uint16_t wanted, std::uint16_t except) {
    std::uint16_t port = 0;
    if (wanted != 0 && wanted != except && bindable(wanted, &port)) return port;
    for (int attempt = 0; attempt < 16; ++attempt)
        if (bindable(0, &port) && port != except) return port;
    throw DeviceError("no free TCP port on 127.0.0.1");
}

std::string qmp(const fs::path& folder, const std::string& command, std::chrono::milliseconds timeout) {
    const Clock::time_point deadline = Clock::now() + timeout;
    const FileDescriptor fd = connect_unix(folder, "qmp.sock");
    std::string buffer;
    const auto next_message = [&] {
        std::size_t end = 0;
        while ((end = buffer.find('\n')) == std::string::npos)
            if (!receive_some(fd.get(), buffer, deadline)) throw DeviceError("QEMU closed its control connection");
        const nlohmann::json message = nlohmann::json::parse(buffer.substr(0, end), nullptr, false);
        buffer.erase(0, end + 1);
        if (!message.is_object()) throw DeviceError("QEMU's control connection sent no JSON");
        return message;
    };
    const auto reply = [&] {
        while (true) {
            const nlohmann::json message = next_message();
            if (message.contains("error"))
                throw DeviceError("QEMU refused '" + command + "': " + message["error"].value("desc", "no reason given"));
            if (message.contains("return")) return message["return"];
        }
    };
    if (!next_message().contains("QMP")) throw DeviceError("QEMU's control connection sent no greeting");
    send_all(fd.get(), R"({"execute":"qmp_capabilities"})"
                       "\n");
    reply();
    send_all(fd.get(), nlohmann::json{{"execute", command}}.dump() + "\n");
    return reply().dump();
}

std::optional<int> agent_exec(std::uint16_t port, const std::string& line,
                              const std::function<void(std::string_view)>& output,
                              std::optional<std::chrono::milliseconds> timeout) {
    if (line.find('\n') != std::string::npos) throw DeviceError("a command for the device is one line; separate with ';'");
    std::optional<Clock::time_point> deadline;
    if (timeout) deadline = Clock::now() + *timeout;
    const std::optional<FileDescriptor> fd = connect_local(port);
    if (!fd) throw DeviceError("the device's agent does not answer on port " + std::to_string(port));
    send_all(fd->get(), line + "\n");

    // The last line is "\x1eexit N\n". Output may lack a final newline, so the mark may follow any byte.
    const std::string mark = "\x1e" "exit ";
    std::string buffer;
    bool more = true;
    while (more) {
        more = receive_some(fd->get(), buffer, deadline);
        const std::size_t at = buffer.rfind(mark);
        if (at != std::string::npos && buffer.back() == '\n') {
            int code = 0;
            const char* begin = buffer.data() + at + mark.size();
            const char* end = buffer.data() + buffer.size() - 1;
            if (const auto parsed = std::from_chars(begin, end, code); parsed.ec == std::errc{} && parsed.ptr == end) {
                output(std::string_view(buffer).substr(0, at));
                return code;
            }
        }
        // Keep back what may be the beginning of the mark.
        const std::size_t possible = buffer.rfind('\x1e');
        const std::size_t safe = possible == std::string::npos ? buffer.size() : possible;
        output(std::string_view(buffer).substr(0, safe));
        buffer.erase(0, safe);
    }
    output(buffer);
    return std::nullopt;
}

} // namespace flex::platform
