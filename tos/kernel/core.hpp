/* One processor core while it is lent to the secure world. */
#ifndef FLEX_TOS_KERNEL_CORE_HPP
#define FLEX_TOS_KERNEL_CORE_HPP

#include "arch/registers.hpp"
#include "kernel/thread.hpp"

namespace flex::tos {

struct alignas(64) Core {
    Thread* thread = nullptr; /* runs, or ran last */
    u64 kernel_sp = 0;
    u64 stack_top = 0, panic_stack_top = 0;
    u64 scratch[2] = {};
    u64 ttbr0_identity = 0;
    u64 interrupted_at = 0; /* when S-EL0 was left for an interrupt of the normal world; 0: it was not */

    u32 index = 0;
    bool inside = false; /* in a LEND call */
    bool returning =
        false; /* left it only for an interrupt or to have requests served, so it comes again by itself */
    bool in_user = false;  /* S-EL0 code may be running here; changed with the lock held, read without */
    bool borrowed = false; /* the normal world's FP registers are in `normal_fp`, TTBR0 holds the program's
                              tables, the timer runs */
    u64 tick_due = 0;      /* when the normal world's timer of this core expires */
    u64 timer_set_for = 0; /* what CNTV_CVAL_EL0 holds while borrowed */
    Thread* fp_owner = nullptr; /* whose values the FP registers hold, while borrowed */
    FpState normal_fp = {};
};
static_assert(offsetof(Core, thread) == CORE_THREAD && offsetof(Core, kernel_sp) == CORE_KERNEL_SP);
static_assert(offsetof(Core, stack_top) == CORE_STACK_TOP &&
              offsetof(Core, panic_stack_top) == CORE_PANIC_STACK_TOP);
static_assert(offsetof(Core, scratch) == CORE_SCRATCH &&
              offsetof(Core, ttbr0_identity) == CORE_TTBR0_IDENTITY);

constexpr u32 kCores = BOARD_CORES_MAX;
extern "C" Core cores[kCores];

inline Core& this_core() { return *reinterpret_cast<Core*>(TPIDR_EL1::read()); }

/* Secure group-1 software interrupt to the cores in the mask: they leave S-EL0 and look around. */
void interrupt_cores(u32 mask);
void acknowledge_secure_interrupt();

/* ---- Time: ticks of the system counter ---- */
inline u64 now() {
    barrier_instruction(); /* the counter may otherwise be read early (Arm ARM D12.2.2) */
    return CNTPCT_EL0::read();
}
u64 ticks_to_ns(u64 ticks);
u64 ns_to_ticks(u64 ns); /* saturates */
/* now + ns, kNever when that is beyond the counter */
u64 deadline_after(u64 ns);

} // namespace flex::tos

#endif
