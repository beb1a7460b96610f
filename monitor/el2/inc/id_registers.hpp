#pragma once

#include "types.hpp"

namespace flex::monitor {

// What normal-world EL1 is told of the core's features (Arm ARM D19, registers S3_0_C0_C<crm>_<op2>). Hidden
// is what the monitor does not switch between the worlds, what it traps, and what writes memory past stage
// 2's owner: SVE and SME (the secure world saves only the 128-bit registers), MTE, MPAM, AMU, PMU, SPE,
// trace, BRBE, LORegions, features that need HCRX_EL2 bits the monitor leaves off.
constexpr u64 visible_id_register(unsigned crm, unsigned op2, u64 value) {
    const auto hide = [](u64 v, unsigned low) { return v & ~bits(low + 3, low, 0xf); };
    switch (crm * 8 + op2) {
    case 0x20: // ID_AA64PFR0: SVE, MPAM, AMU, RME
        return hide(hide(hide(hide(value, 32), 40), 44), 52);
    case 0x21: // ID_AA64PFR1: MTE, MPAM_frac, SME, NMI, MTE_frac, GCS, THE, MTEX
        return hide(hide(hide(hide(hide(hide(hide(hide(value, 8), 16), 24), 36), 40), 44), 48), 52);
    case 0x28: // ID_AA64DFR0: keep the debug version and the number of breakpoints only
        return value & (bits(3, 0, 0xf) | bits(15, 12, 0xf) | bits(23, 20, 0xf) | bits(31, 28, 0xf));
    case 0x31: // ID_AA64ISAR1: LS64
        return hide(value, 60);
    case 0x32: // ID_AA64ISAR2: MOPS, SYSREG_128, SYSINSTR_128
        return hide(hide(hide(value, 16), 32), 36);
    case 0x39: // ID_AA64MMFR1: VH, LO, HCX
        return hide(hide(hide(value, 8), 16), 40);
    case 0x3a: // ID_AA64MMFR2: NV
        return hide(value, 24);
    case 0x22: // ID_AA64PFR2
    case 0x24: // ID_AA64ZFR0
    case 0x25: // ID_AA64SMFR0
    case 0x27: // ID_AA64FPFR0
    case 0x29: // ID_AA64DFR1
    case 0x2a: // ID_AA64DFR2
    case 0x2c: // ID_AA64AFR0
    case 0x2d: // ID_AA64AFR1
    case 0x33: // ID_AA64ISAR3
    case 0x3b: // ID_AA64MMFR3: TCR2, SCTLR2, S1PIE, S1POE
    case 0x3c: // ID_AA64MMFR4
        return 0;
    case 0x12: // ID_DFR0_EL1 (AArch32): keep the debug versions, no trace, no PMU
        return value & bits(11, 0, 0xfff);
    default:
        return value;
    }
}

} // namespace flex::monitor
