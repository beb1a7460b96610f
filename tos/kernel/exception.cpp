#include "kernel/exception.hpp"

#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/program.hpp"
#include "kernel/user_memory.hpp"

extern "C" {
extern const char copy_user_begin[], copy_user_end[], copy_user_fixup[];
}

namespace flex::tos {

namespace {

/* ESR_ELx.EC (Arm ARM D17.2.37) */
enum class Class : u32 {
    Unknown = 0x00,
    SystemCall = 0x15,
    FetchUser = 0x20,
    FetchKernel = 0x21,
    PcAlignment = 0x22,
    DataUser = 0x24,
    DataKernel = 0x25,
    SpAlignment = 0x26,
    FloatingPoint = 0x2c,
    Breakpoint = 0x3c,
};
Class class_of(u64 esr) { return static_cast<Class>((esr >> 26) & 0x3f); }
constexpr u64 kWrite = 1 << 6, kCacheMaintenance = 1 << 8;
/* DFSC/IFSC: 0b0001xx translation, 0b0010xx access flag, 0b0011xx permission */
bool is_mapping_fault(u64 esr) {
    const u64 kind = (esr & 0x3f) >> 2;
    return kind >= 1 && kind <= 3;
}

Next user_fault(Thread& thread, bool fetch) {
    const Registers& r = thread.registers;
    if (!is_mapping_fault(r.esr))
        return kill_program(thread, kSignalBus, "an access that memory does not answer");
    const bool write = !fetch && (r.esr & (kWrite | kCacheMaintenance)) == kWrite;
    const u8 need = fetch ? kProtectExecute : write ? kProtectWrite : kProtectRead;
    g_statistics.page_faults++;
    switch (page_in(r.far, need)) {
    case Access::Good:
        return Next::User;
    case Access::NoFrames:
        return wait_and_restart(thread, WaitFor::Frames);
    case Access::Fault:
        break;
    }
    const char* what = fetch   ? "execution of an address it may not execute"
                       : write ? "a write to an address it may not write"
                               : "a read of an address it may not read";
    return kill_program(thread, kSignalSegment, what);
}

Next user_synchronous(Thread& thread) {
    switch (class_of(thread.registers.esr)) {
    case Class::SystemCall: {
        g_statistics.syscalls++;
        thread.in_system_call = true;
        return system_call(thread);
    }
    case Class::FetchUser:
        return user_fault(thread, true);
    case Class::DataUser:
        return user_fault(thread, false);
    case Class::PcAlignment:
    case Class::SpAlignment:
        return kill_program(thread, kSignalBus, "a misaligned PC or SP");
    case Class::FloatingPoint:
        return kill_program(thread, kSignalFloat, "a floating-point exception");
    default:
        return kill_program(thread, kSignalIllegal, "an undefined or forbidden instruction");
    }
}

void dump(const Registers& r, void (*out)(const char*, ...)) {
    for (u32 i = 0; i < 30; i += 3) {
        out("  x%02u %016lx  x%02u %016lx  x%02u %016lx\n", i, r.x[i], i + 1, r.x[i + 1], i + 2, r.x[i + 2]);
    }
    out("  x30 %016lx  sp  %016lx  pc  %016lx\n", r.x[30], r.sp, r.pc);
    out("  pstate %08lx  esr %08lx  far %016lx  tls %016lx\n", r.pstate, r.esr, r.far, r.tls);
}

} // namespace

Next handle_user_exception(Thread& thread, int kind) {
    switch (kind) {
    case kExceptionSynchronous:
        return user_synchronous(thread);
    case kExceptionIrq:
        acknowledge_secure_interrupt();
        return Next::User;
    default:
        return kill_program(thread, kSignalBus, "an asynchronous error of the memory system");
    }
}

Next kill_program(Thread& thread, u32 signal, const char* why) {
    const Registers& r = thread.registers;
    print_both("tos: the program is stopped (signal %u): thread %u did %s\n", signal, thread.id, why);
    dump(r, print_both);
    print_both("  called from (frame pointers):\n");
    u64 frame = r.x[29];
    for (u32 i = 0; i < 32 && is_aligned(frame, 8); i++) {
        u64 record[2]; /* AAPCS64 6.4.6: frame record = {previous frame, return address} */
        if (load_user(record, frame) != Access::Good || record[1] == 0) break;
        print_both("    %016lx\n", record[1]);
        if (record[0] <= frame) break;
        frame = record[0];
    }
    end_program(256 + signal);
    return Next::Again; /* the thread ends at its core's next turn */
}

void panic(const char* why) {
    print_now("tos: panic on core %u: %s\n", this_core().index, why);
    for (;;) asm volatile("wfi");
}

/* From arch/vectors.S. Only the copy routines may fault: their PC moves to the fix-up. */
extern "C" void handle_kernel_exception(Registers* r) {
    const u64 pc = r->pc;
    const bool copying =
        pc >= reinterpret_cast<u64>(copy_user_begin) && pc < reinterpret_cast<u64>(copy_user_end);
    if (copying && class_of(r->esr) == Class::DataKernel && user_bytes(r->far & 0x00ffffffffffffff, 1)) {
        r->pc = reinterpret_cast<u64>(copy_user_fixup);
        return;
    }
    print_now("tos: exception in the kernel on core %u\n", this_core().index);
    dump(*r, print_now);
    print_now("  called from:\n");
    u64 frame = r->x[29];
    for (u32 i = 0; i < 16 && frame >= TOS_VIRTUAL_OFFSET + BOARD_BL32_BASE && is_aligned(frame, 8); i++) {
        const u64* record = reinterpret_cast<const u64*>(frame);
        print_now("    %016lx\n", record[1]);
        if (record[0] <= frame) break;
        frame = record[0];
    }
    panic("unexpected exception");
}

} // namespace flex::tos
