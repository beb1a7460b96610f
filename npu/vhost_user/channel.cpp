#include "npu/vhost_user/channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

namespace flex::npu::vhost_user {

namespace {

/// Those of a message with every kind of descriptor that there is.
constexpr std::size_t kFdsMax = kMemoryRegionsMax;
constexpr std::chrono::microseconds kBurstGap(50);

ssize_t receive_some(int fd, std::span<std::byte> to, std::vector<Fd>& fds) {
    alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))];
    iovec io{to.data(), to.size()};
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got = 0;
    do got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0) return got;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        for (std::size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int one = -1;
            std::memcpy(&one, reinterpret_cast<char*>(c) + at, sizeof one);
            fds.emplace_back(one);
        }
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0 || fds.size() > kFdsMax) return -1;
    return got;
}

bool receive_all(int fd, std::span<std::byte> to, std::vector<Fd>& fds) {
    while (!to.empty()) {
        const ssize_t got = receive_some(fd, to, fds);
        if (got <= 0) return false;
        to = to.subspan(static_cast<std::size_t>(got));
    }
    return true;
}

} // namespace

Fd::~Fd() {
    if (fd_ >= 0) ::close(fd_);
}

/// A register access or a start of the device is many messages, each sent when the last is answered: the next
/// one comes sooner than a thread that sleeps wakes up.
void Channel::await_next() const {
    const auto give_up = std::chrono::steady_clock::now() + kBurstGap;
    std::byte first;
    while (recv(fd_.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN &&
           std::chrono::steady_clock::now() < give_up) {
    }
}

bool Channel::receive(Message& message) {
    message.fds.clear();
    await_next();
    if (!receive_all(fd_.get(), std::as_writable_bytes(std::span(&message.header, 1)), message.fds))
        return false;
    if ((message.header.flags & kVersionMask) != kVersion || message.header.size > Message::kPayloadMax)
        return false;
    return receive_all(fd_.get(), std::span(message.payload).first(message.header.size), message.fds);
}

bool Channel::send(std::uint32_t request, std::uint32_t flags, std::span<const std::byte> payload,
                   std::span<const int> fds) {
    Header header{request, flags | kVersion, static_cast<std::uint32_t>(payload.size())};
    iovec io[2] = {{&header, sizeof header}, {const_cast<std::byte*>(payload.data()), payload.size()}};
    alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = io;
    message.msg_iovlen = 2;
    if (!fds.empty() && fds.size() <= kFdsMax) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* const c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
    }
    ssize_t sent = 0;
    do sent = sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    // Messages are far smaller than a socket's buffer: one that does not go out as a whole never will.
    return sent == static_cast<ssize_t>(sizeof header + payload.size());
}

} // namespace flex::npu::vhost_user
