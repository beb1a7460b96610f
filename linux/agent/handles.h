// Handles: the numbers by which the secure world names the files and streams that the agent keeps for it.
#ifndef FLEX_LINUX_AGENT_HANDLES_H
#define FLEX_LINUX_AGENT_HANDLES_H

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace flex::agent {

// Owns a file descriptor.
class Descriptor {
public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    ~Descriptor();
    Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
    Descriptor& operator=(Descriptor&& other) noexcept;
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] bool valid() const { return fd_ >= 0; }
    [[nodiscard]] int release() {
        int fd = fd_;
        fd_ = -1;
        return fd;
    }

private:
    int fd_;
};

enum class HandleKind { kFile, kListener, kStream };

struct Handle {
    HandleKind kind;
    Descriptor descriptor;
};

// Files and streams share one number space, 0..65535 (abi/rpc.h). Thread-safe. A handle that is closed while
// another thread works with it stays open until that thread is done; a stream is shut down first, so that the
// thread wakes.
class HandleTable {
public:
    static constexpr std::size_t kMax = 65536;

    // -> the handle's number, or -EMFILE.
    std::int64_t add(HandleKind kind, Descriptor descriptor);
    // Null when there is no such handle.
    [[nodiscard]] std::shared_ptr<Handle> find(std::uint64_t number) const;
    // 0 or -EBADF.
    std::int64_t close(std::uint64_t number);
    void close_all();
    [[nodiscard]] std::size_t size() const;

private:
    mutable std::mutex lock_;
    std::vector<std::shared_ptr<Handle>> handles_;
};

} // namespace flex::agent

#endif
