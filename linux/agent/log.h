// The device's log: the console and a file. Text of the secure world is data here: control characters are
// made harmless.
#ifndef FLEX_LINUX_AGENT_LOG_H
#define FLEX_LINUX_AGENT_LOG_H

#include "linux/agent/handles.h"

#include <mutex>
#include <string>
#include <string_view>

namespace flex::agent {

// Thread-safe. A console or file that cannot be written is passed over: logging never fails a request.
class Log {
public:
    Log(const std::string& console, const std::string& file);

    // One line from `source`, or several when text has newlines.
    void write(std::string_view source, std::string_view text);

private:
    std::mutex lock_;
    Descriptor console_;
    Descriptor file_;
};

// "source: line\n" for each line of text.
[[nodiscard]] std::string log_lines(std::string_view source, std::string_view text);

} // namespace flex::agent

#endif
