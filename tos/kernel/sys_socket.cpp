/* TCP as the normal world's streams. Enough of the socket interface for a server that reads with time-outs
 * and polls. */
#include "core/memory.hpp"
#include "kernel/core.hpp"
#include "kernel/file_calls.hpp"

namespace flex::tos {

namespace {

using Kind = OpenFile::Kind;

constexpr u64 kFamilyInternet = 2, kTypeStream = 1, kTypeMask = 0xf, kNonblocking = 04000;

/* struct sockaddr_in; port and address in network order */
struct SocketAddress {
    u16 family;
    u8 port[2];
    u8 address[4];
    u8 zero[8];
};

SocketAddress make_address(u64 ipv4, u64 port) {
    SocketAddress result = {};
    result.family = kFamilyInternet;
    for (u32 i = 0; i < 2; i++) result.port[i] = static_cast<u8>(port >> (8 - 8 * i));
    for (u32 i = 0; i < 4; i++) result.address[i] = static_cast<u8>(ipv4 >> (24 - 8 * i));
    return result;
}

/* As the calls that return addresses do: at most the caller's length, then the true one. */
Access store_address(u64 to, u64 length_at, const SocketAddress& address) {
    if (to == 0 || length_at == 0) return Access::Good;
    u32 length = 0;
    if (const Access access = load_user(length, length_at); access != Access::Good) return access;
    if (const Access access = copy_to_user(to, &address, min<u64>(length, sizeof address));
        access != Access::Good)
        return access;
    return store_user(length_at, static_cast<u32>(sizeof address));
}

OpenFile* get_kind(u64 descriptor, Kind kind) {
    OpenFile* file = g_files.get(descriptor);
    return file != nullptr && file->kind == kind ? file : nullptr;
}
Next not_a(Thread& thread, u64 descriptor) {
    return finish(thread, g_files.get(descriptor) == nullptr ? kEbadf : kEnotconn);
}

/* ---- Making ---- */

Next system_socket(Thread& thread, const Arguments& a) {
    if (a[0] != kFamilyInternet) return finish(thread, kEafnosupport);
    if ((a[1] & kTypeMask) != kTypeStream) return finish(thread, kEprotonosupport);
    OpenFile file;
    file.kind = Kind::Socket;
    file.nonblocking = (a[1] & kNonblocking) != 0;
    return finish(thread, g_files.add(file));
}

Next system_bind(Thread& thread, const Arguments& a) {
    OpenFile* file = get_kind(a[0], Kind::Socket);
    if (file == nullptr) return not_a(thread, a[0]);
    SocketAddress address;
    if (a[2] < sizeof address) return finish(thread, kEinval);
    if (!reached(thread, load_user(address, a[1]))) return thread.outcome;
    if (address.family != kFamilyInternet) return finish(thread, kEafnosupport);
    file->port = static_cast<u16>(address.port[0] << 8 | address.port[1]);
    return finish(thread, 0);
}

Next listening_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    drop_slot(thread);
    OpenFile* file = get_kind(thread.descriptor, Kind::Opening);
    if (file == nullptr) return finish(thread, kEbadf);
    file->kind = result < 0 ? Kind::Socket : Kind::Listener;
    if (result >= 0) file->handle = static_cast<u32>(result);
    return finish(thread, min<i64>(result, 0));
}

Next system_listen(Thread& thread, const Arguments& a) {
    OpenFile* file = get_kind(a[0], Kind::Socket);
    if (file == nullptr) return not_a(thread, a[0]);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    file->kind = Kind::Opening;
    thread.descriptor = a[0];
    return post(thread, {FLEX_RPC_LISTEN, 0, {file->port, a[1] & 0xffff}}, listening_step);
}

Next accepted_step(Thread& thread) {
    RpcAnswer answer;
    /* A lie about one connection is not the end of the listener: servers take EAGAIN as "none came". */
    const i64 result = take_answer(thread, answer) ? answer.result : i64{kEagain};
    drop_slot(thread);
    OpenFile* file = get_kind(thread.descriptor, Kind::Opening);
    if (result < 0 || file == nullptr) {
        if (file != nullptr) g_files.close(thread.descriptor);
        return finish(thread, result < 0 ? result : i64{kEbadf});
    }
    file->kind = Kind::Stream;
    file->handle = static_cast<u32>(result);
    file->peer = answer.out[0];
    const SocketAddress peer = make_address(file->peer >> 16, file->peer & 0xffff);
    if (store_address(thread.user_address, thread.user_bytes, peer) != Access::Good)
        return finish(thread, kEfault);
    return finish(thread, static_cast<i64>(thread.descriptor));
}

Next accept_with(Thread& thread, const Arguments& a, u64 flags) {
    OpenFile* file = get_kind(a[0], Kind::Listener);
    if (file == nullptr) return finish(thread, g_files.get(a[0]) == nullptr ? kEbadf : kEinval);
    if (a[1] != 0) {
        if (!reached(thread, touch(a[1], sizeof(SocketAddress), kProtectWrite))) return thread.outcome;
        if (!reached(thread, touch(a[2], 4, kProtectWrite))) return thread.outcome;
    }
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    OpenFile stream;
    stream.kind = Kind::Opening;
    stream.nonblocking = (flags & kNonblocking) != 0;
    stream.port = file->port;
    const i64 descriptor = g_files.add(stream);
    if (descriptor < 0) {
        drop_slot(thread);
        return finish(thread, descriptor);
    }
    thread.descriptor = static_cast<u64>(descriptor);
    thread.user_address = a[1];
    thread.user_bytes = a[2];
    const u64 timeout = file->nonblocking ? 0 : static_cast<u64>(file->receive_timeout_ms);
    return post(thread, {FLEX_RPC_ACCEPT, 0, {file->handle, timeout}}, accepted_step);
}
Next system_accept(Thread& thread, const Arguments& a) { return accept_with(thread, a, 0); }
Next system_accept4(Thread& thread, const Arguments& a) { return accept_with(thread, a, a[3]); }

/* ---- Data ---- */

constexpr u64 kDontWait = 0x40, kPeek = 2;

Next system_receive(Thread& thread, const Arguments& a) {
    if ((a[3] & kPeek) != 0) return finish(thread, kEopnotsupp);
    if (a[5] != 0) {
        if (!reached(thread, store_user(a[5], u32{0}))) return thread.outcome;
    }
    return socket_read(thread, a[0], a[1], a[2], (a[3] & kDontWait) != 0);
}
Next system_send(Thread& thread, const Arguments& a) {
    return socket_write(thread, a[0], a[1], a[2], (a[3] & kDontWait) != 0);
}

/* struct msghdr: of its pieces the first that is not empty; the caller copes with short counts. */
Next message_call(Thread& thread, const Arguments& a, bool send) {
    struct {
        u64 name, name_bytes, pieces, piece_count, control, control_bytes, flags;
    } message;
    if (!reached(thread, load_user(message, a[1]))) return thread.outcome;
    for (u64 i = 0; i < min<u64>(message.piece_count, 1024); i++) {
        u64 piece[2];
        if (!reached(thread, load_user(piece, message.pieces + i * sizeof piece))) return thread.outcome;
        if (piece[1] == 0) continue;
        const bool dont_wait = (a[2] & kDontWait) != 0;
        return send ? socket_write(thread, a[0], piece[0], piece[1], dont_wait)
                    : socket_read(thread, a[0], piece[0], piece[1], dont_wait);
    }
    return finish(thread, 0);
}
Next system_send_message(Thread& thread, const Arguments& a) { return message_call(thread, a, true); }
Next system_receive_message(Thread& thread, const Arguments& a) { return message_call(thread, a, false); }

Next system_shutdown(Thread& thread, const Arguments& a) {
    const OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || (file->kind != Kind::Stream && file->kind != Kind::Listener))
        return not_a(thread, a[0]);
    if (a[1] > 2) return finish(thread, kEinval);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    return post(thread, {FLEX_RPC_SHUTDOWN, 0, {file->handle, a[1]}}, sign_answer_step);
}

