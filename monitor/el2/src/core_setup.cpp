// A core's EL2 registers: what traps, which tree, and the way into EL1.
#include "console.hpp"
#include "monitor.hpp"

namespace flex::monitor {
namespace {

// HCR_EL2 (Arm ARM D19.2.48). Interrupts go straight to EL1 (IMO, FMO, AMO clear): the monitor owns none.
constexpr u64 kHcr = bit(0)    // VM: stage 2
                     | bit(1)  // SWIO: invalidation by set/way also cleans
                     | bit(2)  // PTW: a stage 1 walk through device memory faults
                     | bit(18) // TID3: feature registers
                     | bit(19) // TSC: SMC
                     | bit(20) // TIDCP: implementation-defined registers
                     | bit(21) // TACR: auxiliary control
                     | bit(31) // RW: EL1 is AArch64
                     | bit(35) // TLOR: LORegions
                     | bit(40) // APK, API: pointer authentication belongs to EL1
                     | bit(41);

constexpr u64 kForceWriteBack = bit(46); // FWB: stage 2 decides what is cacheable, not EL1

// MDCR_EL2 (D19.3.18): debug, OS lock, debug ROM, PMU, SPE, trace filter trap; the PMU, SPE and trace buffers
// are EL2's.
constexpr u64 kMdcr = bit(5)     // TPMCR
                      | bit(6)   // TPM
                      | bit(9)   // TDA
                      | bit(10)  // TDOSA
                      | bit(11)  // TDRA
                      | bit(14)  // TPMS
                      | bit(17)  // HPMD: EL2 does not count
                      | bit(19); // TTRF

// CPTR_EL2 with E2H clear (D19.2.34): RES1 bits, SVE (TZ), SME (TSM), trace (TTA) and activity monitors (TAM)
// trap.
constexpr u64 kCptr = 0x32ff | bit(8) | bit(12) | bit(20) | bit(30);

constexpr u64 vtcr() {
    // T0SZ, start at level 1, write-back inner-shareable walks, 4 KiB, 40-bit output, RES1.
    return bits(5, 0, 64 - kInputBits) | bits(7, 6, 1) | bits(9, 8, 1) | bits(11, 10, 1) | bits(13, 12, 3) |
           bits(18, 16, 2) | bit(31);
}

} // namespace

void set_up_el2() {
    const u64 root = reinterpret_cast<u64>(the_monitor.memory.normal_tree().root());
    const u64 vmid = FlexMemory<Hardware>::kNormalVmid;
    FLEX_WRITE(vtcr_el2, vtcr());
    FLEX_WRITE(vttbr_el2, vmid << 48 | root);
    FLEX_WRITE(hcr_el2, kHcr | (the_monitor.hardware.forces_write_back() ? kForceWriteBack : 0));
    const u64 counters = field(FLEX_READ(pmcr_el0), 15, 11);
    FLEX_WRITE(mdcr_el2, kMdcr | counters); // HPMN: all counters in EL1's range, and they trap
    FLEX_WRITE(cptr_el2, kCptr);
    FLEX_WRITE(hstr_el2, 0);
    FLEX_WRITE(cnthctl_el2, 3); // EL1 has the physical counter and timer; EL2's own timers it cannot name
    FLEX_WRITE(cntvoff_el2, 0);
    FLEX_WRITE(vpidr_el2, FLEX_READ(midr_el1));
    FLEX_WRITE(vmpidr_el2, FLEX_READ(mpidr_el1));
    FLEX_WRITE(S3_4_C12_C9_5, 0x9); // ICC_SRE_EL2: SRE, Enable
    arch::isb();
    FLEX_WRITE(S3_4_C12_C11_0, 0); // ICH_HCR_EL2: no virtual interrupts
    arch::isb();
    arch::tlbi_all_vmid();
    arch::dsb();
    arch::isb();
}

void start_el1(u64 address, u64 context) {
    FLEX_WRITE(sctlr_el1, 0x30d00800); // RES1, MMU and caches off
    FLEX_WRITE(cpacr_el1, 0);
    FLEX_WRITE(cntkctl_el1, 0);
    FLEX_WRITE(mdscr_el1, 0);
    FLEX_WRITE(actlr_el1, 0);
    arch::isb();
    enter_el1(address, context);
}

extern "C" [[noreturn]] void secondary_main(u64 core) {
    Monitor& m = the_monitor;
    set_up_el2();
    CoreRegistry::Entry entry;
    {
        Guard<Hardware> guard(m.memory.lock(), m.hardware);
        entry = m.cores.finish_start(static_cast<unsigned>(core));
    }
    start_el1(entry.address, entry.context);
}

} // namespace flex::monitor
