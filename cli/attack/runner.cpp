#include "cli/attack/runner.h"

#include <chrono>

namespace flex::attack {

const char* name_of(Verdict verdict) {
    switch (verdict) {
    case Verdict::kBlocked: return "blocked";
    case Verdict::kBreach: return "BREACH";
    case Verdict::kError: return "error";
    case Verdict::kSkipped: return "skipped";
    }
    return "?";
}

const char* name_of(Kind kind) {
    switch (kind) {
    case Kind::kKernel: return "kernel";
    case Kind::kAgent: return "agent";
    case Kind::kHost: return "host";
    }
    return "?";
}

const std::vector<Attack>& all_attacks() {
    static const std::vector<Attack> all = [] {
        std::vector<Attack> list;
        for (const auto part : {kernel_attacks, secrecy_attacks, agent_attacks, package_attacks, kv_attacks, network_attacks, reset_attacks})
            for (Attack& attack : part()) list.push_back(std::move(attack));
        return list;
    }();
    return all;
}

const Attack* find_attack(std::string_view name) {
    for (const Attack& attack : all_attacks())
        if (attack.name == name) return &attack;
    return nullptr;
}

Report carry_out(const Attack& attack, Target& target) {
    const auto start = std::chrono::steady_clock::now();
    Report report{.attack = &attack, .outcome = {}, .damage = {}, .seconds = 0};
    try {
        report.outcome = attack.run(target);
    } catch (const std::exception& error) {
        report.outcome = failed(error.what());
    }
    if (report.outcome.verdict != Verdict::kSkipped) {
        try {
            report.damage = target.damage().value_or("");
        } catch (const std::exception& error) {
            report.damage = error.what();
        }
    }
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return report;
}

} // namespace flex::attack
