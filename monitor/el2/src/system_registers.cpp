// Trapped system registers: feature registers are shown without what is not there for the normal world; debug
// registers read as zero and ignore writes, since a stock kernel initialises them; anything else is
// undefined.
#include "frame_registers.hpp"
#include "id_registers.hpp"
#include "monitor.hpp"

#include <utility>

namespace flex::monitor {
namespace {

// ISS of EC 0x18 (Arm ARM D19.2.37).
struct Access {
    explicit Access(u64 esr)
        : op0(field(esr, 21, 20)), op1(field(esr, 16, 14)), crn(field(esr, 13, 10)), crm(field(esr, 4, 1)),
          op2(field(esr, 19, 17)), target(static_cast<unsigned>(field(esr, 9, 5))), read(field(esr, 0, 0)) {}
    u64 op0, op1, crn, crm, op2;
    unsigned target;
    bool read;
    [[nodiscard]] bool is(u64 o0, u64 o1, u64 n, u64 m, u64 o2) const {
        return op0 == o0 && op1 == o1 && crn == n && crm == m && op2 == o2;
    }
};

template <unsigned kNumber> u64 read_feature() {
    u64 value;
    asm("mrs %0, S3_0_C0_C%c1_%c2" : "=r"(value) : "i"(kNumber / 8), "i"(kNumber % 8));
    return value;
}

// S3_0_C0_C1_0 .. S3_0_C0_C7_7; reserved ones read as zero (Arm ARM D18.3).
template <unsigned... kNumbers>
u64 read_feature(unsigned number, std::integer_sequence<unsigned, kNumbers...>) {
    u64 value = 0;
    (void)((number == kNumbers + 8 && (value = read_feature<kNumbers + 8>(), true)) || ...);
    return value;
}

void finish(Frame& frame, const Access& access, u64 value) {
    if (access.read && access.target != 31) frame.x[access.target] = value;
    frame.elr += 4;
}

} // namespace

void handle_system_register(Frame& frame) {
    const Access access(frame.esr);
    if (access.is(3, 0, 0, access.crm, access.op2) && access.read && access.crm >= 1 && access.crm <= 7) {
        const auto crm = static_cast<unsigned>(access.crm), op2 = static_cast<unsigned>(access.op2);
        const u64 value = read_feature(crm * 8 + op2, std::make_integer_sequence<unsigned, 56>());
        finish(frame, access, visible_id_register(crm, op2, value));
        return;
    }
    const bool debug = access.op0 == 2;
    const bool auxiliary_control = access.is(3, 0, 1, 0, 1);
    if (!debug && !auxiliary_control) {
        the_monitor.memory.counters().add(FLEX_STAT_REGISTERS_DENIED);
        inject_undefined(frame);
        return;
    }
    if (!access.read && access.target != 31 && frame.x[access.target] != 0) {
        the_monitor.memory.counters().add(FLEX_STAT_REGISTERS_DENIED);
    }
    // OSLSR_EL1: the OS lock is implemented (OSLM = 0b10) and open.
    finish(frame, access, access.is(2, 0, 1, 1, 4) ? bit(3) : 0);
}

} // namespace flex::monitor