/* ---- Names and options ---- */

Next name_call(Thread& thread, const Arguments& a, bool peer) {
    const OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    if (peer && file->kind != Kind::Stream) return finish(thread, kEnotconn);
    const SocketAddress address =
        peer ? make_address(file->peer >> 16, file->peer & 0xffff) : make_address(0, file->port);
    if (!reached(thread, store_address(a[1], a[2], address))) return thread.outcome;
    return finish(thread, 0);
}
Next system_getsockname(Thread& thread, const Arguments& a) { return name_call(thread, a, false); }
Next system_getpeername(Thread& thread, const Arguments& a) { return name_call(thread, a, true); }

constexpr u64 kLevelSocket = 1, kOptionType = 3, kReceiveTimeout = 20, kSendTimeout = 21;

/* Time-outs are ours; the rest (reuse, no-delay, keep-alive) is the normal world's business. */
Next system_setsockopt(Thread& thread, const Arguments& a) {
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    if (a[1] != kLevelSocket || (a[2] != kReceiveTimeout && a[2] != kSendTimeout)) return finish(thread, 0);
    i64 time[2]; /* struct timeval: s, us */
    if (a[4] < sizeof time) return finish(thread, kEinval);
    if (!reached(thread, load_user(time, a[3]))) return thread.outcome;
    constexpr i64 kSecondsMax = 1'000'000;
    if (time[0] < 0 || time[1] < 0 || time[1] >= 1'000'000) return finish(thread, kEinval);
    const i64 ms = min(time[0], kSecondsMax) * 1000 + (time[1] + 999) / 1000;
    (a[2] == kReceiveTimeout ? file->receive_timeout_ms : file->send_timeout_ms) = ms == 0 ? -1 : ms;
    return finish(thread, 0);
}

