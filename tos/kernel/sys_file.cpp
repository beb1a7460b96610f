/* Files of the two roots, and descriptors in general. The normal world holds the files; nothing it says of them is believed. */
#include "core/memory.hpp"
#include "kernel/console.hpp"
#include "kernel/rpc_engine.hpp"
#include "kernel/system_calls.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

namespace {

using Kind = OpenFile::Kind;

constexpr u64 kCopyStepBytes = 16384;
constexpr u64 kNoDescriptor = ~u64{0};
constexpr u64 kPathMax = 300;
constexpr i32 kAtEmptyPath = 0x1000;

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

/* The checked result of the request the thread waited for, -EIO when it broke the rules. */
i64 result_of(Thread& thread, RpcAnswer& answer) { return take_answer(thread, answer) ? answer.result : i64{kEio}; }

} // namespace

Next plain_answer_step(Thread& thread) {
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
    thread.scratch[0] = 0;
    thread.scratch[1] = static_cast<u64>(result);
    return copy_data_step(thread);
}

namespace {

/* For requests whose result is not a count. */
Next zero_answer_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    drop_slot(thread);
    return finish(thread, min<i64>(result, 0));
}

/* ---- Names ---- */

struct Path {
    char text[kPathMax];
    FileName name;
    Error error = kOk;
};

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

constexpr u64 kOpenWrite = 1, kOpenReadWrite = 2, kOpenCreate = 0100, kOpenExclusive = 0200, kOpenTruncate = 01000, kOpenAppend = 02000;

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
    if (const Access access = load_path(path, a[1]); access != Access::Good) return no_access(thread, access);
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
    const bool has_handle = file->kind == Kind::File || file->kind == Kind::Listener || file->kind == Kind::Stream;
    if (has_handle && !take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    const u32 handle = file->handle;
    g_files.close(a[0]);
    if (!has_handle) return finish(thread, 0);
    thread.descriptor = kNoDescriptor;
    return post(thread, {FLEX_RPC_CLOSE, 0, {handle}}, zero_answer_step);
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
    if (const Access access = copy_from_user(text, buffer, part); access != Access::Good) return no_access(thread, access);
    add_to_console(text, part);
    return finish(thread, static_cast<i64>(part));
}

Next file_read(Thread& thread, u64 descriptor, OpenFile& file, u64 buffer, u64 bytes, u64 offset, bool moves) {
    bytes = min<u64>(bytes, FLEX_RPC_DATA_BYTES);
    if (bytes == 0) return finish(thread, 0);
    if (const Access access = touch(buffer, bytes, kProtectWrite); access != Access::Good) return no_access(thread, access);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = buffer;
    thread.descriptor = moves ? descriptor : kNoDescriptor;
    return post(thread, {FLEX_RPC_READ, 0, {file.handle, offset, bytes}}, data_answer_step);
}

Next file_write(Thread& thread, u64 descriptor, OpenFile& file, u64 buffer, u64 bytes, u64 offset, bool moves) {
    bytes = min<u64>(bytes, FLEX_RPC_DATA_BYTES);
    if (!file.writable) return finish(thread, kEbadf);
    if (bytes == 0) return finish(thread, 0);
    if (const Access access = touch(buffer, bytes, kProtectRead); access != Access::Good) return no_access(thread, access);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    if (copy_from_user(slot_data(thread.slot), buffer, bytes) != Access::Good) {
        drop_slot(thread);
        return finish(thread, kEfault);
    }
    thread.descriptor = moves ? descriptor : kNoDescriptor;
    return post(thread, {FLEX_RPC_WRITE, static_cast<u32>(bytes), {file.handle, offset}}, plain_answer_step);
}

Next read_any(Thread& thread, u64 descriptor, u64 buffer, u64 bytes) {
    OpenFile* file = g_files.get(descriptor);
    if (file == nullptr) return finish(thread, kEbadf);
    switch (file->kind) {
    case Kind::File: return file_read(thread, descriptor, *file, buffer, bytes, file->offset, true);
    case Kind::Stream: return socket_read(thread, descriptor, buffer, bytes, false);
    case Kind::Console: return finish(thread, 0); /* nothing to read, ever */
    case Kind::Folder: return finish(thread, kEisdir);
    default: return finish(thread, kEnotconn);
    }
}

Next write_any(Thread& thread, u64 descriptor, u64 buffer, u64 bytes) {
    OpenFile* file = g_files.get(descriptor);
    if (file == nullptr) return finish(thread, kEbadf);
    switch (file->kind) {
    case Kind::File: return file_write(thread, descriptor, *file, buffer, bytes, file->offset, true);
    case Kind::Stream: return socket_write(thread, descriptor, buffer, bytes, false);
    case Kind::Console: return console_write(thread, buffer, bytes);
    default: return finish(thread, kEbadf);
    }
}

