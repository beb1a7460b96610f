#include "linux/agent/device.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <system_error>

namespace flex::agent {
namespace {

template <typename Argument> int control(int fd, unsigned long command, Argument argument) {
    int result = ioctl(fd, command, argument);
    return result >= 0 ? result : -errno;
}

} // namespace

Device::Device(const std::string& path) : descriptor_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    if (!descriptor_.valid()) throw std::system_error(errno, std::generic_category(), path);
    void* mapping =
        mmap(nullptr, FLEX_RPC_AREA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_.get(), 0);
    if (mapping == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap of " + path);
    slots_ = static_cast<flex_rpc_slot*>(mapping);
}

Device::~Device() { munmap(slots_, FLEX_RPC_AREA_BYTES); }

std::optional<flexserve_event> Device::next() const {
    flexserve_event event{};
    int error = control(descriptor_.get(), FLEXSERVE_IOC_NEXT, &event);
    if (error == -EINTR) return std::nullopt;
    if (error) throw std::system_error(-error, std::generic_category(), "waiting for an event");
    return event;
}

int Device::done(unsigned slot) const { return control(descriptor_.get(), FLEXSERVE_IOC_DONE, slot); }

int Device::load(unsigned slot, int file) const {
    flexserve_load request{slot, file};
    return control(descriptor_.get(), FLEXSERVE_IOC_LOAD, &request);
}

int Device::start() const { return control(descriptor_.get(), FLEXSERVE_IOC_START, 0); }
int Device::stop() const { return control(descriptor_.get(), FLEXSERVE_IOC_STOP, 0); }

} // namespace flex::agent
