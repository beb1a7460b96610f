// Small file operations with errors as values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace flex::port {

/// An open file descriptor; closed when it goes.
class File {
public:
    File() = default;
    explicit File(int descriptor) : descriptor_(descriptor) {}
    File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    File& operator=(File&& other) noexcept {
        std::swap(descriptor_, other.descriptor_);
        return *this;
    }
    ~File() { close(); }

    /// Read-only. Errors: kNotFound, kIo.
    static Result<File> open(const std::string& path);
    /// For writing; made when it is not there. Error: kIo.
    static Result<File> open_to_write(const std::string& path, unsigned mode = 0644);

    [[nodiscard]] int get() const { return descriptor_; }
    Result<std::uint64_t> size() const;
    /// All of `out`, or kIo ("ends early").
    Status read(std::uint64_t offset, std::span<std::byte> out) const;
    /// All of `content`, or kIo.
    Status write(std::uint64_t offset, std::span<const std::byte> content) const;
    Status sync() const; ///< to the disk
    void close();

private:
    int descriptor_ = -1;
};

/// A whole file mapped for reading, for parsing in place. (Bulk data is better read with File::read: a
/// failing disk is then an error and not a signal.)
class MappedFile {
public:
    /// Errors: kNotFound, kCorrupt (empty), kIo.
    static Result<MappedFile> open(const std::string& path);
    MappedFile(MappedFile&& other) noexcept
        : file_(std::move(other.file_)), bytes_(std::exchange(other.bytes_, {})) {}
    MappedFile& operator=(MappedFile&&) = delete;
    ~MappedFile();
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
    [[nodiscard]] const File& file() const { return file_; }

private:
    MappedFile(File file, std::span<const std::byte> bytes) : file_(std::move(file)), bytes_(bytes) {}
    File file_;
    std::span<const std::byte> bytes_;
};

/// The whole file. Errors: kNotFound, kIo, kCorrupt when it is larger than `limit`.
Result<std::vector<std::byte>> read_file(const std::string& path, std::size_t limit);

/// A file that appears under its name complete and on disk, or not at all.
class NewFile {
public:
    /// Writes to `path` + ".part" until commit(). Errors: kIo.
    static Result<NewFile> create(const std::string& path, unsigned mode = 0644);
    NewFile(NewFile&& other) noexcept = default;
    NewFile& operator=(NewFile&&) = delete;
    ~NewFile(); // removes what was not committed

    Status write(std::uint64_t offset, std::span<const std::byte> content);
    Status commit(); ///< fsync, rename, fsync of the folder

private:
    NewFile(File file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
    File file_;
    std::string path_;
};

Status write_file(const std::string& path, std::span<const std::byte> content, unsigned mode = 0644);

/// One that is not there is fine. Error: kIo.
Status remove_file(const std::string& path);

/// With parents; existing is fine. Error: kIo.
Status make_folders(const std::string& path, unsigned mode = 0755);

/// Names of the entries, without . and .., sorted. Errors: kNotFound, kIo.
Result<std::vector<std::string>> list_folder(const std::string& path);

} // namespace flex::port
