#include "npu/driver/queue.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

namespace flex::npu {

namespace {

// Virtio 1.2, 4.1.4.3: the common configuration.
constexpr unsigned kDeviceFeatureSelect = 0, kDeviceFeature = 4, kDriverFeatureSelect = 8,
                   kDriverFeature = 12, kNumQueues = 18, kDeviceStatus = 20, kQueueSelect = 22,
                   kQueueSize = 24, kQueueVector = 26, kQueueEnable = 28, kQueueNotifyOff = 30,
                   kQueueDescriptors = 32, kQueueDriver = 40, kQueueDevice = 48;
constexpr std::uint32_t kNoVector = 0xffff;
// 2.1
constexpr std::uint32_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8;
// 6: bits 32 and 33
constexpr std::uint32_t kVersion1 = 1u << 0, kAccessPlatform = 1u << 1;
// 2.7.5 and 2.7.6
constexpr std::uint16_t kNext = 1, kDeviceWrites = 2;

constexpr std::size_t kQueueEntries = 64, kEntriesPerJob = kJobPages + 1;
static_assert(kJobsInFlight * kEntriesPerJob <= kQueueEntries);

constexpr std::size_t kResultsPage = Device::kQueues, kJobsPage = kResultsPage + 1;
constexpr std::chrono::milliseconds kResetPatience(1000);
constexpr std::chrono::microseconds kResetPause(100);

/// Memory accesses before it are seen by the device before those after it, and the other way round.
void order_accesses() {
#if defined(__aarch64__)
    asm volatile("dmb osh" ::: "memory");
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

Error not_as_it_should(const std::string& what) { return fail(ErrorCode::kIo, "the NPU " + what); }

} // namespace

// 2.7: the parts of a split virtqueue, in a page.
struct Device::Rings {
    struct Descriptor {
        std::uint64_t address;
        std::uint32_t bytes;
        std::uint16_t flags, next;
    } descriptors[kQueueEntries];
    struct {
        std::uint16_t flags, index, ring[kQueueEntries];
    } available;
    alignas(4) struct {
        std::uint16_t flags, index;
        struct {
            std::uint32_t id, bytes;
        } ring[kQueueEntries];
    } used;
};

std::uint32_t MappedRegisters::read(std::uint64_t offset, unsigned bytes) {
    if (offset > bytes_ || bytes > bytes_ - offset) return 0;
    const std::uint64_t at = base_ + offset;
    if (bytes == 1) return *reinterpret_cast<volatile std::uint8_t*>(at);
    if (bytes == 2) return *reinterpret_cast<volatile std::uint16_t*>(at);
    return *reinterpret_cast<volatile std::uint32_t*>(at);
}

void MappedRegisters::write(std::uint64_t offset, std::uint32_t value, unsigned bytes) {
    if (offset > bytes_ || bytes > bytes_ - offset) return;
    const std::uint64_t at = base_ + offset;
    if (bytes == 1)
        *reinterpret_cast<volatile std::uint8_t*>(at) = static_cast<std::uint8_t>(value);
    else if (bytes == 2)
        *reinterpret_cast<volatile std::uint16_t*>(at) = static_cast<std::uint16_t>(value);
    else
        *reinterpret_cast<volatile std::uint32_t*>(at) = value;
}

Device::Device(Registers& registers, const flex_npu_grant& where, std::span<std::byte> memory,
               std::span<const std::uint64_t, kPages> pages)
    : registers_(registers), where_(where), memory_(memory) {
    static_assert(sizeof(Rings) <= FLEX_NPU_PAGE);
    std::ranges::copy(pages, pages_.begin());
}

Device::Rings& Device::rings(std::size_t queue) const {
    return *reinterpret_cast<Rings*>(memory_.data() + queue * FLEX_NPU_PAGE);
}

/// 3.1.1. All queues are there before DRIVER_OK, since the device takes none later.
Status Device::start() {
    FLEX_TRY(reset());
    set_common(kDeviceStatus, kAcknowledge, 1);
    set_common(kDeviceStatus, kAcknowledge | kDriver, 1);
    FLEX_TRY(negotiate());
    const std::size_t queues = std::min<std::size_t>(common(kNumQueues, 2), kQueues);
    if (queues == 0) return not_as_it_should("has no queue");
    std::fill_n(memory_.data(), (kResultsPage + 1) * FLEX_NPU_PAGE, std::byte{0});
    fill_descriptors();
    order_accesses();
    for (std::size_t queue = 0; queue < queues; ++queue) FLEX_TRY(set_up_queue(queue));
    set_common(kDeviceStatus, kAcknowledge | kDriver | kFeaturesOk | kDriverOk, 1);
    submitted_ = ended_ = 0;
    under_way_ = 0;
    return {};
}

Status Device::reset() {
    under_way_ = 0;
    if (common(kDeviceStatus, 1) == 0) return {}; // as after every change of hands
    set_common(kDeviceStatus, 0, 1);
    const auto give_up = std::chrono::steady_clock::now() + kResetPatience;
    while (common(kDeviceStatus, 1) != 0) {
        if (std::chrono::steady_clock::now() > give_up) return not_as_it_should("does not end its reset");
        std::this_thread::sleep_for(kResetPause);
    }
    return {};
}

Status Device::negotiate() {
    constexpr std::uint32_t kWanted = kVersion1 | kAccessPlatform;
    set_common(kDeviceFeatureSelect, 1, 4);
    if ((common(kDeviceFeature, 4) & kWanted) != kWanted)
        return not_as_it_should("is no virtio 1.x device behind an SMMU");
    set_common(kDriverFeatureSelect, 0, 4);
    set_common(kDriverFeature, 0, 4);
    set_common(kDriverFeatureSelect, 1, 4);
    set_common(kDriverFeature, kWanted, 4);
    set_common(kDeviceStatus, kAcknowledge | kDriver | kFeaturesOk, 1);
    if ((common(kDeviceStatus, 1) & kFeaturesOk) == 0) return not_as_it_should("refuses the features it has");
    return {};
}

Status Device::set_up_queue(std::size_t queue) {
    set_common(kQueueSelect, static_cast<std::uint32_t>(queue), 2);
    if (common(kQueueSize, 2) < kQueueEntries) return not_as_it_should("has too short a queue");
    set_common(kQueueSize, kQueueEntries, 2);
    set_common(kQueueVector, kNoVector, 2);
    const auto address = [&](unsigned at, std::size_t offset) {
        const std::uint64_t bus = pages_[queue] + offset;
        set_common(at, static_cast<std::uint32_t>(bus), 4);
        set_common(at + 4, static_cast<std::uint32_t>(bus >> 32), 4);
    };
    address(kQueueDescriptors, offsetof(Rings, descriptors));
    address(kQueueDriver, offsetof(Rings, available));
    address(kQueueDevice, offsetof(Rings, used));
    if (queue == 0)
        notify_ = where_.notify + std::uint64_t{common(kQueueNotifyOff, 2)} * where_.notify_multiplier;
    set_common(kQueueEnable, 1, 2);
    return {};
}

/// Job s has kEntriesPerJob descriptors from s * kEntriesPerJob on: its pages, and the result as the last.
void Device::fill_descriptors() {
    Rings& r = rings(0);
    for (std::size_t slot = 0; slot < kJobsInFlight; ++slot) {
        const std::size_t first = slot * kEntriesPerJob;
        for (std::size_t i = 0; i < kJobPages; ++i) {
            r.descriptors[first + i] = {pages_[kJobsPage + slot * kJobPages + i], FLEX_NPU_PAGE, kNext,
                                        static_cast<std::uint16_t>(first + i + 1)};
        }
        r.descriptors[first + kJobPages] = {pages_[kResultsPage] + slot * sizeof(flex_npu_result),
                                            sizeof(flex_npu_result), kDeviceWrites, 0};
    }
}

/// abi/npu.h, "Registers".
std::uint32_t Device::read(flex_npu_register which) {
    registers_.write(where_.device + FLEX_NPU_CONFIG_ACCESS, FLEX_NPU_ACCESS(++sequence_, which), 4);
    return registers_.read(where_.device + FLEX_NPU_CONFIG_VALUE, 4);
}

Result<Info> Device::identify() {
    if (read(FLEX_NPU_REG_ID) != FLEX_NPU_ID || read(FLEX_NPU_REG_VERSION) != FLEX_NPU_VERSION)
        return not_as_it_should("is another device, or another version of it");
    return Info{read(FLEX_NPU_REG_SRAM_BYTES), read(FLEX_NPU_REG_CORES), read(FLEX_NPU_REG_MAC_PER_US),
                read(FLEX_NPU_REG_BYTES_PER_US), read(FLEX_NPU_REG_LAUNCH_NS)};
}

std::byte* Device::job() {
    const std::size_t slot = submitted_ % kJobsInFlight;
    return memory_.data() + (kJobsPage + slot * kJobPages) * FLEX_NPU_PAGE;
}

void Device::submit(std::size_t bytes, std::uint64_t cookie) {
    Rings& r = rings(0);
    const std::size_t slot = submitted_ % kJobsInFlight, first = slot * kEntriesPerJob;
    const std::size_t whole = (bytes - 1) / FLEX_NPU_PAGE; // pages that are full, before the last
    for (std::size_t i = 0; i <= whole; ++i) {
        Rings::Descriptor& d = r.descriptors[first + i];
        d.bytes = static_cast<std::uint32_t>(i < whole ? FLEX_NPU_PAGE : bytes - whole * FLEX_NPU_PAGE);
        d.next = static_cast<std::uint16_t>(i < whole ? first + i + 1 : first + kJobPages);
    }
    cookies_[slot] = cookie;
    r.available.ring[submitted_ % kQueueEntries] = static_cast<std::uint16_t>(first);
    order_accesses();
    std::atomic_ref(r.available.index).store(++submitted_, std::memory_order_relaxed);
    ++under_way_;
    order_accesses();
    registers_.write(notify_, 0, 2); // of queue 0
}

/// What the device wrote is read once, and believed when it answers the oldest job.
Result<bool> Device::poll(flex_npu_result& result) {
    Rings& r = rings(0);
    const std::uint16_t index = std::atomic_ref(r.used.index).load(std::memory_order_relaxed);
    const auto more = static_cast<std::uint16_t>(index - ended_);
    if (more == 0) return false;
    order_accesses();
    const std::size_t slot = ended_ % kJobsInFlight;
    const auto& element = r.used.ring[ended_ % kQueueEntries];
    if (more > under_way_ || element.id != slot * kEntriesPerJob || element.bytes != sizeof result)
        return not_as_it_should("answers jobs that it was not given");
    std::memcpy(&result, memory_.data() + kResultsPage * FLEX_NPU_PAGE + slot * sizeof result, sizeof result);
    if (result.cookie != cookies_[slot]) return not_as_it_should("answers another job");
    ++ended_;
    --under_way_;
    return true;
}

} // namespace flex::npu
