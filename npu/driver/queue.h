// The device as a virtio device over PCI (Virtual I/O Device Version 1.2): its registers, and one queue of
// jobs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "abi/npu.h"
#include "abi/syscall.h"
#include "base/result.h"
#include "npu/driver/npu.h"

namespace flex::npu {

/// The mapped BAR. Offsets are those of struct flex_npu_grant plus the structures' own.
class Registers {
public:
    virtual ~Registers() = default;
    /// 1, 2 or 4 bytes, aligned.
    virtual std::uint32_t read(std::uint64_t offset, unsigned bytes) = 0;
    virtual void write(std::uint64_t offset, std::uint32_t value, unsigned bytes) = 0;
};

/// As Device memory lies at `base`; what is outside of it reads as 0 and is not written.
class MappedRegisters final : public Registers {
public:
    MappedRegisters(std::uint64_t base, std::uint64_t bytes) : base_(base), bytes_(bytes) {}
    std::uint32_t read(std::uint64_t offset, unsigned bytes) override;
    void write(std::uint64_t offset, std::uint32_t value, unsigned bytes) override;

private:
    std::uint64_t base_, bytes_;
};

/// One life of the device: from start() to reset(). Not thread-safe.
class Device {
public:
    static constexpr std::size_t kQueues = 4;
    /// A page for each queue's rings, one for results, and those of the jobs.
    static constexpr std::size_t kPages = kQueues + 1 + kJobsInFlight * kJobPages;

    /// `memory`: kPages pages, which the device sees at `pages`; both stay as long as this.
    Device(Registers& registers, const flex_npu_grant& where, std::span<std::byte> memory,
           std::span<const std::uint64_t, kPages> pages);

    /// From whatever state it is in to one that takes jobs. Error: kIo (it does not answer as it should).
    Status start();
    /// What it says of itself, after start(). Each register is a round trip to the carrier, so once a device
    /// is often enough. Error: kIo (it is no NPU of a version that is known here).
    Result<Info> identify();
    /// It forgets everything and touches no memory any more. Error: kIo (it does not end its reset).
    Status reset();

    std::uint32_t read(flex_npu_register which);

    [[nodiscard]] std::size_t under_way() const { return under_way_; }
    /// Where the next job is to be written, kJobBytes. At most kJobsInFlight are under way.
    [[nodiscard]] std::byte* job();
    void submit(std::size_t bytes, std::uint64_t cookie);
    /// Whether the oldest job under way has ended; then with its result, whatever that is. Error: kIo (what
    /// the device wrote is no answer to a job).
    Result<bool> poll(flex_npu_result& result);

private:
    struct Rings;
    [[nodiscard]] Rings& rings(std::size_t queue) const;
    [[nodiscard]] std::uint32_t common(unsigned offset, unsigned bytes) {
        return registers_.read(where_.common + offset, bytes);
    }
    void set_common(unsigned offset, std::uint32_t value, unsigned bytes) {
        registers_.write(where_.common + offset, value, bytes);
    }
    Status negotiate();
    Status set_up_queue(std::size_t queue);
    void fill_descriptors();

    Registers& registers_;
    const flex_npu_grant where_;
    const std::span<std::byte> memory_;
    std::array<std::uint64_t, kPages> pages_;
    std::uint64_t notify_ = 0; // offset
    std::uint16_t submitted_ = 0, ended_ = 0;
    std::size_t under_way_ = 0;
    std::array<std::uint64_t, kJobsInFlight> cookies_{};
    std::uint8_t sequence_ = 0; // of ACCESS, which is 0 after the reset that comes with a grant
};

} // namespace flex::npu
