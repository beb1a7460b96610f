#pragma once

#include "types.hpp"

namespace flex::monitor {

// Function numbers of the firmware's calls (Arm DEN0022 PSCI, DEN0028 SMCCC, DEN0098 TRNG).
namespace smc {
constexpr u32 kVersion = 0x80000000;
constexpr u32 kArchFeatures = 0x80000001;
constexpr u32 kWorkaround1 = 0x80008000;
constexpr u32 kWorkaround2 = 0x80007fff;
constexpr u32 kWorkaround3 = 0x80003fff;

constexpr u32 kSmc64 = 0x40000000;
constexpr u32 kPsciVersion = 0x84000000;
constexpr u32 kCpuSuspend = 0x84000001;
constexpr u32 kCpuOff = 0x84000002;
constexpr u32 kCpuOn = 0x84000003;
constexpr u32 kAffinityInfo = 0x84000004;
constexpr u32 kMigrateInfoType = 0x84000006;
constexpr u32 kSystemOff = 0x84000008;
constexpr u32 kSystemReset = 0x84000009;
constexpr u32 kPsciFeatures = 0x8400000a;
constexpr u32 kSystemReset2 = 0x84000012;

constexpr u32 kTrngVersion = 0x84000050;
constexpr u32 kTrngFeatures = 0x84000051;
constexpr u32 kTrngUuid = 0x84000052;
constexpr u32 kTrngRandom = 0x84000053;

constexpr s64 kNotSupported = -1;
constexpr s64 kInvalidParameters = -2;
} // namespace smc

enum class SmcAction {
    Deny,        // NOT_SUPPORTED to the caller, counted
    Forward,     // to the firmware or the trusted OS as it is
    AskFeatures, // forward, if the function asked about is itself allowed
    CpuOn,
    CpuOff,
    CpuSuspend,
    SystemOff,
    SystemReset,
    SystemReset2,
};

// Everything normal-world EL1 may ask of EL3 and of the trusted OS. What is not named here does not get
// through.
constexpr SmcAction filter_smc(u32 function) {
    switch (function) {
    case smc::kVersion:
    case smc::kWorkaround1:
    case smc::kWorkaround2:
    case smc::kWorkaround3:
    case smc::kPsciVersion:
    case smc::kAffinityInfo:
    case smc::kAffinityInfo | smc::kSmc64:
    case smc::kMigrateInfoType:
    case smc::kTrngVersion:
    case smc::kTrngFeatures:
    case smc::kTrngUuid:
    case smc::kTrngRandom:
    case smc::kTrngRandom | smc::kSmc64:
        return SmcAction::Forward;
    case smc::kArchFeatures:
    case smc::kPsciFeatures:
        return SmcAction::AskFeatures;
    case smc::kCpuOn:
    case smc::kCpuOn | smc::kSmc64:
        return SmcAction::CpuOn;
    case smc::kCpuOff:
        return SmcAction::CpuOff;
    case smc::kCpuSuspend:
    case smc::kCpuSuspend | smc::kSmc64:
        return SmcAction::CpuSuspend;
    case smc::kSystemOff:
        return SmcAction::SystemOff;
    case smc::kSystemReset:
        return SmcAction::SystemReset;
    case smc::kSystemReset2:
    case smc::kSystemReset2 | smc::kSmc64:
        return SmcAction::SystemReset2;
    case FLEX_TOS_VERSION:
    case FLEX_TOS_START:
    case FLEX_TOS_STOP:
    case FLEX_TOS_RECLAIM:
    case FLEX_TOS_NPU_RECALL:
    case FLEX_TOS_MOVE:
    case FLEX_TOS_STAT:
    case FLEX_TOS_LEND:
        return SmcAction::Forward;
    default:
#ifdef FLEX_WITHOUT_SMC_FILTER
        return SmcAction::Forward;
#else
        return SmcAction::Deny;
#endif
    }
}

// PSCI CPU_SUSPEND: only standby states keep the core's EL2 state, so only they are let through (DEN0022,
// power_state bit 16).
constexpr bool keeps_core_state(u64 power_state) { return (power_state & bit(16)) == 0; }

} // namespace flex::monitor
