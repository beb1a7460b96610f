// Port to the trusted OS: its private system calls (abi/syscall.h), called directly.
#include <cerrno>
#include <cstring>

#include "abi/frame.h"
#include "abi/syscall.h"
#include "port/port.h"

namespace flex::port {

Result<flex_npu_grant> Port::acquire_npu(std::chrono::milliseconds) {
    return fail(ErrorCode::kUnsupported, "this port has no NPU");
}
Status Port::bus_addresses(const std::byte*, std::span<std::uint64_t>) {
    return fail(ErrorCode::kInvalidArgument, "this port has no bus addresses");
}
Result<int> Port::open_npu() { return fail(ErrorCode::kUnsupported, "this port has no NPU"); }

#if defined(__aarch64__)
namespace {

constexpr std::uint64_t kFrame = FLEX_FRAME_SIZE;
// The program sees the normal world's two file trees below these names.
constexpr const char* kStoreFolder = "/store";
constexpr const char* kDataFolder = "/data";
constexpr std::uint16_t kPort = 8443;

long system_call(long number, std::uint64_t a0, std::uint64_t a1 = 0, std::uint64_t a2 = 0) {
    register long x8 asm("x8") = number;
    register std::uint64_t x0 asm("x0") = a0;
    register std::uint64_t x1 asm("x1") = a1;
    register std::uint64_t x2 asm("x2") = a2;
    asm volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory", "cc");
    return static_cast<long>(x0);
}

std::uint64_t address_of(const void* p) { return reinterpret_cast<std::uint64_t>(p); }

bool is_error(long result) { return result < 0 && result >= -4095; }

Error error_of(long result, const std::string& what) {
    if (result == -ENOMEM) {
        return fail(ErrorCode::kOutOfMemory,
                    what + ": the normal world gave no memory; free some, or start the device with more");
    }
    return fail(ErrorCode::kIo, what + ": " + std::strerror(static_cast<int>(-result)));
}

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

class DevicePort final : public Port {
public:
    [[nodiscard]] bool is_protected() const override { return true; }
    [[nodiscard]] const char* name() const override { return "device (Flex-Mem)"; }

    Result<Block> allocate(std::size_t bytes) override {
        bytes = (bytes + kFrame - 1) & ~(kFrame - 1);
        const long result = system_call(FLEX_SYS_MEM_ALLOC, bytes);
        if (is_error(result)) return error_of(result, "cannot allocate " + std::to_string(bytes) + " bytes");
        return Block{reinterpret_cast<std::byte*>(result), bytes};
    }

    void free(Block block) override {
        if (block.bytes != 0) system_call(FLEX_SYS_MEM_FREE, address_of(block.data), block.bytes);
    }

    Result<LoadedBlock> load(int file, std::uint64_t offset, std::size_t bytes) override {
        const std::uint64_t alloc_before = info().alloc_ns, begin = now_ns();
        const long result = system_call(FLEX_SYS_MEM_LOAD, static_cast<std::uint64_t>(file), offset, bytes);
        if (is_error(result)) return error_of(result, "cannot load " + std::to_string(bytes) + " bytes");
        LoadedBlock loaded{{reinterpret_cast<std::byte*>(result), bytes}, 0, 0};
        const std::uint64_t wall = now_ns() - begin;
        loaded.allocate_ns = std::min(wall, info().alloc_ns - alloc_before);
        loaded.load_ns = wall - loaded.allocate_ns;
        return loaded;
    }

    Result<crypto::Secret32> device_key(std::string_view label) override {
        crypto::Secret32 key;
        const long result = system_call(FLEX_SYS_DEVICE_KEY, address_of(label.data()), label.size(),
                                        address_of(key.bytes().data()));
        if (is_error(result)) return error_of(result, "cannot derive a device key");
        return key;
    }

    Result<std::vector<std::byte>> read_secure_store() override {
        std::vector<std::byte> content(FLEX_SECURE_STORE_BYTES);
        const long result =
            system_call(FLEX_SYS_SECURE_STORE_READ, address_of(content.data()), content.size());
        if (is_error(result)) return error_of(result, "cannot read the rollback-proof store");
        content.resize(static_cast<std::size_t>(result));
        return content;
    }

