/* Files of the two roots, and descriptors in general. The normal world holds the files; nothing it says of
 * them is believed. */
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/file_calls.hpp"

namespace flex::tos {

namespace {

using Kind = OpenFile::Kind;

constexpr u64 kCopyStepBytes = 16384;

/* ---- Answers ---- */

Next copy_data_step(Thread& thread) {
    thread.step = copy_data_step;
    u64& done = thread.scratch[0];
    const u64 total = thread.scratch[1];
    const u64 part = min(kCopyStepBytes, total - done);
    const Access access = copy_to_user(thread.user_address + done, slot_data(thread.slot) + done, part);
    if (access == Access::NoFrames) {
        kick_service();
        return wait_for(thread, WaitFor::Frames, copy_data_step);
    }
    done += part;
    if (access == Access::Good && done < total) return Next::Again;
    drop_slot(thread);
    return finish(thread, access == Access::Good ? static_cast<i64>(total) : i64{kEfault});
}

} // namespace

i64 result_of(Thread& thread, RpcAnswer& answer) {
    return take_answer(thread, answer) ? answer.result : i64{kEio};
}

Next count_answer_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    drop_slot(thread);
    OpenFile* file = g_files.get(thread.descriptor);
    if (result > 0 && file != nullptr && file->kind == Kind::File) file->offset += static_cast<u64>(result);
    return finish(thread, result);
}

Next data_answer_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    if (result <= 0) {
        drop_slot(thread);
        return finish(thread, result);
    }
    OpenFile* file = g_files.get(thread.descriptor);
    if (file != nullptr && file->kind == Kind::File) file->offset += static_cast<u64>(result);
    return copy_to_program(thread, static_cast<u64>(result));
}

Next copy_to_program(Thread& thread, u64 bytes) {
    thread.scratch[0] = 0;
    thread.scratch[1] = bytes;
    return copy_data_step(thread);
}

Next sign_answer_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    drop_slot(thread);
    return finish(thread, min<i64>(result, 0));
}

/* ---- Names ---- */

Access load_path(Path& path, u64 from) {
    u64 length = 0;
    const Access access = copy_string_from_user(path.text, from, sizeof path.text, length);
    if (access != Access::Good) return access;
    const Result<FileName> name = parse_path({path.text, length});
    path.name = name.value;
    path.error = name.error;
    return Access::Good;
}

u32 put_name(u32 slot, u64 at, Span<const char> name) {
    copy_bytes(slot_data(slot) + at, name.data, name.size);
    return static_cast<u32>(name.size);
}

namespace {

/* ---- Opening and closing ---- */

Next opened_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    drop_slot(thread);
    OpenFile* file = g_files.get(thread.descriptor);
    if (result < 0) {
        g_files.close(thread.descriptor);
        return finish(thread, result);
    }
    file->handle = static_cast<u32>(result);
    file->offset = file->append ? answer.out[0] : 0;
    file->kind = Kind::File;
    return finish(thread, static_cast<i64>(thread.descriptor));
}

constexpr u64 kOpenWrite = 1, kOpenReadWrite = 2, kOpenCreate = 0100, kOpenExclusive = 0200,
              kOpenTruncate = 01000, kOpenAppend = 02000;

u64 rpc_open_flags(u64 flags) {
    u64 bits = 0;
    if (flags & (kOpenWrite | kOpenReadWrite)) bits |= FLEX_OPEN_WRITE;
    if (flags & kOpenCreate) bits |= FLEX_OPEN_CREATE;
    if (flags & kOpenExclusive) bits |= FLEX_OPEN_EXCLUSIVE;
    if (flags & kOpenTruncate) bits |= FLEX_OPEN_TRUNCATE;
    return bits;
}

Next system_openat(Thread& thread, const Arguments& a) {
    Path path;
    if (!reached(thread, load_path(path, a[1]))) return thread.outcome;
    if (path.error != kOk) return finish(thread, path.error);
    const u64 flags = rpc_open_flags(a[2]);
    OpenFile file;
    file.root = path.name.root;
    file.writable = (flags & FLEX_OPEN_WRITE) != 0;
    file.append = (a[2] & kOpenAppend) != 0;
    if (file.writable && path.name.folder) return finish(thread, kEisdir);
    if (path.name.folder) {
        file.kind = Kind::Folder;
        return finish(thread, g_files.add(file));
    }
    if (file.root == FLEX_ROOT_STORE && flags != 0) return finish(thread, kErofs);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    file.kind = Kind::Opening;
    const i64 descriptor = g_files.add(file);
    if (descriptor < 0) {
        drop_slot(thread);
        return finish(thread, descriptor);
    }
    thread.descriptor = static_cast<u64>(descriptor);
    const u32 bytes = put_name(thread.slot, 0, path.name.name);
    return post(thread, {FLEX_RPC_OPEN, bytes, {file.root, flags}}, opened_step);
}

