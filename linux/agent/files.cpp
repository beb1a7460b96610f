#include "linux/agent/files.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <vector>

namespace flex::agent {
namespace {

Descriptor open_folder(const std::string& path) {
    Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.valid()) throw std::system_error(errno, std::generic_category(), path);
    return folder;
}

int open_flags(std::uint64_t flags) {
    int result = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK; // not to block on a FIFO that somebody put there
    result |= flags & FLEX_OPEN_WRITE ? O_RDWR : O_RDONLY;
    if (flags & FLEX_OPEN_CREATE) result |= O_CREAT;
    if (flags & FLEX_OPEN_TRUNCATE) result |= O_TRUNC;
    if (flags & FLEX_OPEN_EXCLUSIVE) result |= O_EXCL;
    return result;
}

std::shared_ptr<Handle> file_of(const HandleTable& handles, Request& request) {
    auto handle = handles.find(request.argument(0));
    if (handle && handle->kind == HandleKind::kFile) return handle;
    request.finish(-EBADF);
    return nullptr;
}

bool offset_is_sound(std::uint64_t offset) { return offset <= LLONG_MAX - FLEX_RPC_SLOT_BYTES; }

// Not every file system can sync a folder; then there is nothing more we could do.
std::int64_t sync_folder(int folder) { return fsync(folder) == 0 || errno == EINVAL ? 0 : -errno; }

} // namespace

std::optional<std::string> checked_name(std::string_view text) {
    if (text.empty() || text.size() > FLEX_RPC_NAME_MAX || text.front() == '.') return std::nullopt;
    if (text.find('/') != text.npos || text.find('\0') != text.npos) return std::nullopt;
    return std::string(text);
}

Files::Files(HandleTable& handles, const std::string& store, const std::string& data)
    : handles_(handles), store_(open_folder(store)), data_(open_folder(data)) {}

int Files::root(std::uint64_t number) const {
    if (number == FLEX_ROOT_STORE) return store_.get();
    if (number == FLEX_ROOT_DATA) return data_.get();
    return -EINVAL;
}

void Files::open(Request& request) {
    int folder = root(request.argument(0));
    auto name = checked_name(request.text());
    std::uint64_t flags = request.argument(1);
    constexpr std::uint64_t kChanging = FLEX_OPEN_WRITE | FLEX_OPEN_CREATE | FLEX_OPEN_TRUNCATE;
    if (folder < 0 || !name) return request.finish(-EINVAL);
    if (folder == store_.get() && (flags & kChanging)) return request.finish(-EROFS);
    Descriptor file(openat(folder, name->c_str(), open_flags(flags), 0600));
    struct stat status {};
    if (!file.valid() || fstat(file.get(), &status) != 0) return request.finish(-errno);
    if (S_ISDIR(status.st_mode)) return request.finish(-EISDIR);
    if (!S_ISREG(status.st_mode)) return request.finish(-EINVAL);
    request.set_out(0, static_cast<std::uint64_t>(status.st_size));
    request.finish(handles_.add(HandleKind::kFile, std::move(file)));
}

void Files::read(Request& request) {
    auto file = file_of(handles_, request);
    if (!file) return;
    std::uint64_t offset = request.argument(1);
    if (!offset_is_sound(offset) || request.argument(2) > FLEX_RPC_DATA_BYTES) return request.finish(-EINVAL);
    auto into = request.answer().first(request.argument(2));
    std::size_t done = 0;
    while (done < into.size()) {
        ssize_t got = pread(file->descriptor.get(), into.data() + done, into.size() - done,
                            static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && done == 0) return request.finish(-errno);
        if (got <= 0) break;
        done += static_cast<std::size_t>(got);
    }
    request.finish(static_cast<std::int64_t>(done), done);
}

void Files::write(Request& request) {
    auto file = file_of(handles_, request);
    if (!file) return;
    std::uint64_t offset = request.argument(1);
    if (!offset_is_sound(offset)) return request.finish(-EINVAL);
    auto from = request.data();
    std::size_t done = 0;
    while (done < from.size()) {
        ssize_t put = pwrite(file->descriptor.get(), from.data() + done, from.size() - done,
                             static_cast<off_t>(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && done == 0) return request.finish(-errno);
        if (put <= 0) break;
        done += static_cast<std::size_t>(put);
    }
    request.finish(static_cast<std::int64_t>(done));
}

void Files::size(Request& request) {
    auto file = file_of(handles_, request);
    if (!file) return;
    struct stat status {};
    request.finish(fstat(file->descriptor.get(), &status) == 0 ? status.st_size : -errno);
}

void Files::sync(Request& request) {
    auto file = file_of(handles_, request);
    if (!file) return;
    request.finish(fsync(file->descriptor.get()) == 0 ? 0 : -errno);
}

void Files::truncate(Request& request) {
    auto file = file_of(handles_, request);
    if (!file) return;
    if (request.argument(1) > LLONG_MAX) return request.finish(-EINVAL);
    request.finish(ftruncate(file->descriptor.get(), static_cast<off_t>(request.argument(1))) == 0 ? 0
                                                                                                   : -errno);
}

void Files::rename(Request& request) {
    int folder = root(request.argument(0));
    std::string_view text = request.text();
    std::size_t middle = text.find('\0');
    if (folder < 0 || middle == text.npos) return request.finish(-EINVAL);
    auto from = checked_name(text.substr(0, middle));
    auto to = checked_name(text.substr(middle + 1));
    if (!from || !to) return request.finish(-EINVAL);
    if (folder == store_.get()) return request.finish(-EROFS);
    if (renameat(folder, from->c_str(), folder, to->c_str()) != 0) return request.finish(-errno);
    request.finish(sync_folder(folder));
}

void Files::unlink(Request& request) {
    int folder = root(request.argument(0));
    auto name = checked_name(request.text());
    if (folder < 0 || !name) return request.finish(-EINVAL);
    if (folder == store_.get()) return request.finish(-EROFS);
    if (unlinkat(folder, name->c_str(), 0) != 0) return request.finish(-errno);
    request.finish(sync_folder(folder));
}

void Files::list(Request& request) {
    int folder = root(request.argument(0));
    if (folder < 0) return request.finish(-EINVAL);
    DIR* stream = fdopendir(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!stream) return request.finish(-errno);
    std::vector<std::string> names;
    while (const dirent* entry = readdir(stream)) {
        struct stat status {};
        auto name = checked_name(entry->d_name);
        if (name && fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(status.st_mode))
            names.push_back(std::move(*name));
    }
    closedir(stream);
    // An order of our own, so that successive calls fit together.
    std::sort(names.begin(), names.end());
    auto into = request.answer();
    std::size_t bytes = 0;
    std::int64_t count = 0;
    for (std::uint64_t index = request.argument(1); index < names.size(); index++) {
        const std::string& name = names[index];
        if (name.size() + 1 > into.size() - bytes) break;
        std::memcpy(into.data() + bytes, name.c_str(), name.size() + 1);
        bytes += name.size() + 1;
        count++;
    }
    request.finish(count, bytes);
}

} // namespace flex::agent
