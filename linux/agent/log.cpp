#include "linux/agent/log.h"

#include <fcntl.h>
#include <unistd.h>

namespace flex::agent {
namespace {

void write_all(int fd, std::string_view text) {
    while (fd >= 0 && !text.empty()) {
        ssize_t put = ::write(fd, text.data(), text.size());
        if (put <= 0) return;
        text.remove_prefix(static_cast<std::size_t>(put));
    }
}

bool harmless(char c) { return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f); }

} // namespace

std::string log_lines(std::string_view source, std::string_view text) {
    std::string result;
    while (!text.empty()) {
        std::size_t end = std::min(text.find('\n'), text.size());
        result.append(source).append(": ");
        for (char c : text.substr(0, end)) result.push_back(harmless(c) ? c : '?');
        result.push_back('\n');
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return result;
}

Log::Log(const std::string& console, const std::string& file)
    : console_(open(console.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC)),
      file_(open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) {}

void Log::write(std::string_view source, std::string_view text) {
    std::string lines = log_lines(source, text);
    std::lock_guard guard(lock_);
    write_all(console_.get(), lines);
    write_all(file_.get(), lines);
}

} // namespace flex::agent
