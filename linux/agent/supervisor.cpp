#include "linux/agent/supervisor.h"

#include <csignal>
#include <cstring>
#include <thread>

namespace flex::agent {
namespace {

// abi/calls.h, FLEX_LEND_EXITED: an exit code, or 256 + signal.
constexpr std::int64_t kSignalBase = 256;
constexpr int kStartTries =
    50; // threads of the last program may still be on their way out of a blocking call

} // namespace

std::string describe_exit(std::int64_t value) {
    if (value >= kSignalBase) return "signal " + std::to_string(value - kSignalBase);
    return "exit code " + std::to_string(value);
}

bool is_abnormal(std::int64_t value) { return value != 0 && value != kSignalBase + SIGKILL; }

bool Supervisor::ended(unsigned number, std::int64_t value) {
    std::lock_guard guard(lock_);
    if (number < current_) return false;
    end_ = value;
    news_.notify_one();
    return true;
}

bool Supervisor::start() {
    int number = 0;
    for (int i = 0; i < kStartTries; i++) {
        number = start_();
        if (number != -EBUSY) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    started_ = std::chrono::steady_clock::now();
    if (number <= 0) {
        log_.write("agent", std::string("the secure program cannot be started: ") + strerror(-number));
        return false;
    }
    std::lock_guard guard(lock_);
    current_ = static_cast<unsigned>(number);
    return true;
}

bool Supervisor::handle_end(std::int64_t value) {
    log_.write("agent", "the secure program has ended: " + describe_exit(value));
    if (!is_abnormal(value)) return false;
    if (std::chrono::steady_clock::now() - started_ >= kStable) restarts_ = 0;
    if (restarts_ == kRestartsMax) {
        log_.write("agent", "it keeps failing; left stopped");
        return false;
    }
    std::this_thread::sleep_for(back_off_ * (1 << restarts_));
    restarts_++;
    log_.write("agent", "restarting it");
    return start();
}

void Supervisor::run() {
    start();
    for (;;) {
        std::int64_t value = 0;
        {
            std::unique_lock guard(lock_);
            news_.wait(guard, [this] { return end_.has_value(); });
            value = *end_;
            end_.reset();
        }
        handle_end(value);
    }
}

} // namespace flex::agent
