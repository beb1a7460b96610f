// Stage 2 aborts of the normal world, and exceptions that the monitor makes up for it.
#include "console.hpp"
#include "frame_registers.hpp"
#include "gicr_filter.hpp"
#include "monitor.hpp"

namespace flex::monitor {
namespace {

constexpr u64 kFetchFromLower = 0x20; // EC; from EL0: 0x20 and 0x24, from EL1 itself: one more
constexpr u64 kLength32 = bit(25);    // ESR.IL

// Fault status codes (Arm ARM D19.2.37, ISS of a data abort).
constexpr u64 kPermissionLevel3 = 0x0f, kExternal = 0x10, kExternalOnWalk = 0x17, kAlignment = 0x21,
              kTlbConflict = 0x30;
constexpr bool is_translation(u64 status) { return (status & 0x3c) == 0x04; }
constexpr bool is_permission(u64 status) { return (status & 0x3c) == 0x0c; }

// The part of ESR_EL2.ISS that is used here.
struct AbortSyndrome {
    explicit AbortSyndrome(u64 esr)
        : fetch(field(esr, 31, 26) == kFetchFromLower), valid(field(esr, 24, 24)),
          bytes(1u << field(esr, 23, 22)), register_number(static_cast<unsigned>(field(esr, 20, 16))),
          sign_extended(field(esr, 21, 21)), wide(field(esr, 15, 15)), far_invalid(field(esr, 10, 10)), maintenance(field(esr, 8, 8)), on_walk(field(esr, 7, 7)),
          write(field(esr, 6, 6)), status(field(esr, 5, 0)) {}
    bool fetch;
    bool valid; // the instruction's size and register are described
    unsigned bytes;
    unsigned register_number;
    bool sign_extended; // what a load reads
    bool wide;          // the register is X, not W
    bool far_invalid;
    bool maintenance;
    bool on_walk; // of stage 1
    bool write;
    u64 status;
};

bool from_el0(const Frame& frame) { return field(frame.spsr, 4, 0) == 0 || field(frame.spsr, 4, 4) == 1; }

// Enters EL1's vector as the core itself would (Arm ARM D1.3.5, AArch64.TakeException).
void inject(Frame& frame, u64 esr) {
    const u64 mode = field(frame.spsr, 4, 0);
    const u64 vectors = FLEX_READ(vbar_el1);
    u64 offset = 0x200;                         // EL1 with SP_EL1
    if (mode == 0x4) offset = 0x000;            // EL1 with SP_EL0
    if (mode == 0x0) offset = 0x400;            // EL0, AArch64
    if (field(mode, 4, 4) == 1) offset = 0x600; // EL0, AArch32
    FLEX_WRITE(esr_el1, esr);
    FLEX_WRITE(elr_el1, frame.elr);
    FLEX_WRITE(spsr_el1, frame.spsr);
    const u64 sctlr = FLEX_READ(sctlr_el1);
    // NZCV and DIT stay; PAN is set unless SCTLR_EL1.SPAN; SSBS from DSSBS; DAIF masked; EL1h.
    u64 state = (frame.spsr & (bits(31, 28, 0xf) | bit(24) | bit(22))) | 0x3c5;
    if (field(sctlr, 23, 23) == 0) state |= bit(22);
    if (field(sctlr, 44, 44) == 1) state |= bit(12);
    frame.elr = vectors + offset;
    frame.spsr = state;
}

// The status that Linux turns into an error of the one who asked, and not into a panic or an endless retry:
// - a process gets an external abort, which becomes SIGBUS; its page fault handler would find nothing to
// mend;
// - the kernel at an address of its own gets a permission fault: fix-ups (copy_from_kernel_nofault) are used,
// else it is an oops.
//   After a translation fault it would retry for ever, since its own tables map the address; for an external
//   abort it has no fix-ups;
// - the kernel at a process's address (bit 55 clear) gets an alignment fault: copy_from_user returns -EFAULT.
// For a permission fault
//   the page fault handler would be asked, again and again.
u64 injected_status(bool el0, const Frame& frame, const AbortSyndrome& abort) {
    if (abort.on_walk) return kExternalOnWalk;
    if (el0) return kExternal;
    return field(frame.far, 55, 55) == 1 ? kPermissionLevel3 : kAlignment;
}

void inject_abort(Frame& frame, const AbortSyndrome& abort) {
    const bool el0 = from_el0(frame);
    const u64 exception_class = (abort.fetch ? 0x20 : 0x24) | (el0 ? 0 : 1);
    u64 iss = injected_status(el0, frame, abort);
    if (!abort.fetch && abort.write) iss |= bit(6);
    if (abort.maintenance) iss |= bit(8);
    FLEX_WRITE(far_el1, frame.far);
    inject(frame, exception_class << 26 | (frame.esr & kLength32) | iss);
}

// HPFAR_EL2 is not valid for a permission fault outside a stage 1 walk: translate again.
bool find_ipa(const Frame& frame, const AbortSyndrome& abort, u64& ipa) {
    if (!is_permission(abort.status) || abort.on_walk) {
        ipa = field(FLEX_READ(hpfar_el2), 43, 4) << 12 | frame.far % kFrameSize;
        return true;
    }
    const u64 saved = FLEX_READ(par_el1);
    if (from_el0(frame)) {
        asm volatile("at s1e0r, %0" ::"r"(frame.far));
    } else {
        asm volatile("at s1e1r, %0" ::"r"(frame.far));
    }
    arch::isb();
    const u64 par = FLEX_READ(par_el1);
    FLEX_WRITE(par_el1, saved);
    ipa = (par & descriptor::kAddress) | frame.far % kFrameSize;
    return (par & 1) == 0;
}

u64 stored_value(const Frame& frame, const AbortSyndrome& abort) {
    const u64 value = abort.register_number == 31 ? 0 : frame.x[abort.register_number];
    return abort.bytes == 8 ? value : value & (bit(8 * abort.bytes) - 1);
}

// Stores to the read-only RD_base frames are done here, as far as they are harmless.
bool emulate_gicr_write(Frame& frame, const AbortSyndrome& abort, u64 ipa) {
    Monitor& m = the_monitor;
    const Region gicr = m.redistributors;
    if (ipa < gicr.base || ipa >= gicr.end() || abort.fetch || !abort.write || !abort.valid) return false;
    const u64 offset = (ipa - gicr.base) % kGicrCoreBytes;
    if (offset >= kGicrFrameBytes) return false;
    const GicrWrite write = filter_gicr_write(offset, abort.bytes, stored_value(frame, abort));
    if (write.refused) m.memory.counters().add(FLEX_STAT_REGISTERS_DENIED);
    if (write.perform) {
        if (abort.bytes == 8) {
            arch::write64(ipa, write.value);
        } else {
            arch::write32(ipa, static_cast<u32>(write.value));
        }
    }
    frame.elr += 4;
    return true;
}

// Stores to PCI configuration space likewise.
bool emulate_pci_write(Frame& frame, const AbortSyndrome& abort, u64 ipa) {
    Monitor& m = the_monitor;
    if (ipa < m.ecam.base || ipa >= m.ecam.end() || abort.fetch || !abort.write || !abort.valid) return false;
    EcamConfig config(m.ecam.base);
    const Guard<Hardware> guard(m.pci_lock, m.hardware);
    if (m.pci.write(config, static_cast<u32>(ipa - m.ecam.base), abort.bytes, stored_value(frame, abort)))
        m.memory.counters().add(FLEX_STAT_REGISTERS_DENIED);
    frame.elr += 4;
    return true;
}

// The NPU's configuration space while it is not the normal world's: nobody is there (PCI Local Bus Specification 3.0,
// 3.2.2.3.4). Reads give all ones, writes go nowhere.
bool emulate_absent_function(Frame& frame, const AbortSyndrome& abort) {
    if (abort.fetch || !abort.valid) return false;
    if (!abort.write && abort.register_number != 31) {
        const u64 bytes = !abort.sign_extended ? abort.bytes : abort.wide ? 8 : 4;
        frame.x[abort.register_number] = ~u64{0} >> (64 - 8 * bytes);
    }
    frame.elr += 4;
    return true;
}

void count_abort(const AbortSyndrome& abort, u64 ipa) {
    Counters& counters = the_monitor.memory.counters();
    counters.add(abort.fetch   ? FLEX_STAT_ABORTS_FETCH
                 : abort.write ? FLEX_STAT_ABORTS_WRITE
                               : FLEX_STAT_ABORTS_READ);
    counters.set(FLEX_STAT_LAST_ABORT_IPA, ipa);
}

} // namespace

void inject_undefined(Frame& frame) { inject(frame, kLength32); }

void handle_abort(Frame& frame) {
    const AbortSyndrome abort(frame.esr);
    if (abort.status == kTlbConflict) { // FEAT_BBM level 2 permits it after a block was replaced directly
        Hardware::core_forget_all();
        Hardware::core_wait();
        return;
    }
    if (!is_translation(abort.status) && !is_permission(abort.status)) {
        // An external abort of the access itself (or of a walk): EL1's own affair.
        inject_abort(frame, abort);
        return;
    }
    u64 ipa = 0;
    if (!find_ipa(frame, abort, ipa))
        return; // stage 1 has changed meanwhile: the core will fault again, or not
    const auto leaf = the_monitor.memory.find_normal(ipa);
    if (leaf.level != 0) {
        const bool writes = abort.write && !abort.maintenance;
        const bool may_write = field(leaf.descriptor, 7, 7) == 1;
        const bool may_fetch = field(leaf.descriptor, 54, 54) == 0;
        // Another core was just replacing this mapping: it is there now.
        if ((!writes || may_write) && (!abort.fetch || may_fetch)) return;
        if (emulate_gicr_write(frame, abort, ipa) || emulate_pci_write(frame, abort, ipa)) return;
    } else if (denied_npu_part(ipa) == NpuPart::Configuration && emulate_absent_function(frame, abort)) {
        return;
    }
    count_abort(abort, ipa);
    drain_device_faults();
    inject_abort(frame, abort);
}

} // namespace flex::monitor