Next system_close(Thread& thread, const Arguments& a) {
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || file->kind == Kind::Opening) return finish(thread, kEbadf);
    const bool has_handle =
        file->kind == Kind::File || file->kind == Kind::Listener || file->kind == Kind::Stream;
    if (has_handle && !take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    const u32 handle = file->handle;
    g_files.close(a[0]);
    if (!has_handle) return finish(thread, 0);
    thread.descriptor = kNoDescriptor;
    return post(thread, {FLEX_RPC_CLOSE, 0, {handle}}, sign_answer_step);
}

/* ---- Reading and writing ---- */

/* Lines to the console; a last one without its end is held back. */
struct {
    char text[256];
    u64 length = 0;
} console_line;

void add_to_console(const char* text, u64 bytes) {
    for (u64 i = 0; i < bytes; i++) {
        console_line.text[console_line.length++] = text[i];
        if (text[i] != '\n' && console_line.length < sizeof console_line.text) continue;
        print_program(console_line.text, console_line.length);
        console_line.length = 0;
    }
}

/* A short count is fine: whoever writes more comes again, and an interrupt gets its chance. */
Next console_write(Thread& thread, u64 buffer, u64 bytes) {
    char text[256];
    const u64 part = min<u64>(bytes, sizeof text);
    if (!reached(thread, copy_from_user(text, buffer, part))) return thread.outcome;
    add_to_console(text, part);
    return finish(thread, static_cast<i64>(part));
}

Next file_read(Thread& thread, u64 descriptor, OpenFile& file, u64 buffer, u64 bytes, u64 offset,
               bool moves) {
    bytes = min<u64>(bytes, FLEX_RPC_DATA_BYTES);
    if (bytes == 0) return finish(thread, 0);
    if (!reached(thread, touch(buffer, bytes, kProtectWrite))) return thread.outcome;
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = buffer;
    thread.descriptor = moves ? descriptor : kNoDescriptor;
    return post(thread, {FLEX_RPC_READ, 0, {file.handle, offset, bytes}}, data_answer_step);
}

Next file_write(Thread& thread, u64 descriptor, OpenFile& file, u64 buffer, u64 bytes, u64 offset,
                bool moves) {
    bytes = min<u64>(bytes, FLEX_RPC_DATA_BYTES);
    if (!file.writable) return finish(thread, kEbadf);
    if (bytes == 0) return finish(thread, 0);
    if (!reached(thread, touch(buffer, bytes, kProtectRead))) return thread.outcome;
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    if (copy_from_user(slot_data(thread.slot), buffer, bytes) != Access::Good) {
        drop_slot(thread);
        return finish(thread, kEfault);
    }
    thread.descriptor = moves ? descriptor : kNoDescriptor;
    return post(thread, {FLEX_RPC_WRITE, static_cast<u32>(bytes), {file.handle, offset}}, count_answer_step);
}

Next read_any(Thread& thread, u64 descriptor, u64 buffer, u64 bytes) {
    OpenFile* file = g_files.get(descriptor);
    if (file == nullptr) return finish(thread, kEbadf);
    switch (file->kind) {
    case Kind::File:
        return file_read(thread, descriptor, *file, buffer, bytes, file->offset, true);
    case Kind::Stream:
        return socket_read(thread, descriptor, buffer, bytes, false);
    case Kind::Console:
        return finish(thread, 0); /* nothing to read, ever */
    case Kind::Folder:
        return finish(thread, kEisdir);
    default:
        return finish(thread, kEnotconn);
    }
}

Next write_any(Thread& thread, u64 descriptor, u64 buffer, u64 bytes) {
    OpenFile* file = g_files.get(descriptor);
    if (file == nullptr) return finish(thread, kEbadf);
    switch (file->kind) {
    case Kind::File:
        return file_write(thread, descriptor, *file, buffer, bytes, file->offset, true);
    case Kind::Stream:
        return socket_write(thread, descriptor, buffer, bytes, false);
    case Kind::Console:
        return console_write(thread, buffer, bytes);
    default:
        return finish(thread, kEbadf);
    }
}

