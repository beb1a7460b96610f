// Every attack of `flexserve attack`, one test each.
#include <iostream>

#include "cli/attack/runner.h"
#include "shared.h"

namespace flex::test {
namespace {

class AttackTest : public SystemTest, public testing::WithParamInterface<std::string> {};

TEST_P(AttackTest, is_blocked_and_leaves_the_device_unharmed) {
    const attack::Report report = attack::carry_out(*attack::find_attack(GetParam()), target());
    std::cout << name_of(report.outcome.verdict) << ": " << report.outcome.how << "\n";
    EXPECT_EQ(report.damage, "");
    // Everything that an attack may lack is there, so none may be skipped.
    EXPECT_EQ(report.outcome.verdict, attack::Verdict::kBlocked) << report.attack->does << ": " << report.outcome.how;
}

std::vector<std::string> names() {
    std::vector<std::string> list;
    for (const attack::Attack& attack : attack::all_attacks()) list.push_back(attack.name);
    return list;
}

INSTANTIATE_TEST_SUITE_P(all, AttackTest, testing::ValuesIn(names()), [](const auto& info) {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

class AttackTable : public SystemTest {};

TEST_F(AttackTable, has_every_command_of_the_hostile_module) {
    std::istringstream lines(target().kernel("help"));
    int commands = 0;
    for (std::string line; std::getline(lines, line);) {
        const std::string name = line.substr(0, line.find(':'));
        ++commands;
        // These three are the means of other attacks.
        if (name == "answer" || name == "answer-result" || name == "scan") continue;
        EXPECT_NE(attack::find_attack(name), nullptr) << name;
    }
    EXPECT_GT(commands, 20);
}

TEST_F(AttackTable, is_what_the_threat_model_says) {
    const std::string document = read_all(std::string(FLEX_SOURCE_DIR) + "/docs/threat-model.md");
    for (const attack::Attack& attack : attack::all_attacks()) {
        EXPECT_NE(document.find("`" + attack.name + "`"), std::string::npos) << attack.name << " is missing in docs/threat-model.md";
        EXPECT_NE(document.find("\n| " + std::to_string(attack.threat) + " |"), std::string::npos) << attack.name;
    }
}

} // namespace
} // namespace flex::test
