#include "linux/agent/pressure.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <unistd.h>

namespace flex::agent {
namespace {

// Some task waited for memory for 100 ms of a second.
constexpr char kTrigger[] = "some 100000 1000000";

std::uint64_t read_number(const std::string& file) {
    std::uint64_t number = 0;
    std::ifstream(file) >> number;
    return number;
}

} // namespace

void watch_pressure(const std::string& pressure, const std::string& driver, Log& log) {
    const int file = ::open(pressure.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || ::write(file, kTrigger, sizeof kTrigger) < 0) {
        log.write("agent",
                  pressure + ": " + strerror(errno) + "; memory is asked back only when Linux has none left");
        if (file >= 0) ::close(file);
        return;
    }
    ReclaimSteps steps;
    for (;;) {
        pollfd entry{.fd = file, .events = POLLPRI, .revents = 0};
        if (::poll(&entry, 1, -1) < 0 && errno != EINTR) break;
        if ((entry.revents & POLLERR) != 0) break;
        if ((entry.revents & POLLPRI) == 0 || read_number(driver + "/lent_bytes") == 0) continue;
        const std::uint64_t bytes = steps.next(std::chrono::steady_clock::now());
        std::ofstream(driver + "/reclaim") << bytes << std::flush;
    }
    ::close(file);
}

} // namespace flex::agent
