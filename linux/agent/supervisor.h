// Keeps the secure program running: starts it, reports its end, restarts it when it fails, a few times in a
// row.
#ifndef FLEX_LINUX_AGENT_SUPERVISOR_H
#define FLEX_LINUX_AGENT_SUPERVISOR_H

#include "linux/agent/log.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

namespace flex::agent {

// "exit code 3" or "signal 11".
[[nodiscard]] std::string describe_exit(std::int64_t value);
// Ended by itself with an error or by a fault; a STOP (signal 9) was somebody's wish.
[[nodiscard]] bool is_abnormal(std::int64_t value);

class Supervisor {
public:
    // start: the number of the program started, counted from 1, or -errno.
    Supervisor(std::function<int()> start, Log& log, std::chrono::milliseconds back_off)
        : start_(std::move(start)), log_(log), back_off_(back_off) {}

    // Any thread: program `number` has ended. False when it is not the last one started: that is old news.
    bool ended(unsigned number, std::int64_t value);
    // Starts the program, then handles ends for ever. Runs in a thread of its own.
    [[noreturn]] void run();
    // One end: reports it and restarts when that is due. True when the program runs again.
    bool handle_end(std::int64_t value);
    bool start();

private:
    std::function<int()> start_;
    Log& log_;
    std::chrono::milliseconds back_off_;
    // So often in a row, waiting twice as long each time; a program that has run for kStable starts a new
    // row.
    static constexpr unsigned kRestartsMax = 4;
    static constexpr std::chrono::minutes kStable{1};
    std::chrono::steady_clock::time_point started_{};
    unsigned restarts_ = 0;

    std::mutex lock_;
    std::condition_variable news_;
    std::optional<std::int64_t> end_;
    unsigned current_ = 0; // the last one known to be started
};

} // namespace flex::agent

#endif