    Status write_secure_store(std::span<const std::byte> content) override {
        const long result =
            system_call(FLEX_SYS_SECURE_STORE_WRITE, address_of(content.data()), content.size());
        if (is_error(result)) return error_of(result, "cannot write the rollback-proof store");
        return {};
    }

    std::uint64_t wait_reclaim(std::chrono::milliseconds timeout) override {
        const auto ns = std::chrono::nanoseconds(timeout).count();
        const long result = system_call(FLEX_SYS_RECLAIM_WAIT, static_cast<std::uint64_t>(ns));
        return is_error(result) ? 0 : static_cast<std::uint64_t>(result);
    }

    MemoryInfo memory_info() override {
        const flex_memory_info from = info();
        MemoryInfo to;
        for (std::size_t i = 0; i < to.frames.size(); ++i) to.frames[i] = from.frames[i];
        to.mapped_bytes = from.mapped_frames * kFrame;
        to.pool_bytes = from.pool_frames * kFrame;
        return to;
    }

    Result<flex_npu_grant> acquire_npu(std::chrono::milliseconds patience) override {
        flex_npu_grant grant{};
        const long result = system_call(FLEX_SYS_NPU_ACQUIRE, static_cast<std::uint64_t>(patience.count()),
                                        address_of(&grant));
        if (!is_error(result)) return grant;
        if (result == -ENODEV) return fail(ErrorCode::kUnsupported, "this device has no NPU");
        if (result == -EBUSY) return fail(ErrorCode::kBusy, "the normal world does not give the NPU now");
        return error_of(result, "cannot have the NPU");
    }

    void release_npu() override { system_call(FLEX_SYS_NPU_RELEASE, 0); }

    NpuHold wait_npu(std::chrono::nanoseconds timeout) override {
        return wait_npu_for(FLEX_NPU_WAIT_ANY, timeout);
    }
    NpuHold wait_npu_recall(std::chrono::nanoseconds timeout) override {
        return wait_npu_for(FLEX_NPU_WAIT_RECALL, timeout);
    }

    Status bus_addresses(const std::byte* from, std::span<std::uint64_t> pages) override {
        const long result =
            system_call(FLEX_SYS_MEM_ADDRESSES, address_of(from), pages.size(), address_of(pages.data()));
        if (!is_error(result)) return {};
        return fail(ErrorCode::kInvalidArgument, "this memory has no bus address");
    }

    [[nodiscard]] const std::string& store_folder() const override { return store_; }
    [[nodiscard]] const std::string& data_folder() const override { return data_; }
    [[nodiscard]] Endpoint default_endpoint() const override { return {"0.0.0.0", kPort}; }

    static flex_memory_info info() {
        flex_memory_info out{};
        system_call(FLEX_SYS_MEMORY_INFO, address_of(&out));
        return out;
    }

private:
    static NpuHold wait_npu_for(flex_npu_wait what, std::chrono::nanoseconds timeout) {
        const long result = system_call(FLEX_SYS_NPU_WAIT, static_cast<std::uint64_t>(timeout.count()), what);
        return is_error(result) ? NpuHold::kLost : result == 0 ? NpuHold::kHeld : NpuHold::kWanted;
    }

    std::string store_ = kStoreFolder, data_ = kDataFolder;
};

} // namespace

bool under_trusted_os() {
    flex_memory_info probe{};
    return !is_error(system_call(FLEX_SYS_MEMORY_INFO, address_of(&probe)));
}

Result<std::unique_ptr<Port>> make_device_port() {
    if (!under_trusted_os()) {
        return fail(ErrorCode::kUnsupported, "not running under the trusted OS");
    }
    return std::unique_ptr<Port>(std::make_unique<DevicePort>());
}

#else

bool under_trusted_os() { return false; }

Result<std::unique_ptr<Port>> make_device_port() {
    return fail(ErrorCode::kUnsupported, "not running under the trusted OS");
}

#endif

} // namespace flex::port
