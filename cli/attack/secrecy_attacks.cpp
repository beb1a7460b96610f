// Scans of the normal world's memory for the prompt, the answer and the weights.
#include <atomic>
#include <thread>

#include "cli/attack/attack.h"
#include "cli/attack/dram.h"
#include "cli/attack/scan.h"
#include "cli/attack/secrets.h"

namespace flex::attack {
namespace {

using namespace std::chrono_literals;

/// Asks the same again and again until it is told to stop.
class Asker {
public:
    Asker(Target& target, const Query& query, const Completion& expected) {
        thread_ = std::thread([this, api = target.api(), query, &expected] {
            while (!stop_) {
                const Completion now = api.stream(query, [this](std::string_view) { return !stop_; });
                if (stop_) break;
                if (!now.same_as(expected)) {
                    problem_ = now.ok ? "an answer changed to \"" + now.text + "\"" : "an answer failed: " + now.error;
                    break;
                }
                ++answers_;
            }
        });
    }
    ~Asker() { stop(); }
    /// The answers that came, all as they should be; or what went wrong.
    std::string stop() {
        stop_ = true;
        if (thread_.joinable()) thread_.join();
        return problem_;
    }
    [[nodiscard]] int answers() const { return answers_; }

private:
    std::atomic<bool> stop_ = false;
    std::atomic<int> answers_ = 0;
    std::string problem_;
    std::thread thread_;
};

/// The host finds at least one piece of the weights in DRAM: what the scan looks for is really there.
Outcome weights_are_in_dram(Target& target, const Secrets& secrets) {
    const Dram dram(target.device().running()->process.pid);
    for (const Pattern& piece : secrets.weights)
        if (!dram.find(piece.bytes, 1).empty()) return blocked("");
    return failed("not even the host finds the weights in the machine's memory: the scan would prove nothing");
}

Outcome scan_during(Target& target) {
    const Secrets secrets = Secrets::make(target);
    Asker asker(target, secrets.query, secrets.answer);
    Outcome outcome = scan(target, secrets.patterns());
    if (outcome.verdict != Verdict::kBlocked) return outcome;
    const Outcome present = weights_are_in_dram(target, secrets);
    if (const std::string problem = asker.stop(); !problem.empty()) return breach("while it was scanned, " + problem);
    return present.verdict == Verdict::kBlocked ? outcome : present;
}

Outcome scan_after(Target& target) {
    const Secrets secrets = Secrets::make(target);
    const Outcome present = weights_are_in_dram(target, secrets);
    if (present.verdict != Verdict::kBlocked) return present;
    return scan(target, secrets.patterns());
}

/// What protected memory held must be gone when the normal world has it again.
Outcome scan_reclaimed(Target& target) {
    const Secrets secrets = Secrets::make(target);
    const Outcome present = weights_are_in_dram(target, secrets);
    if (present.verdict != Verdict::kBlocked) return present;
    const std::uint64_t before = target.stat("lent_bytes");
    if (!target.drop_models()) return failed("the framework gave no memory back");
    std::uint64_t after = target.stat("lent_bytes");
    for (int i = 0; i < 20 && after >= before; ++i) {
        std::this_thread::sleep_for(250ms);
        after = target.stat("lent_bytes");
    }
    if (after >= before) return failed("Linux got no memory back");
    Outcome outcome = scan(target, secrets.patterns());
    outcome.how = std::to_string((before - after) >> 10) + " KiB came back; " + outcome.how;
    return outcome;
}

} // namespace

std::vector<Attack> secrecy_attacks() {
    return {
        {"scan-during-answer", 20, Kind::kKernel,
         "searches all normal memory for the prompt, the answer and the weights while an answer is computed", scan_during},
        {"scan-after-answer", 20, Kind::kKernel,
         "searches all normal memory for the prompt, the answer and the weights after an answer", scan_after, true},
        {"scan-reclaimed", 21, Kind::kKernel, "takes a model's memory back and searches it for what it held", scan_reclaimed},
    };
}

} // namespace flex::attack
