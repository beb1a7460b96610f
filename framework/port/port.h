// What differs between Linux and the device's secure world, behind one interface.
//
// Thread-safety: every function may be called from any thread, except wait_reclaim (one caller at a time).
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "abi/syscall.h"
#include "base/crypto.h"
#include "base/result.h"

namespace flex::port {

/// A piece of Flex-Mem, as returned by allocate() or load(); 4 KiB aligned. Not owned: see
/// memory/flex_buffer.h.
struct Block {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
};

/// A block with the content of a file, and where the time went.
struct LoadedBlock {
    Block block;
    std::uint64_t allocate_ns = 0; ///< getting frames: request, protection, zeroing
    std::uint64_t load_ns = 0;     ///< reading storage
};

/// Frames by state (enum flex_frame_state of abi/frame.h); all zero where nothing is protected.
struct MemoryInfo {
    std::array<std::uint64_t, 8> frames{};
    std::uint64_t mapped_bytes = 0; ///< Flex-Mem this program holds
    std::uint64_t pool_bytes = 0;   ///< held back by the system below, not mapped
};

struct Endpoint {
    std::string address; ///< numeric
    std::uint16_t port = 0;
};

/// What has become of the NPU that this program acquired.
enum class NpuHold : std::uint8_t {
    kHeld,
    kWanted, ///< the normal world wants it back: release it soon, or it is taken
    kLost,   ///< it is not held (any more)
};

class Port {
public:
    virtual ~Port() = default;

    /// True when no other software on the machine can reach what this program holds.
    [[nodiscard]] virtual bool is_protected() const = 0;
    /// For people: "device (Flex-Mem)" or "native (no protection)".
    [[nodiscard]] virtual const char* name() const = 0;

    /// Zeroed memory. `bytes` is rounded up to 4 KiB. Error: kOutOfMemory.
    virtual Result<Block> allocate(std::size_t bytes) = 0;
    /// The whole block; its content is gone when this returns.
    virtual void free(Block block) = 0;
    /// Part of an open file in fresh memory; offset and bytes are multiples of 4 KiB. In the device the
    /// frames are protected after the read and before this returns: the content is untrusted but cannot
    /// change. Errors: kOutOfMemory, kIo (also when the file ends inside the part).
    virtual Result<LoadedBlock> load(int file, std::uint64_t offset, std::size_t bytes) = 0;

    /// HMAC-SHA256(device root key, label); label at most 64 bytes. The only use of the root key there is.
    virtual Result<crypto::Secret32> device_key(std::string_view label) = 0;

    /// The rollback-proof store: empty when never written. At most 16384 bytes, replaced as a whole.
    virtual Result<std::vector<std::byte>> read_secure_store() = 0;
    virtual Status write_secure_store(std::span<const std::byte> content) = 0;

    /// Bytes that the normal world wants back; 0 when the time is over.
    virtual std::uint64_t wait_reclaim(std::chrono::milliseconds timeout) = 0;
    virtual MemoryInfo memory_info() = 0;

    // The NPU (abi/npu.h). What a port does not override says that there is none.
    /// In the device: the program holds it, just reset; the normal world has `patience` to end its own jobs.
    /// Errors: kUnsupported (there is none), kBusy (not now).
    virtual Result<flex_npu_grant> acquire_npu(std::chrono::milliseconds patience);
    /// Its registers are unmapped and the device is reset. Also needed after kLost.
    virtual void release_npu() {}
    /// Returns when the time is over, the NPU's interrupt has come, or the NPU is no longer just held. Asked
    /// with no time it leaves the interrupt to whoever waits. Any thread; an interrupt ends one wait.
    virtual NpuHold wait_npu(std::chrono::nanoseconds) { return NpuHold::kLost; }
    /// The same without interrupts. Any thread, several at a time.
    virtual NpuHold wait_npu_recall(std::chrono::nanoseconds) { return NpuHold::kLost; }
    /// Where the NPU sees the pages of a block of Flex-Mem, from `from` on; until the block is freed. Error:
    /// kInvalidArgument (other memory).
    virtual Status bus_addresses(const std::byte* from, std::span<std::uint64_t> pages);
    /// On Linux: the driver's file (abi/npu_linux.h), to be closed by the caller. Error: kUnsupported.
    virtual Result<int> open_npu();

    /// Where packages lie (read-only in the device).
    [[nodiscard]] virtual const std::string& store_folder() const = 0;
    /// Where the program may write, in one folder without folders in it. Untrusted like everything outside.
    [[nodiscard]] virtual const std::string& data_folder() const = 0;
    [[nodiscard]] virtual Endpoint default_endpoint() const = 0;
};

/// Linux: plain memory, keys and store in files under `folder` ({store,data,root.key,secure-store}; made when
/// missing, with a new root key). Protects nothing. Error: kIo.
Result<std::unique_ptr<Port>> make_native_port(const std::string& folder);

/// Where Linux stands in for a device, this stands in for the factory: writes the public identity of `folder`
/// and its list of publishers (this user's, see port/identity.h). Call after make_native_port. Error: kIo.
Status provision_native(const std::string& folder, const std::string& home);

/// The secure world, when this program runs under the trusted OS; kUnsupported elsewhere.
Result<std::unique_ptr<Port>> make_device_port();
/// Any other system answers ENOSYS. (The trusted OS is what the program relies on, so it may say who it is.)
bool under_trusted_os();

} // namespace flex::port
