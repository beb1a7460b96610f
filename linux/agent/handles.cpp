#include "linux/agent/handles.h"

#include <algorithm>
#include <cerrno>
#include <sys/socket.h>
#include <unistd.h>

namespace flex::agent {
namespace {

void wake_users(const Handle& handle) {
    if (handle.kind != HandleKind::kFile) shutdown(handle.descriptor.get(), SHUT_RDWR);
}

} // namespace

Descriptor::~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = other.release();
    }
    return *this;
}

std::int64_t HandleTable::add(HandleKind kind, Descriptor descriptor) {
    auto handle = std::make_shared<Handle>(kind, std::move(descriptor));
    std::lock_guard guard(lock_);
    auto free = std::find(handles_.begin(), handles_.end(), nullptr);
    if (free == handles_.end()) {
        if (handles_.size() >= kMax) return -EMFILE;
        free = handles_.insert(handles_.end(), nullptr);
    }
    *free = std::move(handle);
    return free - handles_.begin();
}

std::shared_ptr<Handle> HandleTable::find(std::uint64_t number) const {
    std::lock_guard guard(lock_);
    return number < handles_.size() ? handles_[number] : nullptr;
}

std::int64_t HandleTable::close(std::uint64_t number) {
    std::shared_ptr<Handle> handle;
    {
        std::lock_guard guard(lock_);
        if (number < handles_.size()) handle.swap(handles_[number]);
    }
    if (!handle) return -EBADF;
    wake_users(*handle);
    return 0;
}

void HandleTable::close_all() {
    std::vector<std::shared_ptr<Handle>> all;
    {
        std::lock_guard guard(lock_);
        all.swap(handles_);
    }
    for (const auto& handle : all)
        if (handle) wake_users(*handle);
}

std::size_t HandleTable::size() const {
    std::lock_guard guard(lock_);
    return static_cast<std::size_t>(std::count_if(handles_.begin(), handles_.end(),
                                                  [](const auto& handle) { return handle != nullptr; }));
}

} // namespace flex::agent
