#include "port/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace flex::port {
namespace {

Error system_error(const std::string& what) {
    const int code = errno;
    return fail(code == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, what + ": " + std::strerror(code));
}

std::string part_name(const std::string& path) { return path + ".part"; }

} // namespace

Result<File> File::open(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return system_error("cannot open " + path);
    return File(descriptor);
}

Result<File> File::open_to_write(const std::string& path, unsigned mode) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, static_cast<mode_t>(mode));
    if (descriptor < 0) return system_error("cannot write " + path);
    return File(descriptor);
}

Result<std::uint64_t> File::size() const {
    struct stat info {};
    if (::fstat(descriptor_, &info) != 0) return system_error("cannot get a file's size");
    return static_cast<std::uint64_t>(info.st_size);
}

Status File::read(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t got = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return system_error("cannot read");
        if (got == 0) return fail(ErrorCode::kIo, "the file ends at byte " + std::to_string(offset));
        // The count comes from outside in the device: never trust it to be within what was asked for.
        const auto step = std::min(static_cast<std::size_t>(got), out.size());
        out = out.subspan(step);
        offset += step;
    }
    return {};
}

Status File::write(std::uint64_t offset, std::span<const std::byte> content) const {
    while (!content.empty()) {
        const ssize_t put = ::pwrite(descriptor_, content.data(), content.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return system_error("cannot write");
        const auto step = std::min(static_cast<std::size_t>(put), content.size());
        content = content.subspan(step);
        offset += step;
    }
    return {};
}

Status File::sync() const {
    if (::fsync(descriptor_) != 0) return system_error("cannot sync");
    return {};
}

void File::close() {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

Result<MappedFile> MappedFile::open(const std::string& path) {
    FLEX_ASSIGN(File file, File::open(path));
    FLEX_ASSIGN(const std::uint64_t size, file.size());
    if (size == 0) return fail(ErrorCode::kCorrupt, path + " is empty");
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (data == MAP_FAILED) return system_error("cannot map " + path);
    return MappedFile(std::move(file), {static_cast<const std::byte*>(data), size});
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Result<std::vector<std::byte>> read_file(const std::string& path, std::size_t limit) {
    FLEX_ASSIGN(File file, File::open(path));
    FLEX_ASSIGN(const std::uint64_t size, file.size());
    if (size > limit) {
        return fail(ErrorCode::kCorrupt, path + " has " + std::to_string(size) + " bytes; expected at most " +
                                             std::to_string(limit));
    }
    std::vector<std::byte> content(size);
    FLEX_TRY(file.read(0, content));
    return content;
}

Result<NewFile> NewFile::create(const std::string& path, unsigned mode) {
    const int descriptor =
        ::open(part_name(path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, static_cast<mode_t>(mode));
    if (descriptor < 0) return system_error("cannot write " + path);
    return NewFile(File(descriptor), path);
}

NewFile::~NewFile() {
    if (file_.get() >= 0) ::unlink(part_name(path_).c_str());
}

Status NewFile::write(std::uint64_t offset, std::span<const std::byte> content) {
    if (const Status written = file_.write(offset, content); !written)
        return fail(written.error().code, path_ + ": " + written.error().message);
    return {};
}

Status NewFile::commit() {
    if (::fsync(file_.get()) != 0) return system_error("cannot write " + path_);
    if (::rename(part_name(path_).c_str(), path_.c_str()) != 0) return system_error("cannot write " + path_);
    file_.close();
    const auto slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    const File opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Not every system can sync a folder; the device's has done so with the renaming.
    if (opened.get() < 0 || (::fsync(opened.get()) != 0 && errno != EINVAL))
        return system_error("cannot sync " + folder);
    return {};
}

Status remove_file(const std::string& path) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return system_error("cannot remove " + path);
    return {};
}

Status write_file(const std::string& path, std::span<const std::byte> content, unsigned mode) {
    FLEX_ASSIGN(NewFile file, NewFile::create(path, mode));
    FLEX_TRY(file.write(0, content));
    return file.commit();
}

Status make_folders(const std::string& path, unsigned mode) {
    for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
        const std::string part = path.substr(0, at);
        if (::mkdir(part.c_str(), static_cast<mode_t>(mode)) != 0 && errno != EEXIST) {
            return system_error("cannot make the folder " + part);
        }
        if (at == std::string::npos) return {};
    }
}

Result<std::vector<std::string>> list_folder(const std::string& path) {
    DIR* folder = ::opendir(path.c_str());
    if (folder == nullptr) return system_error("cannot list " + path);
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(folder)) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(name);
    }
    ::closedir(folder);
    std::sort(names.begin(), names.end());
    return names;
}

} // namespace flex::port
