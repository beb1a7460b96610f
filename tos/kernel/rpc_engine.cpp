#include "kernel/rpc_engine.hpp"

#include "arch/mmu.hpp"
#include "core/memory.hpp"

namespace flex::tos {

RpcSlots g_slots;
u32 g_orphans_out, g_orphans_done;

namespace {

/* Owner of the slot of the log, which no thread waits for. */
constexpr u32 kLog = kThreads;
/* Of slots that were abandoned as soon as they were posted. */
constexpr u32 kNobody = kThreads + 1;

char log_text[16384];
u64 log_bytes;
u32 log_slot = RpcSlots::kNone; /* out, kNone: none */

volatile flex_rpc_slot& shared_slot(u32 slot) {
    return reinterpret_cast<volatile flex_rpc_slot*>(TOS_SHARED_BASE)[slot];
}

bool hands_over_frames(u32 op) { return op == FLEX_RPC_ALLOC || op == FLEX_RPC_LOAD; }

void publish(u32 slot, const RpcRequest& request) {
    volatile flex_rpc_slot& shared = shared_slot(slot);
    shared.op = request.op;
    shared.data_len = request.data_len;
    for (u32 i = 0; i < 6; i++) shared.arg[i] = request.arg[i];
    g_slots.post(slot, request);
    g_statistics.rpcs++;
}

void free_slot(u32 slot) {
    g_slots.release(slot);
    wake_all(WaitFor::Slot);
}

void send_log() {
    if (log_slot != RpcSlots::kNone || log_bytes == 0) return;
    log_slot = g_slots.acquire(kLog, false);
    if (log_slot == RpcSlots::kNone) return; /* with the next line, then */
    copy_bytes(const_cast<u8*>(shared_slot(log_slot).data), log_text, log_bytes);
    publish(log_slot, {FLEX_RPC_LOG, static_cast<u32>(log_bytes), {}});
    log_bytes = 0;
}

} // namespace

u8* slot_data(u32 slot) { return const_cast<u8*>(shared_slot(slot).data); }

bool take_slot(Thread& thread, bool for_memory) {
    thread.slot = g_slots.acquire(thread.id, for_memory);
    return thread.slot != RpcSlots::kNone;
}

Next post(Thread& thread, const RpcRequest& request, Step step) {
    publish(thread.slot, request);
    return wait_for(thread, WaitFor::Answer, step);
}

u32 post_and_forget(const RpcRequest& request) {
    const u32 slot = g_slots.acquire(kNobody, true);
    if (slot == RpcSlots::kNone) return slot;
    publish(slot, request);
    g_slots.abandon(slot);
    return slot;
}

bool take_answer(Thread& thread, RpcAnswer& answer) {
    const volatile flex_rpc_slot& shared = shared_slot(thread.slot);
    answer.result = shared.result;
    answer.data_len = shared.data_len;
    for (u32 i = 0; i < 4; i++) answer.out[i] = shared.out[i];
    if (answer_is_valid(g_slots.request(thread.slot), answer)) return true;
    g_statistics.answers_refused++;
    return false;
}

void drop_slot(Thread& thread) {
    if (thread.slot == RpcSlots::kNone) return;
    free_slot(thread.slot);
    thread.slot = RpcSlots::kNone;
}

void complete_slots(u32 mask) {
    /* Late answers to a program that has ended, such as to its last lines of log: the shared area is not mapped any more. */
    if (g_program.life == Life::None || g_program.life == Life::Ended) return;
    u32 refused = 0;
    u32 done = g_slots.complete(mask, refused);
    g_statistics.answers_refused += refused;
    for (; done != 0; done &= done - 1) {
        const u32 slot = static_cast<u32>(__builtin_ctz(done));
        const u32 bit = 1u << slot;
        if ((g_orphans_out & bit) != 0) {
            g_orphans_out &= ~bit;
            g_orphans_done |= bit;
            kick_service();
        } else if (slot == log_slot) {
            log_slot = RpcSlots::kNone;
            free_slot(slot);
            send_log();
        } else if (g_slots.abandoned(slot)) {
            free_slot(slot);
        } else if (Thread& owner = g_threads[g_slots.owner(slot)]; owner.state == ThreadState::Waiting &&
                                                                   owner.waits_for == WaitFor::Answer &&
                                                                   owner.slot == slot) {
            make_ready(owner);
        }
    }
}

void abandon_slot(u32 slot, bool answered) {
    const u32 bit = 1u << slot;
    if (hands_over_frames(g_slots.request(slot).op)) {
        (answered ? g_orphans_done : g_orphans_out) |= bit;
    } else if (answered) {
        free_slot(slot);
    } else {
        g_slots.abandon(slot);
    }
}

void clear_log() {
    log_bytes = 0;
    log_slot = RpcSlots::kNone;
}

void post_log(const char* text, u64 bytes) {
    if (g_program.life == Life::None || g_program.life == Life::Ended) return;
    const u64 part = min(bytes, sizeof log_text - log_bytes);
    copy_bytes(log_text + log_bytes, text, part);
    log_bytes += part;
    send_log();
}

} // namespace flex::tos