Next system_getsockopt(Thread& thread, const Arguments& a) {
    if (g_files.get(a[0]) == nullptr) return finish(thread, kEbadf);
    const u32 value = a[1] == kLevelSocket && a[2] == kOptionType ? kTypeStream : 0;
    u32 length = 0;
    if (!reached(thread, load_user(length, a[4]))) return thread.outcome;
    if (length < sizeof value) return finish(thread, kEinval);
    if (!reached(thread, store_user(a[3], value))) return thread.outcome;
    if (!reached(thread, store_user(a[4], static_cast<u32>(sizeof value)))) return thread.outcome;
    return finish(thread, 0);
}

} // namespace

namespace {

/* user_bytes: what the program asked for; scratch[0]: the stream's handle. */
Next received_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    const u64 count = result > 0 ? static_cast<u64>(result) : 0;
    const u64 own = min(count, thread.user_bytes);
    /* Closed meanwhile, the descriptor may be another stream's by now. */
    OpenFile* file = get_kind(thread.descriptor, Kind::Stream);
    if (file != nullptr && file->handle == thread.scratch[0] && file->asking_ahead)
        g_files.end_ahead(*file, {slot_data(thread.slot) + own, count - own});
    if (result <= 0) {
        drop_slot(thread);
        return finish(thread, result);
    }
    return copy_to_program(thread, own);
}

} // namespace

Next socket_read(Thread& thread, u64 descriptor, u64 buffer, u64 bytes, bool dont_wait) {
    OpenFile* file = get_kind(descriptor, Kind::Stream);
    if (file == nullptr) return not_a(thread, descriptor);
    bytes = min<u64>(bytes, FLEX_RPC_DATA_BYTES - Files::kAheadBytes);
    if (bytes == 0) return finish(thread, 0);
    if (!reached(thread, touch(buffer, bytes, kProtectWrite))) return thread.outcome;
    if (const Span<const u8> here = g_files.ahead(*file); here.size != 0) {
        bytes = min(bytes, here.size);
        if (!reached(thread, copy_to_user(buffer, here.data, bytes))) return thread.outcome;
        g_files.take_ahead(*file, bytes);
        return finish(thread, static_cast<i64>(bytes));
    }
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = buffer;
    thread.user_bytes = bytes;
    thread.descriptor = g_files.begin_ahead(*file) != 0 ? descriptor : kNoDescriptor;
    thread.scratch[0] = file->handle;
    const u64 most = thread.descriptor == kNoDescriptor ? bytes : bytes + Files::kAheadBytes;
    const u64 timeout = dont_wait || file->nonblocking ? 0 : static_cast<u64>(file->receive_timeout_ms);
    return post(thread, {FLEX_RPC_RECEIVE, 0, {file->handle, most, timeout}}, received_step);
}

Next socket_write(Thread& thread, u64 descriptor, u64 buffer, u64 bytes, bool dont_wait) {
    const OpenFile* file = get_kind(descriptor, Kind::Stream);
    if (file == nullptr) return not_a(thread, descriptor);
    bytes = min<u64>(bytes, FLEX_RPC_DATA_BYTES);
    if (bytes == 0) return finish(thread, 0);
    if (!reached(thread, touch(buffer, bytes, kProtectRead))) return thread.outcome;
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    if (copy_from_user(slot_data(thread.slot), buffer, bytes) != Access::Good) {
        drop_slot(thread);
        return finish(thread, kEfault);
    }
    thread.descriptor = kNoDescriptor;
    const u64 timeout = dont_wait || file->nonblocking ? 0 : static_cast<u64>(file->send_timeout_ms);
    return post(thread, {FLEX_RPC_SEND, static_cast<u32>(bytes), {file->handle, 0, timeout}},
                count_answer_step);
}

namespace {
const CallEntry kSocketCallsList[] = {
    {198, system_socket},      {200, system_bind},           {201, system_listen},
    {202, system_accept},      {203, answer<kEconnrefused>}, /* connect: the program serves, it does not call
                                                              */
    {204, system_getsockname}, {205, system_getpeername},    {206, system_send},
    {207, system_receive},     {208, system_setsockopt},     {209, system_getsockopt},
    {210, system_shutdown},    {211, system_send_message},   {212, system_receive_message},
    {242, system_accept4},
};
} // namespace

const Span<const CallEntry> kSocketCalls(kSocketCallsList);

} // namespace flex::tos
