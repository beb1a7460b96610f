#include "kernel/exec.hpp"

#include "arch/registers.hpp"
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/program.hpp"
#include "kernel/random.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

namespace {

/* elf.h AT_* */
enum : u64 {
    kAtNull = 0,
    kAtProgramHeaders = 3,
    kAtProgramHeaderBytes = 4,
    kAtProgramHeaderCount = 5,
    kAtPageBytes = 6,
    kAtEntry = 9,
    kAtUid = 11,
    kAtEuid = 12,
    kAtGid = 13,
    kAtEgid = 14,
    kAtCapabilities = 16,
    kAtClockTicks = 17,
    kAtSecure = 23,
    kAtRandom = 25,
    kAtCapabilities2 = 26,
    kAtExecutable = 31,
};

u64 field(u64 value, u32 shift) { return (value >> shift) & 15; }

/* Linux HWCAP_* from the identification registers: what FP/SIMD code may use. The CPUID bit stays off: MRS is
 * not emulated. */
u64 capabilities() {
    const u64 isar0 = ID_AA64ISAR0_EL1::read(), isar1 = ID_AA64ISAR1_EL1::read(),
              pfr0 = ID_AA64PFR0_EL1::read();
    u64 bits = 0;
    if (field(pfr0, 16) != 15) bits |= 1 << 0;  /* FP */
    if (field(pfr0, 20) != 15) bits |= 1 << 1;  /* ASIMD */
    if (field(isar0, 4) >= 1) bits |= 1 << 3;   /* AES */
    if (field(isar0, 4) >= 2) bits |= 1 << 4;   /* PMULL */
    if (field(isar0, 8) >= 1) bits |= 1 << 5;   /* SHA1 */
    if (field(isar0, 12) >= 1) bits |= 1 << 6;  /* SHA2 */
    if (field(isar0, 16) >= 1) bits |= 1 << 7;  /* CRC32 */
    if (field(isar0, 20) >= 2) bits |= 1 << 8;  /* ATOMICS */
    if (field(pfr0, 16) == 1) bits |= 1 << 9;   /* FPHP */
    if (field(pfr0, 20) == 1) bits |= 1 << 10;  /* ASIMDHP */
    if (field(isar0, 44) >= 1) bits |= 1 << 20; /* ASIMDDP */
    if (field(isar0, 12) >= 2) bits |= 1 << 21; /* SHA512 */
    if (field(isar1, 20) >= 1) bits |= 1 << 15; /* LRCPC */
    return bits;
}

u64 capabilities2() {
    const u64 isar1 = ID_AA64ISAR1_EL1::read();
    u64 bits = 0;
    if (field(isar1, 52) >= 1) bits |= 1 << 13; /* I8MM */
    if (field(isar1, 44) >= 1) bits |= 1 << 14; /* BF16 */
    return bits;
}

/* QEMU's "max" processor says so: implementer 0 (for software), part 'Q'. */
bool emulated() {
    const u64 midr = MIDR_EL1::read();
    return field(midr, 24) == 0 && field(midr, 28) == 0 && ((midr >> 4) & 0xfff) == 'Q';
}

constexpr char kName[] = "flexserved";
constexpr char kLocale[] = "LC_ALL=C";
/* OpenSSL without ARMV7_NEON, bit 0 (its arm_arch.h): emulated, its ChaCha20-Poly1305 is seven times as fast with scalar
 * instructions. */
constexpr char kScalarCrypto[] = "OPENSSL_armcap=0x7c";

struct InitialStack {
    u64 argument_count;
    u64 arguments[2];
    u64 environment[3];
    u64 auxiliary[17][2];
    u8 random[16];
    char name[16];
    char locale[16];
    char scalar_crypto[32];
};
static_assert(sizeof(InitialStack) % 16 == 0, "SP is 16-byte aligned at the entry (AAPCS64 6.2.3)");

void fill(InitialStack& stack, u64 at) {
    const ElfProgram& elf = g_program.elf;
    stack.argument_count = 1;
    stack.arguments[0] = at + offsetof(InitialStack, name);
    stack.environment[0] = at + offsetof(InitialStack, locale);
    if (emulated()) stack.environment[1] = at + offsetof(InitialStack, scalar_crypto);
    copy_bytes(stack.name, kName, sizeof kName);
    copy_bytes(stack.locale, kLocale, sizeof kLocale);
    copy_bytes(stack.scalar_crypto, kScalarCrypto, sizeof kScalarCrypto);
    g_drbg.generate(stack.random, sizeof stack.random);
    const u64 vector[][2] = {
        {kAtProgramHeaders, elf.headers},
        {kAtProgramHeaderBytes, 56},
        {kAtProgramHeaderCount, elf.header_count},
        {kAtPageBytes, kPageBytes},
        {kAtEntry, elf.entry},
        {kAtUid, 0},
        {kAtEuid, 0},
        {kAtGid, 0},
        {kAtEgid, 0},
        {kAtCapabilities, capabilities()},
        {kAtClockTicks, 100},
        {kAtSecure, 0},
        {kAtRandom, at + offsetof(InitialStack, random)},
        {kAtCapabilities2, capabilities2()},
        {kAtExecutable, at + offsetof(InitialStack, name)},
        {kAtNull, 0},
    };
    static_assert(sizeof vector <= sizeof stack.auxiliary);
    copy_bytes(stack.auxiliary, vector, sizeof vector);
}

} // namespace

Next exec_step(Thread& thread) {
    thread.step = exec_step;
    if (!seed_step()) return Next::Again;
    InitialStack stack = {};
    const u64 at = kStackTop - sizeof stack;
    fill(stack, at);
    const Access access = copy_to_user(at, &stack, sizeof stack);
    if (access == Access::NoFrames) {
        kick_service();
        return wait_for(thread, WaitFor::Frames, exec_step);
    }
    if (access == Access::Fault) {
        print("tos: no tables for the program's stack\n");
        end_program(256 + kSignalKill);
        return Next::Again;
    }
    thread.registers.sp = at;
    thread.registers.pc = g_program.elf.entry;
    thread.registers.pstate = 0; /* EL0t, nothing masked */
    return Next::User;
}

} // namespace flex::tos
