// Messages of the vhost-user protocol that this back end needs, as QEMU's docs/interop/vhost-user.rst lays
// them out: a header of three words, then a payload, in the host's byte order.
#pragma once

#include <cstdint>

namespace flex::npu::vhost_user {

enum class Request : std::uint32_t {
    kGetFeatures = 1,
    kSetFeatures = 2,
    kSetOwner = 3,
    kResetOwner = 4,
    kSetMemoryTable = 5,
    kSetRingNumber = 8,
    kSetRingAddress = 9,
    kSetRingBase = 10,
    kGetRingBase = 11,
    kSetRingKick = 12,
    kSetRingCall = 13,
    kSetRingError = 14,
    kGetProtocolFeatures = 15,
    kSetProtocolFeatures = 16,
    kGetQueueNumber = 17,
    kSetRingEnable = 18,
    kSetBackEndChannel = 21,
    kIotlb = 22,
    kGetConfiguration = 24,
    kSetConfiguration = 25,
};
/// On the back end's own channel.
inline constexpr std::uint32_t kBackEndIotlb = 1;

struct Header {
    std::uint32_t request, flags, size;
};
static_assert(sizeof(Header) == 12);
inline constexpr std::uint32_t kVersion = 1, kVersionMask = 3, kReply = 4, kNeedReply = 8;

// Virtio 1.2, section 6: what the guest's driver is offered, and the bit that stands for protocol features.
inline constexpr std::uint64_t kVersion1 = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kAccessPlatform = std::uint64_t{1} << 33;
inline constexpr std::uint64_t kHasProtocolFeatures = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kProtocolMultiqueue = 1u << 0, kProtocolReplyAck = 1u << 3,
                               kProtocolBackEndChannel = 1u << 5, kProtocolConfiguration = 1u << 9;

struct RingState {
    std::uint32_t index, number;
};
struct RingAddress {
    std::uint32_t index, flags;
    std::uint64_t descriptors, used, available, log; // IOVAs with kAccessPlatform
};
static_assert(sizeof(RingAddress) == 40);
/// kSetRingKick, -Call, -Error: a word.
inline constexpr std::uint64_t kRingIndexMask = 0xff, kRingWithoutFd = 0x100;

inline constexpr std::uint32_t kMemoryRegionsMax = 8;
struct MemoryRegion {
    std::uint64_t guest_address, bytes, user_address, file_offset;
};
struct MemoryTable {
    std::uint32_t count, padding;
    MemoryRegion regions[kMemoryRegionsMax];
};
static_assert(sizeof(MemoryTable) == 264);

struct Configuration {
    std::uint32_t offset, size, flags;
};
inline constexpr std::uint32_t kConfigurationMax = 256;

enum class IotlbType : std::uint8_t { kMiss = 1, kUpdate = 2, kInvalidate = 3, kAccessFail = 4 };
struct Iotlb {
    std::uint64_t address, size, user_address;
    std::uint8_t permission; ///< 1 read, 2 write, 3 both
    IotlbType type;
    std::uint8_t padding[6];
};
static_assert(sizeof(Iotlb) == 32);

} // namespace flex::npu::vhost_user