Next system_read(Thread& thread, const Arguments& a) { return read_any(thread, a[0], a[1], a[2]); }
Next system_write(Thread& thread, const Arguments& a) { return write_any(thread, a[0], a[1], a[2]); }

Next system_pread(Thread& thread, const Arguments& a) {
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || file->kind != Kind::File) return finish(thread, file == nullptr ? kEbadf : kEspipe);
    if (a[3] > kFileBytesMax) return finish(thread, kEinval);
    return file_read(thread, a[0], *file, a[1], a[2], a[3], false);
}

Next system_pwrite(Thread& thread, const Arguments& a) {
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || file->kind != Kind::File) return finish(thread, file == nullptr ? kEbadf : kEspipe);
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
        if (const Access access = load_user(piece, a[1] + i * sizeof piece); access != Access::Good) return no_access(thread, access);
        if (piece.bytes == 0) continue;
        return write ? write_any(thread, a[0], piece.base, piece.bytes) : read_any(thread, a[0], piece.base, piece.bytes);
    }
    return finish(thread, 0);
}

/* glibc prints its last words by one writev and looks at no count. */
Next console_vector(Thread& thread, const Arguments& a) {
    char text[256];
    u64 used = 0;
    for (u64 i = 0; i < min<u64>(a[2], 64) && used < sizeof text; i++) {
        IoVector piece;
        if (const Access access = load_user(piece, a[1] + i * sizeof piece); access != Access::Good) return no_access(thread, access);
        const u64 part = min(piece.bytes, sizeof text - used);
        if (const Access access = copy_from_user(text + used, piece.base, part); access != Access::Good) return no_access(thread, access);
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

/* ---- Position, size, state ---- */

Next end_position_step(Thread& thread) {
    RpcAnswer answer;
    const i64 size = result_of(thread, answer);
    drop_slot(thread);
    OpenFile* file = g_files.get(thread.descriptor);
    if (size < 0 || file == nullptr || file->kind != Kind::File) return finish(thread, size < 0 ? size : i64{kEbadf});
    const i64 position = size + static_cast<i64>(thread.scratch[0]);
    if (position < 0) return finish(thread, kEinval);
    file->offset = static_cast<u64>(position);
    return finish(thread, position);
}

Next system_lseek(Thread& thread, const Arguments& a) {
    constexpr u64 kSet = 0, kCurrent = 1, kEnd = 2;
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    if (file->kind == Kind::Folder && a[1] == 0 && a[2] == kSet) {
        file->offset = 0;
        return finish(thread, 0);
    }
    if (file->kind != Kind::File) return finish(thread, kEspipe);
    const i64 distance = static_cast<i64>(a[1]), limit = static_cast<i64>(kFileBytesMax);
    if (distance > limit || distance < -limit) return finish(thread, kEinval);
    if (a[2] == kEnd) {
        if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
        thread.descriptor = a[0];
        thread.scratch[0] = a[1];
        return post(thread, {FLEX_RPC_SIZE, 0, {file->handle}}, end_position_step);
    }
    const i64 position = a[2] == kSet ? distance : static_cast<i64>(file->offset) + distance;
    if (a[2] > kCurrent || position < 0 || position > limit) return finish(thread, kEinval);
    file->offset = static_cast<u64>(position);
    return finish(thread, position);
}

/* struct stat of arm64 */
struct FileState {
    u64 device, inode;
    u32 mode, links, user, group;
    u64 special_device, padding1;
    i64 size;
    i32 block_bytes, padding2;
    i64 blocks, times[6];
    u32 unused[2];
};
static_assert(sizeof(FileState) == 128, "asm-generic/stat.h");
constexpr u32 kModeFile = 0100600, kModeFolder = 0040700, kModeConsole = 0020600, kModeSocket = 0140600;

Next store_state(Thread& thread, u64 to, u32 mode, u64 size) {
    if (to == 0) return finish(thread, 0); /* faccessat */
    FileState state = {};
    state.inode = 1;
    state.mode = mode;
    state.links = 1;
    state.size = static_cast<i64>(size);
    state.block_bytes = 65536 / 2;
    state.blocks = static_cast<i64>(size / 512);
    const Access access = store_user(to, state);
    return access == Access::Good ? finish(thread, 0) : no_access(thread, access);
}

Next size_known_step(Thread& thread) {
    RpcAnswer answer;
    const i64 size = result_of(thread, answer);
    drop_slot(thread);
    return size < 0 ? finish(thread, size) : store_state(thread, thread.user_address, kModeFile, static_cast<u64>(size));
}

Next state_of_descriptor(Thread& thread, u64 descriptor, u64 to) {
    const OpenFile* file = g_files.get(descriptor);
    if (file == nullptr) return finish(thread, kEbadf);
    if (const Access access = touch(to, sizeof(FileState), kProtectWrite); access != Access::Good) return no_access(thread, access);
    switch (file->kind) {
    case Kind::Console: return store_state(thread, to, kModeConsole, 0);
    case Kind::Folder: return store_state(thread, to, kModeFolder, 0);
    case Kind::File: break;
    default: return store_state(thread, to, kModeSocket, 0);
    }
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = to;
    return post(thread, {FLEX_RPC_SIZE, 0, {file->handle}}, size_known_step);
}

Next looked_at_step(Thread& thread) {
    drop_slot(thread); /* whatever the close said */
    return store_state(thread, thread.user_address, kModeFile, thread.scratch[1]);
}

Next close_after_look_step(Thread& thread) {
    if (!take_slot(thread)) return wait_for(thread, WaitFor::Slot, close_after_look_step);
    return post(thread, {FLEX_RPC_CLOSE, 0, {thread.scratch[0]}}, looked_at_step);
}

Next open_to_look_step(Thread& thread) {
    RpcAnswer answer;
    const i64 result = result_of(thread, answer);
    drop_slot(thread);
    if (result < 0) return finish(thread, result);
    thread.scratch[0] = static_cast<u64>(result);
    thread.scratch[1] = answer.out[0];
    return close_after_look_step(thread);
}

/* There is no request for this: the file is opened and closed. */
Next state_of_name(Thread& thread, u64 from, u64 to) {
    Path path;
    if (const Access access = load_path(path, from); access != Access::Good) return no_access(thread, access);
    if (path.error != kOk) return finish(thread, path.error);
    if (to != 0) {
        if (const Access access = touch(to, sizeof(FileState), kProtectWrite); access != Access::Good) return no_access(thread, access);
    }
    if (path.name.folder) return store_state(thread, to, kModeFolder, 0);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = to;
    const u32 bytes = put_name(thread.slot, 0, path.name.name);
    return post(thread, {FLEX_RPC_OPEN, bytes, {path.name.root, 0}}, open_to_look_step);
}

Next system_fstat(Thread& thread, const Arguments& a) { return state_of_descriptor(thread, a[0], a[1]); }
Next system_fstatat(Thread& thread, const Arguments& a) {
    if ((a[3] & kAtEmptyPath) != 0) {
        char first = 1;
        if (const Access access = load_user(first, a[1]); access != Access::Good) return no_access(thread, access);
        if (first == '\0') return state_of_descriptor(thread, a[0], a[2]);
    }
    return state_of_name(thread, a[1], a[2]);
}
Next system_faccessat(Thread& thread, const Arguments& a) { return state_of_name(thread, a[1], 0); }

/* ---- Changing ---- */

Next on_open_file(Thread& thread, u64 descriptor, u32 operation, u64 argument) {
    const OpenFile* file = g_files.get(descriptor);
    if (file == nullptr || file->kind != Kind::File) return finish(thread, file == nullptr ? kEbadf : kEinval);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    return post(thread, {operation, 0, {file->handle, argument}}, zero_answer_step);
}
Next system_fsync(Thread& thread, const Arguments& a) { return on_open_file(thread, a[0], FLEX_RPC_SYNC, 0); }
Next system_ftruncate(Thread& thread, const Arguments& a) {
    if (a[1] > kFileBytesMax) return finish(thread, kEinval);
    return on_open_file(thread, a[0], FLEX_RPC_TRUNCATE, a[1]);
}

Next system_unlinkat(Thread& thread, const Arguments& a) {
    Path path;
    if (const Access access = load_path(path, a[1]); access != Access::Good) return no_access(thread, access);
    if (path.error != kOk) return finish(thread, path.error);
    if (path.name.folder || path.name.root == FLEX_ROOT_STORE) return finish(thread, kErofs);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    const u32 bytes = put_name(thread.slot, 0, path.name.name);
    return post(thread, {FLEX_RPC_UNLINK, bytes, {path.name.root}}, zero_answer_step);
}

Next system_renameat(Thread& thread, const Arguments& a) {
    Path from, to;
    if (const Access access = load_path(from, a[1]); access != Access::Good) return no_access(thread, access);
    if (const Access access = load_path(to, a[3]); access != Access::Good) return no_access(thread, access);
    if (from.error != kOk || to.error != kOk) return finish(thread, kEnoent);
    if (from.name.folder || to.name.folder || from.name.root != FLEX_ROOT_DATA || to.name.root != FLEX_ROOT_DATA) {
        return finish(thread, kErofs);
    }
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    u32 bytes = put_name(thread.slot, 0, from.name.name);
    slot_data(thread.slot)[bytes++] = 0;
    bytes += put_name(thread.slot, bytes, to.name.name);
    return post(thread, {FLEX_RPC_RENAME, bytes, {FLEX_ROOT_DATA}}, zero_answer_step);
}

/* ---- Folders ---- */

/* struct linux_dirent64 without its name */
struct FolderEntry {
    u64 inode, next;
    u16 bytes;
    u8 type;
} __attribute__((packed));
constexpr u8 kTypeFile = 8;

/* Names come from shared memory: each byte is read once, each name checked, before the program sees it. */
Next listed_step(Thread& thread) {
    RpcAnswer answer;
    const i64 count = result_of(thread, answer);
    OpenFile* file = g_files.get(thread.descriptor);
    i64 result = min<i64>(count, 0);
    u64 used = 0, at = 0;
    for (i64 i = 0; i < count && result == 0 && file != nullptr; i++) {
        struct {
            FolderEntry entry;
            char name[FLEX_RPC_NAME_MAX + 1 + 8];
        } __attribute__((packed)) record = {};
        u64 length = 0;
        for (; length <= FLEX_RPC_NAME_MAX && at < answer.data_len; length++, at++) {
            record.name[length] = static_cast<char>(__atomic_load_n(slot_data(thread.slot) + at, __ATOMIC_RELAXED));
            if (record.name[length] == '\0') break;
        }
        at++;
        if (!name_is_valid({record.name, length})) {
            g_statistics.answers_refused++;
            result = kEio;
            break;
        }
        const u64 bytes = align_up(sizeof record.entry + length + 1, 8);
        if (used + bytes > thread.user_bytes) {
            if (used == 0) result = kEinval;
            break;
        }
        record.entry = {1, file->offset + 1, static_cast<u16>(bytes), kTypeFile};
        if (copy_to_user(thread.user_address + used, &record, bytes) != Access::Good) result = kEfault;
        used += bytes;
        file->offset++;
    }
    drop_slot(thread);
    return finish(thread, result < 0 ? result : static_cast<i64>(used));
}

Next system_getdents(Thread& thread, const Arguments& a) {
    const OpenFile* file = g_files.get(a[0]);
    if (file == nullptr || file->kind != Kind::Folder) return finish(thread, file == nullptr ? kEbadf : kEnotdir);
    const u64 bytes = min<u64>(a[2], 32768);
    if (const Access access = touch(a[1], bytes, kProtectWrite); access != Access::Good) return no_access(thread, access);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = a[1];
    thread.user_bytes = bytes;
    thread.descriptor = a[0];
    return post(thread, {FLEX_RPC_LIST, 0, {file->root, file->offset}}, listed_step);
}

/* ---- Flags ---- */

constexpr u64 kNonblocking = 04000;

Next system_fcntl(Thread& thread, const Arguments& a) {
    constexpr u64 kGetDescriptor = 1, kSetDescriptor = 2, kGetFlags = 3, kSetFlags = 4;
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    switch (a[1]) {
    case kGetDescriptor:
    case kSetDescriptor: return finish(thread, 0); /* close-on-exec means nothing here */
    case kGetFlags: return finish(thread, static_cast<i64>((file->nonblocking ? kNonblocking : 0) | kOpenReadWrite));
    case kSetFlags: file->nonblocking = (a[2] & kNonblocking) != 0; return finish(thread, 0);
    default: return finish(thread, kEinval);
    }
}

Next system_ioctl(Thread& thread, const Arguments& a) {
    constexpr u64 kSetNonblocking = 0x5421; /* FIONBIO */
    OpenFile* file = g_files.get(a[0]);
    if (file == nullptr) return finish(thread, kEbadf);
    if (a[1] != kSetNonblocking) return finish(thread, kEnotty);
    u32 on = 0;
    if (const Access access = load_user(on, a[2]); access != Access::Good) return no_access(thread, access);
    file->nonblocking = on != 0;
    return finish(thread, 0);
}

} // namespace

SystemCall file_call(u64 number) {
    switch (number) {
    case 25: return system_fcntl;
    case 29: return system_ioctl;
    case 34: return answer<kEperm>; /* mkdirat: the roots have no folders */
    case 35: return system_unlinkat;
    case 38: return system_renameat;
    case 46: return system_ftruncate;
    case 48: return system_faccessat;
    case 56: return system_openat;
    case 57: return system_close;
    case 61: return system_getdents;
    case 62: return system_lseek;
    case 63: return system_read;
    case 64: return system_write;
    case 65: return system_readv;
    case 66: return system_writev;
    case 67: return system_pread;
    case 68: return system_pwrite;
    case 78: return answer<kEinval>; /* readlinkat: there are no links */
    case 79: return system_fstatat;
    case 80: return system_fstat;
    case 82:
    case 83: return system_fsync;
    case 276: return system_renameat;
    case 439: return system_faccessat;
    default: return nullptr;
    }
}

} // namespace flex::tos
