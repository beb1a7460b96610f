/* ppoll and pselect6: both become one FLEX_RPC_POLL over the streams they name. */
#include "core/memory.hpp"
#include "kernel/core.hpp"
#include "kernel/file_calls.hpp"

namespace flex::tos {

namespace {

using Kind = OpenFile::Kind;

constexpr u32 kIn = 1, kOut = 4, kError = 8, kHangUp = 0x10, kInvalid = 0x20;

struct PollDescriptor { /* struct pollfd */
    i32 descriptor;
    u16 events, found;
};
struct WireItem { /* FLEX_RPC_POLL */
    u32 handle, events;
};

/* How long "nothing to be read" may be repeated to who asks without waiting; servers do so before each write. */
constexpr u64 kQuietNs = 50'000'000;

/*
 * What is known of a descriptor here. 0: ask the normal world.
 * One that is no stream can do everything. A stream that blocks takes what is written to it, whether it has to wait for that or not.
 */
u32 at_once(const OpenFile* file, u32 events) {
    if (file == nullptr) return kInvalid;
    if (file->kind == Kind::Stream) {
        const u32 in = g_files.ahead(*file).size != 0 ? events & kIn : 0;
        return events == kOut && !file->nonblocking ? kOut : in;
    }
    if (file->kind == Kind::Listener) return 0;
    if (file->kind == Kind::Socket || file->kind == Kind::Opening) return kHangUp;
    return events & (kIn | kOut);
}

Access load_timeout(u64 at, i64& ms, bool& valid) {
    ms = -1;
    valid = true;
    if (at == 0) return Access::Good;
    TimeSpec time;
    if (const Access access = load_user(time, at); access != Access::Good) return access;
    u64 ns = 0;
    valid = time.to_ns(ns);
    ms = static_cast<i64>(min<u64>((ns + 999'999) / 1'000'000, 0x7fffffff));
    return Access::Good;
}

void add_item(Thread& thread, u32 position, u32 descriptor, const OpenFile& file, u32 events) {
    thread.poll[thread.poll_count++] = {position, descriptor, file.handle, events};
}

/* Whether the answer is nothing, as it was a moment ago. */
bool all_quiet(const Thread& thread, i64 timeout_ms) {
    const u64 time = now();
    for (u32 i = 0; i < thread.poll_count; i++) {
        const OpenFile* file = g_files.get(thread.poll[i].descriptor);
        if (thread.poll[i].events != kIn || file == nullptr || file->quiet_until < time) return false;
    }
    return timeout_ms == 0;
}

Next ask(Thread& thread, i64 timeout_ms, Step step) {
    WireItem items[kPollMax];
    for (u32 i = 0; i < thread.poll_count; i++) items[i] = {thread.poll[i].handle, thread.poll[i].events};
    const u32 bytes = thread.poll_count * static_cast<u32>(sizeof(WireItem));
    copy_bytes(slot_data(thread.slot), items, bytes);
    return post(thread, {FLEX_RPC_POLL, bytes, {thread.poll_count, static_cast<u64>(timeout_ms)}}, step);
}

/* What was found, by item; only events that were asked for, or that come unasked. Copied once, then looked
 * at. */
i64 found_events(Thread& thread, u32 (&found)[kPollMax]) {
    RpcAnswer answer;
    WireItem items[kPollMax] = {};
    i64 result = result_of(thread, answer);
    if (result > 0) copy_bytes(items, slot_data(thread.slot), thread.poll_count * sizeof(WireItem));
    drop_slot(thread);
    if (result < 0) return result;
    result = 0;
    for (u32 i = 0; i < thread.poll_count; i++) {
        found[i] = items[i].events & (thread.poll[i].events | kError | kHangUp);
        OpenFile* file = g_files.get(thread.poll[i].descriptor);
        if (found[i] != 0) {
            result++;
        } else if ((thread.poll[i].events & kIn) != 0 && file != nullptr && file->kind == Kind::Stream && file->handle == thread.poll[i].handle) {
            file->quiet_until = deadline_after(kQuietNs);
        }
    }
    return result;
}

/* ---- ppoll ---- */

Next polled_step(Thread& thread) {
    u32 found[kPollMax] = {};
    const i64 result = found_events(thread, found);
    for (u32 i = 0; i < thread.poll_count && result > 0; i++) {
        const u64 at = thread.user_address + thread.poll[i].position * sizeof(PollDescriptor) +
                       offsetof(PollDescriptor, found);
        if (store_user(at, static_cast<u16>(found[i])) != Access::Good) return finish(thread, kEfault);
    }
    return finish(thread, result);
}

Next nothing_polled_step(Thread& thread) { return finish(thread, 0); }

Next system_ppoll(Thread& thread, const Arguments& a) {
    i64 timeout = -1;
    bool valid = true;
    if (a[1] > Files::kMax) return finish(thread, kEinval);
    if (!reached(thread, load_timeout(a[2], timeout, valid))) return thread.outcome;
    if (!reached(thread, touch(a[0], a[1] * sizeof(PollDescriptor), kProtectWrite))) return thread.outcome;
    if (!valid) return finish(thread, kEinval);
    thread.poll_count = 0;
    i64 ready = 0;
    for (u32 i = 0; i < a[1]; i++) {
        PollDescriptor item;
        const u64 at = a[0] + i * sizeof item;
        if (!reached(thread, load_user(item, at))) return thread.outcome;
        const OpenFile* file = item.descriptor < 0 ? nullptr : g_files.get(static_cast<u64>(item.descriptor));
        item.found = item.descriptor < 0 ? 0 : static_cast<u16>(at_once(file, item.events));
        if (item.found != 0) {
            ready++;
        } else if (item.descriptor >= 0 && thread.poll_count == kPollMax) {
            return finish(thread, kEinval);
        } else if (item.descriptor >= 0 && (item.events & (kIn | kOut)) != 0) {
            add_item(thread, i, static_cast<u32>(item.descriptor), *file, item.events & (kIn | kOut));
        }
        if (!reached(thread, store_user(at, item))) return thread.outcome;
    }
    if (ready > 0) return finish(thread, ready);
    if (thread.poll_count == 0) {
        return wait_for(thread, WaitFor::Time, nothing_polled_step,
                        timeout < 0 ? kNever : deadline_after(static_cast<u64>(timeout) * 1'000'000));
    }
    if (all_quiet(thread, timeout)) return finish(thread, 0);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = a[0];
    return ask(thread, timeout, polled_step);
}

/* ---- pselect6 ---- */

struct Sets {
    u64 read[Files::kMax / 64], write[Files::kMax / 64];
};
bool in_set(const u64* set, u32 i) { return (set[i / 64] >> (i % 64) & 1) != 0; }
void add_to_set(u64* set, u32 i) { set[i / 64] |= u64{1} << (i % 64); }

Access load_set(u64 (&set)[Files::kMax / 64], u64 at, u64 count) {
    if (at == 0) return Access::Good;
    return copy_from_user(set, at, align_up(count, 64) / 8);
}
Access store_set(u64 at, const u64 (&set)[Files::kMax / 64], u64 count) {
    return at == 0 ? Access::Good : copy_to_user(at, set, align_up(count, 64) / 8);
}

/* scratch: addresses of the two sets; user_bytes: number of descriptors; user_address: the exception set,
 * always emptied. */
Next store_sets(Thread& thread, const Sets& sets, i64 result) {
    const u64 none[Files::kMax / 64] = {};
    const bool good = store_set(thread.scratch[0], sets.read, thread.user_bytes) == Access::Good &&
                      store_set(thread.scratch[1], sets.write, thread.user_bytes) == Access::Good &&
                      store_set(thread.user_address, none, thread.user_bytes) == Access::Good;
    return finish(thread, good ? result : i64{kEfault});
}

Next selected_step(Thread& thread) {
    u32 found[kPollMax] = {};
    i64 result = found_events(thread, found);
    if (result < 0) return finish(thread, result);
    Sets sets = {};
    result = 0;
    for (u32 i = 0; i < thread.poll_count; i++) {
        const PollItem& item = thread.poll[i];
        const bool any = (found[i] & (kError | kHangUp)) != 0;
        if ((item.events & kIn) != 0 && (any || (found[i] & kIn) != 0))
            add_to_set(sets.read, item.position), result++;
        if ((item.events & kOut) != 0 && (any || (found[i] & kOut) != 0))
            add_to_set(sets.write, item.position), result++;
    }
    return store_sets(thread, sets, result);
}

Next nothing_selected_step(Thread& thread) { return store_sets(thread, {}, 0); }

Next system_pselect(Thread& thread, const Arguments& a) {
    i64 timeout = -1;
    bool valid = true;
    Sets sets = {};
    if (a[0] > Files::kMax) return finish(thread, kEinval);
    if (!reached(thread, load_timeout(a[4], timeout, valid))) return thread.outcome;
    if (!reached(thread, load_set(sets.read, a[1], a[0]))) return thread.outcome;
    if (!reached(thread, load_set(sets.write, a[2], a[0]))) return thread.outcome;
    if (!valid) return finish(thread, kEinval);
    thread.scratch[0] = a[1];
    thread.scratch[1] = a[2];
    thread.user_address = a[3];
    thread.user_bytes = a[0];
    thread.poll_count = 0;
    Sets found = {};
    i64 ready = 0;
    for (u32 i = 0; i < a[0]; i++) {
        const u32 events = (in_set(sets.read, i) ? kIn : 0) | (in_set(sets.write, i) ? kOut : 0);
        if (events == 0) continue;
        const OpenFile* file = g_files.get(i);
        if (file == nullptr) return finish(thread, kEbadf);
        const u32 known = at_once(file, events);
        if ((known & (kIn | kHangUp)) != 0 && (events & kIn) != 0) add_to_set(found.read, i), ready++;
        if ((known & (kOut | kHangUp)) != 0 && (events & kOut) != 0) add_to_set(found.write, i), ready++;
        if (known != 0) continue;
        if (thread.poll_count == kPollMax) return finish(thread, kEinval);
        add_item(thread, i, i, *file, events);
    }
    if (ready > 0) return store_sets(thread, found, ready);
    if (thread.poll_count == 0) {
        return wait_for(thread, WaitFor::Time, nothing_selected_step,
                        timeout < 0 ? kNever : deadline_after(static_cast<u64>(timeout) * 1'000'000));
    }
    if (all_quiet(thread, timeout)) return store_sets(thread, {}, 0);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    return ask(thread, timeout, selected_step);
}

const CallEntry kPollCallsList[] = {
    {72, system_pselect},
    {73, system_ppoll},
};
} // namespace

const Span<const CallEntry> kPollCalls(kPollCallsList);

} // namespace flex::tos