Next system_read(Thread& thread, const Arguments& a) { return read_any(thread, a[0], a[1], a[2]); }
Next system_write(Thread& thread, const Arguments& a) { return write_any(thread, a[0], a[1], a[2]); }

Next system_pread(Thread& thread, const Arguments& a) {
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || file->kind != Kind::File)
        return finish(thread, file == nullptr ? kEbadf : kEspipe);
    if (a[3] > kFileBytesMax) return finish(thread, kEinval);
    return file_read(thread, a[0], *file, a[1], a[2], a[3], false);
}

Next system_pwrite(Thread& thread, const Arguments& a) {
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || file->kind != Kind::File)
        return finish(thread, file == nullptr ? kEbadf : kEspipe);
    if (a[3] > kFileBytesMax) return finish(thread, kEinval);
    return file_write(thread, a[0], *file, a[1], a[2], a[3], false);
}

struct IoVector {
    u64 base, bytes;
};

/* The first piece that is not empty; callers of readv and writev must cope with short counts. */
Next vector_call(Thread& thread, const Arguments& a, bool write) {
    for (u64 i = 0; i < min<u64>(a[2], 1024); i++) {
        IoVector piece;
        if (!reached(thread, load_user(piece, a[1] + i * sizeof piece))) return thread.outcome;
        if (piece.bytes == 0) continue;
        return write ? write_any(thread, a[0], piece.base, piece.bytes)
                     : read_any(thread, a[0], piece.base, piece.bytes);
    }
    return finish(thread, 0);
}

/* glibc prints its last words by one writev and looks at no count. */
Next console_vector(Thread& thread, const Arguments& a) {
    char text[256];
    u64 used = 0;
    for (u64 i = 0; i < min<u64>(a[2], 64) && used < sizeof text; i++) {
        IoVector piece;
        if (!reached(thread, load_user(piece, a[1] + i * sizeof piece))) return thread.outcome;
        const u64 part = min(piece.bytes, sizeof text - used);
        if (!reached(thread, copy_from_user(text + used, piece.base, part))) return thread.outcome;
        used += part;
    }
    add_to_console(text, used);
    return finish(thread, static_cast<i64>(used));
}

Next system_readv(Thread& thread, const Arguments& a) { return vector_call(thread, a, false); }
Next system_writev(Thread& thread, const Arguments& a) {
    const OpenFile* file = g_files.get(a[0]);
    if (file != nullptr && file->kind == Kind::Console) return console_vector(thread, a);
    return vector_call(thread, a, true);
}

/* ---- Flags ---- */

constexpr u64 kNonblocking = 04000;

Next system_fcntl(Thread& thread, const Arguments& a) {
    constexpr u64 kGetDescriptor = 1, kSetDescriptor = 2, kGetFlags = 3, kSetFlags = 4;
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    switch (a[1]) {
    case kGetDescriptor:
    case kSetDescriptor:
        return finish(thread, 0); /* close-on-exec means nothing here */
    case kGetFlags:
        return finish(thread, static_cast<i64>((file->nonblocking ? kNonblocking : 0) | kOpenReadWrite));
    case kSetFlags:
        file->nonblocking = (a[2] & kNonblocking) != 0;
        return finish(thread, 0);
    default:
        return finish(thread, kEinval);
    }
}

Next system_ioctl(Thread& thread, const Arguments& a) {
    constexpr u64 kSetNonblocking = 0x5421; /* FIONBIO */
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    if (a[1] != kSetNonblocking) return finish(thread, kEnotty);
    u32 on = 0;
    if (!reached(thread, load_user(on, a[2]))) return thread.outcome;
    file->nonblocking = on != 0;
    return finish(thread, 0);
}

const CallEntry kFileCallsList[] = {
    {25, system_fcntl}, {29, system_ioctl}, {56, system_openat}, {57, system_close}, {63, system_read},
    {64, system_write}, {65, system_readv}, {66, system_writev}, {67, system_pread}, {68, system_pwrite},
};
} // namespace

const Span<const CallEntry> kFileCalls(kFileCallsList);

} // namespace flex::tos
