/* Files: position, size, names, folders. The normal world holds them; nothing it says of them is believed. */
#include "core/memory.hpp"
#include "kernel/file_calls.hpp"

namespace flex::tos {

namespace {

using Kind = OpenFile::Kind;

constexpr i32 kAtEmptyPath = 0x1000;

/* ---- Position, size, state ---- */

Next end_position_step(Thread& thread) {
    RpcAnswer answer;
    const i64 size = result_of(thread, answer);
    drop_slot(thread);
    OpenFile* file = g_files.get(thread.descriptor);
    if (size < 0 || file == nullptr || file->kind != Kind::File)
        return finish(thread, size < 0 ? size : i64{kEbadf});
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
    return reached(thread, store_user(to, state)) ? finish(thread, 0) : thread.outcome;
}

Next size_known_step(Thread& thread) {
    RpcAnswer answer;
    const i64 size = result_of(thread, answer);
    drop_slot(thread);
    return size < 0 ? finish(thread, size)
                    : store_state(thread, thread.user_address, kModeFile, static_cast<u64>(size));
}

Next state_of_descriptor(Thread& thread, u64 descriptor, u64 to) {
    const OpenFile* file = g_files.get(descriptor);
    if (file == nullptr) return finish(thread, kEbadf);
    if (!reached(thread, touch(to, sizeof(FileState), kProtectWrite))) return thread.outcome;
    switch (file->kind) {
    case Kind::Console:
        return store_state(thread, to, kModeConsole, 0);
    case Kind::Folder:
        return store_state(thread, to, kModeFolder, 0);
    case Kind::File:
        break;
    default:
        return store_state(thread, to, kModeSocket, 0);
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
    if (!reached(thread, load_path(path, from))) return thread.outcome;
    if (path.error != kOk) return finish(thread, path.error);
    if (to != 0) {
        if (!reached(thread, touch(to, sizeof(FileState), kProtectWrite))) return thread.outcome;
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
        if (!reached(thread, load_user(first, a[1]))) return thread.outcome;
        if (first == '\0') return state_of_descriptor(thread, a[0], a[2]);
    }
    return state_of_name(thread, a[1], a[2]);
}
Next system_faccessat(Thread& thread, const Arguments& a) { return state_of_name(thread, a[1], 0); }

/* ---- Changing ---- */

Next on_open_file(Thread& thread, u64 descriptor, u32 operation, u64 argument) {
    const OpenFile* file = g_files.get(descriptor);
    if (file == nullptr || file->kind != Kind::File)
        return finish(thread, file == nullptr ? kEbadf : kEinval);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    return post(thread, {operation, 0, {file->handle, argument}}, sign_answer_step);
}
Next system_fsync(Thread& thread, const Arguments& a) { return on_open_file(thread, a[0], FLEX_RPC_SYNC, 0); }
Next system_ftruncate(Thread& thread, const Arguments& a) {
    if (a[1] > kFileBytesMax) return finish(thread, kEinval);
    return on_open_file(thread, a[0], FLEX_RPC_TRUNCATE, a[1]);
}

Next system_unlinkat(Thread& thread, const Arguments& a) {
    Path path;
    if (!reached(thread, load_path(path, a[1]))) return thread.outcome;
    if (path.error != kOk) return finish(thread, path.error);
    if (path.name.folder || path.name.root == FLEX_ROOT_STORE) return finish(thread, kErofs);
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    const u32 bytes = put_name(thread.slot, 0, path.name.name);
    return post(thread, {FLEX_RPC_UNLINK, bytes, {path.name.root}}, sign_answer_step);
}

Next system_renameat(Thread& thread, const Arguments& a) {
    Path from, to;
    if (!reached(thread, load_path(from, a[1]))) return thread.outcome;
    if (!reached(thread, load_path(to, a[3]))) return thread.outcome;
    if (from.error != kOk || to.error != kOk) return finish(thread, kEnoent);
    if (from.name.folder || to.name.folder || from.name.root != FLEX_ROOT_DATA ||
        to.name.root != FLEX_ROOT_DATA) {
        return finish(thread, kErofs);
    }
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    u32 bytes = put_name(thread.slot, 0, from.name.name);
    slot_data(thread.slot)[bytes++] = 0;
    bytes += put_name(thread.slot, bytes, to.name.name);
    return post(thread, {FLEX_RPC_RENAME, bytes, {FLEX_ROOT_DATA}}, sign_answer_step);
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
            record.name[length] =
                static_cast<char>(__atomic_load_n(slot_data(thread.slot) + at, __ATOMIC_RELAXED));
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
    if (file == nullptr || file->kind != Kind::Folder)
        return finish(thread, file == nullptr ? kEbadf : kEnotdir);
    const u64 bytes = min<u64>(a[2], 32768);
    if (!reached(thread, touch(a[1], bytes, kProtectWrite))) return thread.outcome;
    if (!take_slot(thread)) return wait_and_restart(thread, WaitFor::Slot);
    thread.user_address = a[1];
    thread.user_bytes = bytes;
    thread.descriptor = a[0];
    return post(thread, {FLEX_RPC_LIST, 0, {file->root, file->offset}}, listed_step);
}

const CallEntry kFileStateCallsList[] = {
    {34, answer<kEperm>}, /* mkdirat: the roots have no folders */
    {35, system_unlinkat},  {38, system_renameat},   {46, system_ftruncate}, {48, system_faccessat},
    {61, system_getdents},  {62, system_lseek},      {78, answer<kEinval>}, /* readlinkat */
    {79, system_fstatat},   {80, system_fstat},      {82, system_fsync},     {83, system_fsync},
    {276, system_renameat}, {439, system_faccessat},
};
} // namespace

const Span<const CallEntry> kFileStateCalls(kFileStateCallsList);

} // namespace flex::tos
