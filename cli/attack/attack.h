// The attacks of docs/threat-model.md: what each does, and how to run it against a running device.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace flex::attack {

class Target;

enum class Verdict {
    kBlocked, ///< the attack was carried out and got nothing
    kBreach,  ///< it got what it wanted, or did damage
    kError,   ///< it could not be carried out: nothing is shown
    kSkipped, ///< this device or machine lacks what it needs
};
[[nodiscard]] const char* name_of(Verdict verdict); ///< as printed: "blocked", "BREACH", "error", "skipped"

struct Outcome {
    Verdict verdict = Verdict::kError;
    std::string how; ///< one line
};
inline Outcome blocked(std::string how) { return {Verdict::kBlocked, std::move(how)}; }
inline Outcome breach(std::string how) { return {Verdict::kBreach, std::move(how)}; }
inline Outcome failed(std::string how) { return {Verdict::kError, std::move(how)}; }
inline Outcome skipped(std::string how) { return {Verdict::kSkipped, std::move(how)}; }

/// Who carries it out.
enum class Kind {
    kKernel, ///< flexattack.ko in the normal world's kernel
    kAgent,  ///< the normal world's agent, lying
    kHost,   ///< whoever has the storage, the network or the reset button
};
[[nodiscard]] const char* name_of(Kind kind);

struct Attack {
    std::string name;
    int threat = 0; ///< number of its line in docs/threat-model.md
    Kind kind = Kind::kKernel;
    std::string does; ///< one sentence: what the attacker does
    std::function<Outcome(Target&)> run;
    bool brief = false; ///< part of --brief, which the demo shows
};

/// In the order in which they are run: what restarts the device comes last.
[[nodiscard]] const std::vector<Attack>& all_attacks();
[[nodiscard]] const Attack* find_attack(std::string_view name);

// The parts of the table.
[[nodiscard]] std::vector<Attack> kernel_attacks();
[[nodiscard]] std::vector<Attack> agent_attacks();
[[nodiscard]] std::vector<Attack> package_attacks();
[[nodiscard]] std::vector<Attack> kv_attacks();
[[nodiscard]] std::vector<Attack> network_attacks();
[[nodiscard]] std::vector<Attack> secrecy_attacks();
[[nodiscard]] std::vector<Attack> reset_attacks();

} // namespace flex::attack
