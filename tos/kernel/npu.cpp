#include "kernel/npu.hpp"

#include "abi/calls.h"
#include "abi/npu_control.hpp"
#include "abi/syscall.h"
#include "arch/mmu.hpp"
#include "core/memory.hpp"
#include "core/npu.hpp"
#include "kernel/console.hpp"
#include "kernel/core.hpp"
#include "kernel/exception.hpp"
#include "kernel/program.hpp"
#include "kernel/rpc_engine.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

namespace {

TrustedOsNpuControl<> control;
NpuHold hold;
bool asking;         /* a thread is in ACQUIRE */
bool unsent;         /* RETURNED, and the normal world has not been told: no slot was free */
bool may_write;      /* the last reset did not end */
u64 mapped, bytes;   /* where the program has the registers */
volatile u8* status; /* device_status, in the kernel's half; nullptr: not mapped */

/* What the program sees instead of registers once they were taken from it. Zero when that happens. */
alignas(kPageBytes) u8 nobody_reads_this[kPageBytes];

/* A device that is well answers the first read. */
constexpr u64 kResetNs = 20'000'000;
/* While something is left to do that only time can bring. */
constexpr u64 kLookAgainNs = 1'000'000;
constexpr u64 kPciEnd = u64{BOARD_PCIE_MMIO_BASE} + BOARD_PCIE_MMIO_BYTES;
constexpr u64 kDeviceStatus = 0x14; /* Virtio 1.2, 4.1.4.3 */

void unmap_from_program() {
    bool stuck = false;
    while (g_program.table.take(mapped, mapped + bytes, stuck).bytes != 0) {
    }
    tlb::invalidate(mapped, bytes);
}

/* Its queues and what runs of them end (Virtio 1.2, 2.4.2). The device is not the program's any more. */
void reset_device() {
    const u64 end = deadline_after(kResetNs);
    *status = 0;
    barrier_data();
    may_write = true;
    do {
        may_write = *status != 0;
    } while (may_write && now() < end);
    if (may_write) print("tos: the NPU does not end its reset\n");
    unmap_non_secure(TOS_NPU_BASE, bytes);
    status = nullptr;
}

void tell_returned() {
    const u32 slot = post_and_forget({FLEX_RPC_NPU_RETURN, 0, {}});
    unsent = slot == RpcSlots::kNone;
    if (unsent) look_by(deadline_after(kLookAgainNs));
}

/* The order matters: nobody can give the device new work, then it drops the old, then it is the monitor's. */
void give_back() {
    unmap_from_program();
    reset_device();
    (void)control.put_back();
    tell_returned();
}

void forget_area() { (void)g_areas.remove(mapped, mapped + bytes); }

/* Registers at a place of the program's, and device_status for the kernel. */
Error map_registers(const flex_npu_control& where) {
    const Result<u64> place = g_areas.place(where.bytes, kPageBytes, kFlexBase, kStackTop - kStackBytes);
    if (!place.ok()) return place.error;
    Area area;
    area.begin = place.value;
    area.end = place.value + where.bytes;
    area.protection = kProtectRead | kProtectWrite;
    area.backing = Backing::Registers;
    if (const Error error = g_areas.insert(area); error != kOk) return error;
    mapped = area.begin;
    bytes = where.bytes;
    u8* registers = map_device(TOS_NPU_BASE, where.registers, where.bytes);
    if (registers != nullptr && g_program.table.map(mapped, where.registers, bytes, leaf::kUserRegisters)) {
        status = registers + where.common + kDeviceStatus;
        return kOk;
    }
    if (registers != nullptr) unmap_non_secure(TOS_NPU_BASE, bytes);
    forget_area();
    return kEnomem;
}

/* The answer of the normal world is only a hint what to look for; the control page decides. */
Next acquire_step(Thread& thread) {
    RpcAnswer answer;
    const bool none = take_answer(thread, answer) && answer.result == kEnodev;
    drop_slot(thread);
    asking = false;
    flex_npu_control where;
    if (!control.hold(where)) return finish(thread, none ? kEnodev : kEbusy);
    const bool valid = npu_registers_valid(where, BOARD_PCIE_MMIO_BASE, kPciEnd);
    if (const Error error = valid ? map_registers(where) : kEnodev; error != kOk) {
        (void)control.put_back();
        tell_returned();
        return finish(thread, error);
    }
    hold.begin();
    unsent = false;
    const flex_npu_grant grant = {
        mapped, bytes, where.common, where.notify, where.isr, where.device, where.notify_multiplier, g_program.told_moved};
    if (store_user(thread.user_address, grant) != Access::Good) {
        give_back();
        forget_area();
        hold.end();
        return finish(thread, kEfault);
    }
    g_statistics.npu_held++;
    return finish(thread, 0);
}

Next ask_step(Thread& thread) {
    if (!take_slot(thread)) return wait_for(thread, WaitFor::Slot, ask_step);
    return post(thread, {FLEX_RPC_NPU_GIVE, 0, {thread.user_bytes}}, acquire_step);
}

Next wait_step(Thread& thread) {
    if (!hold.held()) return finish(thread, kEnodev);
    return finish(thread, hold.recalled() ? 1 : 0);
}

void wake_waiting() {
    wake_all(WaitFor::Npu);
    wake_all(WaitFor::NpuRecall);
}

/* The program keeps the address, but nothing of the device is behind it. */
void take_from_program() {
    give_back();
    fill_bytes(nobody_reads_this, 0, sizeof nobody_reads_this);
    for (u64 at = mapped; at < mapped + bytes; at += kPageBytes) {
        /* The tables are there: these pages had other leaves a moment ago. */
        if (!g_program.table.map(at, kernel_physical(nobody_reads_this), kPageBytes,
                                 leaf::user(kProtectRead | kProtectWrite, false)))
            panic("no table for a page");
    }
    hold.lose();
    g_statistics.npu_revoked++;
    wake_waiting();
}

} // namespace

