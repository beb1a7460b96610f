#include "launcher/boot_watch.h"

#include <array>
#include <fstream>

#include "launcher/machine.h"

namespace flex::platform {

namespace {

// In the order in which they are reached; a log line that contains `sign` means that stage.
struct Stage {
    std::string_view sign;
    std::string_view name;
};
constexpr std::array kStages = {
    Stage{"BL1:", "firmware"},
    Stage{"tos: up", "trusted OS"},
    Stage{"; starting Linux", "Flex-Monitor"},
    Stage{"Linux version", "Linux"},
    Stage{"Run /init as init process", "Linux user space"},
    Stage{"flexserved: ready", "framework"},
};

// After one of these nothing good can follow.
constexpr std::array<std::string_view, 6> kFailures = {
    "monitor: panic on core",
    "tos: panic on core",
    "tos: the program in this image is not",
    "Kernel panic - not syncing",
    "init: FlexServe is not available",
    "agent: it keeps failing", // "it" is the framework
};

} // namespace

BootWatch::BootWatch(const std::filesystem::path& folder)
    : logs_{{.file = folder / files::kConsoleLog, .offset = 0, .line = {}},
            {.file = folder / files::kSecureLog, .offset = 0, .line = {}}} {}

std::string_view BootWatch::stage() const {
    return stage_ < 0 ? std::string_view("QEMU") : kStages[static_cast<std::size_t>(stage_)].name;
}

bool BootWatch::framework_is_up() const { return stage_ == static_cast<int>(kStages.size()) - 1; }

void BootWatch::look_at(std::string_view line, const Log& log) {
    for (std::size_t i = static_cast<std::size_t>(stage_ + 1); i < kStages.size(); ++i)
        if (line.find(kStages[i].sign) != std::string_view::npos) stage_ = static_cast<int>(i);
    if (!failure_.empty()) return;
    for (const std::string_view sign : kFailures)
        if (line.find(sign) != std::string_view::npos) {
            failure_ = line;
            failure_log_ = log.file;
            return;
        }
}

void BootWatch::read(Log& log) {
    std::ifstream in(log.file, std::ios::binary);
    if (!in || !in.seekg(static_cast<std::streamoff>(log.offset))) return;
    char chunk[16384];
    while (in.read(chunk, sizeof chunk), in.gcount() > 0) {
        log.offset += static_cast<std::uint64_t>(in.gcount());
        for (const char c : std::string_view(chunk, static_cast<std::size_t>(in.gcount()))) {
            if (c == '\n') {
                look_at(log.line, log);
                log.line.clear();
            } else if (c != '\r' && log.line.size() < 1024) {
                log.line += c;
            }
        }
    }
}

std::optional<std::string_view> BootWatch::poll() {
    const int before = stage_;
    for (Log& log : logs_) read(log);
    if (stage_ == before) return std::nullopt;
    return stage();
}

} // namespace flex::platform
