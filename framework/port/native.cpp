// Port to Linux, for development and comparison. Nothing is protected; keys lie in plain files.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include "port/bulk_read.h"
#include "port/files.h"
#include "port/identity.h"
#include "port/port.h"

namespace flex::port {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = 2u << 20; // of x86-64, and of arm64 with 4 KiB pages
constexpr std::size_t kSecureStoreBytes = 16384;
constexpr std::uint16_t kPort = 8443;
constexpr const char* kNpuFile = "/dev/flexnpu";

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

class NativePort final : public Port {
public:
    NativePort(crypto::Secret32 root_key, std::string folder)
        : root_key_(std::move(root_key)), secure_store_(folder + "/secure-store"), store_(folder + "/store"),
          data_(folder + "/data") {}

    [[nodiscard]] bool is_protected() const override { return false; }
    [[nodiscard]] const char* name() const override { return "native (no protection)"; }

    Result<Block> allocate(std::size_t bytes) override {
        bytes = (bytes + kPage - 1) & ~(kPage - 1);
        const bool huge = bytes >= kHugePage;
        const std::size_t spare = huge ? kHugePage - kPage : 0; // to begin at a multiple of a huge page
        void* map = bytes == 0 ? MAP_FAILED
                               : ::mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED)
            return fail(ErrorCode::kOutOfMemory, "cannot allocate " + std::to_string(bytes) + " bytes");
        auto* data = static_cast<std::byte*>(map);
        if (huge) {
            const auto address = reinterpret_cast<std::uintptr_t>(data);
            const std::size_t skip = (kHugePage - address % kHugePage) % kHugePage;
            if (skip > 0) ::munmap(data, skip);
            if (skip < spare) ::munmap(data + skip + bytes, spare - skip);
            data += skip;
            ::madvise(data, bytes, MADV_HUGEPAGE); // where it is not to be had, small pages do
        }
        mapped_ += bytes;
        return Block{data, bytes};
    }

    void free(Block block) override {
        if (block.bytes == 0) return;
        ::munmap(block.data, block.bytes);
        mapped_ -= block.bytes;
    }

    Result<LoadedBlock> load(int file, std::uint64_t offset, std::size_t bytes) override {
        const std::uint64_t begin = now_ns();
        FLEX_ASSIGN(const Block block, allocate(bytes));
        const std::uint64_t allocated = now_ns();
        if (const Status read = read_bulk(file, offset, {block.data, bytes}); !read) {
            free(block);
            return read.error();
        }
        return LoadedBlock{block, allocated - begin, now_ns() - allocated};
    }

    Result<crypto::Secret32> device_key(std::string_view label) override {
        crypto::Secret32 key;
        FLEX_TRY(crypto::hmac_sha256(root_key_.bytes(), crypto::bytes_of(label), key.bytes().first<32>()));
        return key;
    }

    Result<std::vector<std::byte>> read_secure_store() override {
        const std::lock_guard lock(secure_store_mutex_);
        auto content = read_file(secure_store_, kSecureStoreBytes);
        if (!content && content.error().code == ErrorCode::kNotFound) return std::vector<std::byte>();
        return content;
    }

    Status write_secure_store(std::span<const std::byte> content) override {
        const std::lock_guard lock(secure_store_mutex_);
        if (content.size() > kSecureStoreBytes)
            return fail(ErrorCode::kInternal, "secure store is too small");
        return write_file(secure_store_, content, 0600);
    }

    std::uint64_t wait_reclaim(std::chrono::milliseconds timeout) override {
        std::this_thread::sleep_for(timeout);
        return 0;
    }

    MemoryInfo memory_info() override {
        MemoryInfo info;
        info.mapped_bytes = mapped_;
        return info;
    }

    Result<int> open_npu() override {
        const int file = ::open(kNpuFile, O_RDWR | O_CLOEXEC);
        if (file >= 0) return file;
        return fail(ErrorCode::kUnsupported,
                    std::string("there is no NPU to be had: ") + kNpuFile + ": " + std::strerror(errno));
    }

    [[nodiscard]] const std::string& store_folder() const override { return store_; }
    [[nodiscard]] const std::string& data_folder() const override { return data_; }
    [[nodiscard]] Endpoint default_endpoint() const override { return {"127.0.0.1", kPort}; }

private:
    crypto::Secret32 root_key_;
    std::string secure_store_;
    std::string store_, data_;
    std::mutex secure_store_mutex_;
    std::atomic<std::uint64_t> mapped_{0};
};

Result<crypto::Secret32> root_key(const std::string& path) {
    crypto::Secret32 key;
    auto content = read_file(path, key.bytes().size());
    if (content) {
        if (content->size() != key.bytes().size()) {
            return fail(ErrorCode::kCorrupt, path + " is not a key of 32 bytes");
        }
        std::copy(content->begin(), content->end(), key.bytes().begin());
        crypto::wipe(*content);
        return key;
    }
    if (content.error().code != ErrorCode::kNotFound) return content.error();
    FLEX_TRY(crypto::random(key.bytes()));
    FLEX_TRY(write_file(path, key.bytes(), 0600));
    return key;
}

} // namespace

Result<std::unique_ptr<Port>> make_native_port(const std::string& folder) {
    FLEX_TRY(make_folders(folder, 0700));
    FLEX_TRY(make_folders(folder + "/store"));
    FLEX_TRY(make_folders(folder + "/data"));
    FLEX_ASSIGN(auto key, root_key(folder + "/root.key"));
    return std::unique_ptr<Port>(std::make_unique<NativePort>(std::move(key), folder));
}

Status provision_native(const std::string& folder, const std::string& home) {
    FLEX_ASSIGN(const auto key, root_key(folder + "/root.key"));
    return provision_for_user(key.bytes(), folder, home);
}

} // namespace flex::port
