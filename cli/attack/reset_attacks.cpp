// Resets, and what memory holds after them. These restart the device.
#include "cli/attack/attack.h"
#include "cli/attack/dram.h"
#include "cli/attack/secrets.h"

namespace flex::attack {
namespace {

using namespace std::chrono_literals;

constexpr auto kBootTimeout = 90s;

/// Scans before any model is loaded again: by the host, which sees all DRAM, and by the normal world's kernel.
Outcome look_for_remains(Target& target, const Secrets& secrets) {
    const Dram dram(target.device().running()->process.pid);
    for (const Pattern& secret : secrets.patterns()) {
        const auto found = dram.find(secret.bytes, 1);
        if (found.empty()) continue;
        return breach(secret.label + " survived in DRAM at offset " + std::to_string(found.front()));
    }
    Outcome outcome = scan(target, secrets.patterns());
    if (outcome.verdict == Verdict::kBlocked) outcome.how = "all DRAM searched by the host: nothing left; " + outcome.how;
    return outcome;
}

Outcome after(Target& target, const std::function<void()>& reset) {
    const Secrets secrets = Secrets::make(target);
    const Dram dram(target.device().running()->process.pid);
    bool present = false;
    for (const Pattern& piece : secrets.weights) present = present || !dram.find(piece.bytes, 1).empty();
    if (!present) return failed("the weights are not in the machine's memory before the reset: nothing could be left of them");
    reset();
    target.device().wait_ready(kBootTimeout);
    return look_for_remains(target, secrets);
}

Outcome warm_reset(Target& target) {
    return after(target, [&] { target.device().reset(); });
}

/// PSCI SYSTEM_RESET from the normal world's kernel. The connection ends with the kernel.
Outcome reboot(Target& target) {
    return after(target, [&] {
        try {
            target.exec("reboot -f", 5s);
        } catch (const platform::DeviceError&) {
        }
    });
}

} // namespace

std::vector<Attack> reset_attacks() {
    return {
        {"reboot-scan", 22, Kind::kKernel, "resets the device through PSCI and searches all memory for what was protected", reboot},
        {"reset-scan", 22, Kind::kHost, "pulls the reset line and searches all memory for what was protected", warm_reset},
    };
}

} // namespace flex::attack