void npu_boot(flex_npu_control* page) { control = TrustedOsNpuControl<>(page); }

bool npu_recall(u64 ms) {
    constexpr u64 kMsMax = 3'600'000;
    const u64 granted = min(max<u64>(ms, FLEX_NPU_RECALL_MS_MIN), kMsMax);
    if (!hold.recall(deadline_after(granted * 1'000'000))) return false;
    look_by(hold.deadline());
    wake_waiting();
    return true;
}

void npu_rang() {
    g_statistics.npu_interrupts++;
    hold.ring();
    wake_all(WaitFor::Npu);
}

u64 npu_look(u64 time) {
    if (hold.overdue(time)) take_from_program();
    if (unsent) tell_returned();
    return min(hold.deadline(), unsent ? deadline_after(kLookAgainNs) : kNever);
}

bool npu_leave() {
    asking = false;
    if (hold.held()) give_back();
    if (hold.lost()) unmap_from_program();
    hold.end();
    return !may_write || control.state() != NpuState::Returned;
}

bool npu_may_reach() { return !hold.none() || (may_write && control.state() == NpuState::Returned); }

Next system_npu_acquire(Thread& thread, u64 ms, u64 grant) {
    if (!hold.none()) return finish(thread, kEexist);
    if (control.state() == NpuState::Absent) return finish(thread, kEnodev);
    if (asking) return finish(thread, kEbusy);
    /* Found out now, since the normal world is asked only once. */
    if (!reached(thread, touch(grant, sizeof(flex_npu_grant), kProtectWrite))) return thread.outcome;
    asking = true;
    thread.user_address = grant;
    thread.user_bytes = ms;
    return ask_step(thread);
}

Next system_npu_release(Thread& thread) {
    if (hold.none()) return finish(thread, kEnodev);
    const bool held = hold.held();
    held ? give_back() : unmap_from_program();
    forget_area();
    hold.end();
    wake_waiting();
    return finish(thread, held ? 0 : i64{kEnodev});
}

Next system_npu_wait(Thread& thread, u64 ns, u64 what) {
    if (what > FLEX_NPU_WAIT_RECALL) return finish(thread, kEinval);
    const WaitFor event = what == FLEX_NPU_WAIT_RECALL ? WaitFor::NpuRecall : WaitFor::Npu;
    /* Asked without waiting, it is no reason to give the core away. */
    if (ns == 0 || !hold.held() || hold.recalled() || (event == WaitFor::Npu && hold.take_ring())) return wait_step(thread);
    g_statistics.npu_waits++;
    return wait_for(thread, event, wait_step, ns == kNever ? kNever : deadline_after(ns));
}

} // namespace flex::tos
