/* System registers and barriers of AArch64 as typed operations. */
#ifndef FLEX_TOS_ARCH_REGISTERS_HPP
#define FLEX_TOS_ARCH_REGISTERS_HPP

#include "core/types.hpp"

namespace flex::tos {

#define FLEX_TOS_REGISTER(name, encoding)                                                                    \
    struct name {                                                                                            \
        static u64 read() {                                                                                  \
            u64 value;                                                                                       \
            asm volatile("mrs %0, " encoding : "=r"(value) : : "memory");                                    \
            return value;                                                                                    \
        }                                                                                                    \
        static void write(u64 value) { asm volatile("msr " encoding ", %0" : : "r"(value) : "memory"); }     \
    };

FLEX_TOS_REGISTER(MPIDR_EL1, "mpidr_el1")
FLEX_TOS_REGISTER(TPIDR_EL1, "tpidr_el1")
FLEX_TOS_REGISTER(TTBR0_EL1, "ttbr0_el1")
FLEX_TOS_REGISTER(CNTPCT_EL0, "cntpct_el0")
FLEX_TOS_REGISTER(CNTFRQ_EL0, "cntfrq_el0")
FLEX_TOS_REGISTER(CNTKCTL_EL1, "cntkctl_el1")
FLEX_TOS_REGISTER(CNTV_CTL_EL0, "cntv_ctl_el0")
FLEX_TOS_REGISTER(CNTV_CVAL_EL0, "cntv_cval_el0")
FLEX_TOS_REGISTER(ISR_EL1, "isr_el1")
FLEX_TOS_REGISTER(ID_AA64ISAR0_EL1, "id_aa64isar0_el1")
FLEX_TOS_REGISTER(MIDR_EL1, "midr_el1")
FLEX_TOS_REGISTER(ID_AA64ISAR1_EL1, "id_aa64isar1_el1")
FLEX_TOS_REGISTER(ID_AA64PFR0_EL1, "id_aa64pfr0_el1")
/* GICv3 CPU interface, by encoding: the assembler knows the names only with later architectures. */
FLEX_TOS_REGISTER(ICC_IAR1_EL1, "s3_0_c12_c12_0")
FLEX_TOS_REGISTER(ICC_EOIR1_EL1, "s3_0_c12_c12_1")
FLEX_TOS_REGISTER(ICC_SGI1R_EL1, "s3_0_c12_c11_5")
#undef FLEX_TOS_REGISTER

inline void barrier_instruction() { asm volatile("isb" : : : "memory"); }
inline void barrier_data() { asm volatile("dsb sy" : : : "memory"); }

/* A physical interrupt waits: IRQ is a secure one here, FIQ one of the normal world (GICv3
 * architecture, 4.6.2). */
inline bool interrupt_pending() { return (ISR_EL1::read() & (3 << 6)) != 0; }

/* Architected random numbers (FEAT_RNG); false when the generator has none at the moment. */
inline bool read_rndr(u64& value) {
    u64 good;
    asm volatile("mrs %0, s3_3_c2_c4_0\n\tcset %1, ne" : "=r"(value), "=r"(good) : : "cc");
    return good != 0;
}
inline bool has_rndr() { return ((ID_AA64ISAR0_EL1::read() >> 60) & 15) != 0; }

} // namespace flex::tos

#endif
