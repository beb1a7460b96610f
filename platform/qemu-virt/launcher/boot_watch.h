// Reads the logs of a booting device and tells how far it is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace flex::platform {

class BootWatch {
public:
    explicit BootWatch(const std::filesystem::path& folder);

    /// Looks at what the logs gained. Returns the latest stage when a new one was reached.
    std::optional<std::string_view> poll();
    /// The line that tells that the boot has failed for good; empty while there is none.
    [[nodiscard]] const std::string& failure() const { return failure_; }
    /// The log in which that line stands.
    [[nodiscard]] const std::filesystem::path& failure_log() const { return failure_log_; }
    /// The last stage reached.
    [[nodiscard]] std::string_view stage() const;
    /// The framework has said in the log that it is ready.
    [[nodiscard]] bool framework_is_up() const;

private:
    struct Log {
        std::filesystem::path file;
        std::uint64_t offset = 0;
        std::string line; ///< begun, not ended yet
    };
    void look_at(std::string_view line, const Log& log);
    void read(Log& log);

    Log logs_[2];
    int stage_ = -1;
    std::string failure_;
    std::filesystem::path failure_log_;
};

} // namespace flex::platform
