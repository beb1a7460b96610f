// SMC and HVC from normal-world EL1.
#include "console.hpp"
#include "frame_registers.hpp"
#include "monitor.hpp"
#include "smc_filter.hpp"

namespace flex::monitor {
namespace {

// PSCI return values (DEN0022 5.2.2).
constexpr s64 kAlreadyOn = -4, kOnPending = -5;

void answer(Frame& frame, s64 status) { frame.x[0] = static_cast<u64>(status); }

void deny(Frame& frame) {
    the_monitor.memory.counters().add(FLEX_STAT_CALLS_DENIED);
    answer(frame, smc::kNotSupported);
}

// x0..x6 of the caller; x7 is the client number of the hypervisor (DEN0028 2.12), which is nobody's to
// choose.
void forward(Frame& frame) {
    SmcRegisters registers;
    for (unsigned i = 0; i < 7; i++) registers.x[i] = frame.x[i];
    secure_monitor_call(&registers);
    for (unsigned i = 0; i < 4; i++) frame.x[i] = registers.x[i];
}

unsigned this_core() { return the_monitor.cores.find(FLEX_READ(mpidr_el1) & CoreRegistry::kAffinity); }

// CPU_ON(target, entry point, context): the core starts in the monitor, which sends it on to EL1 behind
// stage 2.
s64 start_core(u64 target, u64 address, u64 context) {
    Monitor& m = the_monitor;
    const unsigned core = m.cores.find(target);
    if (core == CoreRegistry::kMost) return smc::kInvalidParameters;
    {
        Guard<Hardware> guard(m.memory.lock(), m.hardware);
        if (!m.cores.begin_start(core, {address, context})) {
            return m.cores.is_starting(core) ? kOnPending : kAlreadyOn;
        }
    }
    const s64 status =
        call_firmware(smc::kCpuOn | smc::kSmc64, target, reinterpret_cast<u64>(&secondary_entry), core);
    if (status != 0) {
        Guard<Hardware> guard(m.memory.lock(), m.hardware);
        m.cores.abandon_start(core);
    }
    return status;
}

s64 stop_this_core() {
    Monitor& m = the_monitor;
    const unsigned core = this_core();
    auto set = [&](bool on) {
        Guard<Hardware> guard(m.memory.lock(), m.hardware);
        on ? m.cores.set_on(core) : m.cores.set_off(core);
    };
    set(false);
    const s64 status = call_firmware(smc::kCpuOff); // returns only when it is refused
    set(true);
    return status;
}

// No core runs EL1 or S-EL0 any more and nothing protected is left in DRAM; then the firmware may reset or
// power off. Other cores find nothing mapped at their next instruction and stay in the monitor; a core in the
// secure world stays there or comes back to the monitor; devices lose their tree with the cores. The lock is
// kept for ever: nobody changes a frame or a tree any more.
void silence_and_scrub() {
    Monitor& m = the_monitor;
    m.memory.lock().lock(m.hardware);
    stop_other_cores();
    m.memory.normal_tree().unmap_everything();
    m.memory.flex_tree().unmap_everything();
    silence_npu();
    const s64 status = call_firmware(FLEX_TOS_QUIESCE);
    if (status != FLEX_OK) print("monitor: the trusted OS answers %d to quiesce\n", status);
    scrub_protected_frames();
}

void power(Frame& frame) {
    // Only one core gets here: the others are stopped by then.
    Monitor& m = the_monitor;
    if (__atomic_exchange_n(&m.power_requested, 1, __ATOMIC_ACQ_REL) != 0) {
        for (;;) arch::wait_for_event();
    }
    silence_and_scrub();
    forward(frame);
    panic("the firmware came back from a reset or power-off");
}

u64 statistic(u64 which) {
    Monitor& m = the_monitor;
    if (which < FLEX_FRAME_STATES) return m.memory.table().count(static_cast<FrameState>(which));
    switch (which) {
    case FLEX_STAT_DMA_FAULTS:
        drain_device_faults();
        break;
    case FLEX_STAT_STAGE2_TABLES: {
        Guard<Hardware> guard(m.memory.lock(), m.hardware);
        return m.pool.in_use() - m.own_tables;
    }
    case FLEX_STAT_MONITOR_BYTES:
        return m.layout.region.bytes;
    default:
        break;
    }
    return m.memory.counters().get(static_cast<flex_monitor_stat>(which));
}

bool is_statistic(u64 which) {
    return which < FLEX_FRAME_STATES ||
           (which >= FLEX_STAT_PROTECT_CALLS && which <= FLEX_STAT_NPU_DENIED);
}

} // namespace

// The SMMU's event queue has no interrupt of ours; it is emptied whenever the monitor is at work anyway.
void drain_device_faults() {
    Monitor& m = the_monitor;
    Guard<Hardware> guard(m.memory.lock(), m.hardware);
    m.memory.counters().add(FLEX_STAT_DMA_FAULTS, m.hardware.smmu().drain_events());
}

s64 call_firmware(u64 function, u64 a1, u64 a2, u64 a3) {
    SmcRegisters registers{{function, a1, a2, a3}};
    secure_monitor_call(&registers);
    return static_cast<s64>(registers.x[0]);
}

void handle_smc(Frame& frame) {
    const u64 immediate = field(frame.esr, 15, 0);
    const u32 function = static_cast<u32>(frame.x[0]); // W0 (DEN0028 2.5)
    frame.x[0] = function;
    switch (immediate == 0 ? filter_smc(function) : SmcAction::Deny) {
    case SmcAction::Deny:
        deny(frame);
        break;
    case SmcAction::Forward:
        forward(frame);
        break;
    case SmcAction::AskFeatures:
        if (filter_smc(static_cast<u32>(frame.x[1])) == SmcAction::Deny) {
            answer(frame, smc::kNotSupported);
        } else {
            forward(frame);
        }
        break;
    case SmcAction::CpuOn:
        answer(frame, start_core(frame.x[1], frame.x[2], frame.x[3]));
        break;
    case SmcAction::CpuOff:
        answer(frame, stop_this_core());
        break;
    case SmcAction::CpuSuspend:
        if (keeps_core_state(frame.x[1])) {
            forward(frame);
        } else {
            answer(frame, smc::kInvalidParameters);
        }
        break;
    case SmcAction::SystemReset2:
        // Only the architectural warm reset (type 0); a vendor's type may keep more state than we know.
        if (static_cast<u32>(frame.x[1]) != 0) {
            answer(frame, smc::kInvalidParameters);
            break;
        }
        [[fallthrough]];
    case SmcAction::SystemOff:
    case SmcAction::SystemReset:
        power(frame);
    }
}

void handle_hvc(Frame& frame) {
    Monitor& m = the_monitor;
    const u64 immediate = field(frame.esr, 15, 0);
    FlexMemory<Hardware>::Outcome outcome;
    switch (immediate == 0 ? static_cast<u32>(frame.x[0]) : 0) {
    case FLEX_HVC_VERSION:
        answer(frame, FLEX_OK);
        frame.x[1] = FLEX_ABI_VERSION;
        frame.x[2] = m.layout.dram.base;
        frame.x[3] = m.layout.frames * kFrameSize;
        break;
    case FLEX_HVC_PROTECT:
    case FLEX_HVC_RECALL:
        drain_device_faults();
        outcome = static_cast<u32>(frame.x[0]) == FLEX_HVC_PROTECT ? m.memory.protect(frame.x[1], frame.x[2])
                                                                   : m.memory.recall(frame.x[1], frame.x[2]);
        answer(frame, static_cast<s64>(outcome.status));
        frame.x[1] = outcome.index;
        break;
    case FLEX_HVC_STAT:
        if (is_statistic(frame.x[1])) {
            frame.x[1] = statistic(frame.x[1]);
            answer(frame, FLEX_OK);
        } else {
            answer(frame, FLEX_ERR_ARGUMENT);
        }
        break;
    case FLEX_HVC_NPU_GIVE:
        drain_device_faults();
        answer(frame, static_cast<s64>(give_npu()));
        break;
    case FLEX_HVC_NPU_TAKE:
        drain_device_faults();
        answer(frame, static_cast<s64>(take_npu()));
        break;
    case FLEX_HVC_NPU_STATE:
        answer(frame, FLEX_OK);
        frame.x[1] = static_cast<u64>(m.npu.control().state());
        break;
    case FLEX_HVC_NPU_INTERRUPT:
        answer(frame, FLEX_OK);
        frame.x[1] = lower_npu_interrupt() ? 1 : 0;
        break;
    default:
        deny(frame);
        break;
    }
}

} // namespace flex::monitor
