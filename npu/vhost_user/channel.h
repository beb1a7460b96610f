// A Unix socket that carries vhost-user messages.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "npu/vhost_user/messages.h"

namespace flex::npu::vhost_user {

/// Owns a file descriptor.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd();
    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] bool valid() const { return fd_ >= 0; }

private:
    int fd_ = -1;
};

struct Message {
    static constexpr std::size_t kPayloadMax = 512; // more than any message that is understood here has

    Header header{};
    std::array<std::byte, kPayloadMax> payload{};
    std::vector<Fd> fds;

    /// The payload as a T, if it has that size exactly.
    template <class T> [[nodiscard]] bool read(T& out) const {
        if (header.size != sizeof(T)) return false;
        std::memcpy(&out, payload.data(), sizeof(T));
        return true;
    }
};

class Channel {
public:
    explicit Channel(Fd fd) : fd_(std::move(fd)) {}

    /// Waits for a message. False: the other side is gone, or what it sent is no message; nothing can follow
    /// then.
    bool receive(Message& message);
    bool send(std::uint32_t request, std::uint32_t flags, std::span<const std::byte> payload,
              std::span<const int> fds = {});
    [[nodiscard]] int fd() const { return fd_.get(); }

private:
    void await_next() const;

    Fd fd_;
};

template <class T> std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

} // namespace flex::npu::vhost_user
