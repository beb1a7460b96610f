// Where every exception from a lower level arrives.
#include "console.hpp"
#include "frame_registers.hpp"
#include "monitor.hpp"

namespace flex::monitor {
namespace {

// ESR_EL2.EC (Arm ARM D19.2.37).
constexpr u64 kHvc64 = 0x16, kSmc64 = 0x17, kSystemRegister = 0x18, kFetchAbort = 0x20, kDataAbort = 0x24;

// Another core asked for silence while this one was in the monitor or took its trap.
void park_if_stopping() {
    while (__atomic_load_n(&the_monitor.stopping, __ATOMIC_ACQUIRE) != 0) arch::wait_for_event();
}

} // namespace

void stop_other_cores() { __atomic_store_n(&the_monitor.stopping, 1, __ATOMIC_RELEASE); }

extern "C" void handle_lower_exception(Frame* frame) {
    park_if_stopping();
    switch (field(frame->esr, 31, 26)) {
    case kHvc64:
        handle_hvc(*frame);
        break;
    case kSmc64:
        frame->elr += 4; // a trapped SMC has not been executed: the preferred return is the SMC itself
        handle_smc(*frame);
        break;
    case kSystemRegister:
        handle_system_register(*frame);
        break;
    case kFetchAbort:
    case kDataAbort:
        handle_abort(*frame);
        break;
    // SVE, SME, trace, AMU and what a later core may trap: not there for the normal world.
    default:
        inject_undefined(*frame);
        break;
    }
    park_if_stopping();
}

} // namespace flex::monitor
