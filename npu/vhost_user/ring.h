// A split virtqueue (Virtio 1.2, section 2.7) from the device's side. Everything in it is the guest's, and is
// read once.
#pragma once

#include <cstdint>
#include <vector>

#include "npu/model/bus_copy.h"
#include "npu/vhost_user/messages.h"

namespace flex::npu::vhost_user {

/// Descriptors of a chain, checked: first those that the device reads, then those that it writes.
struct Chain {
    struct Piece {
        std::uint64_t address;
        std::uint32_t bytes;
    };
    std::uint16_t head = 0;
    std::vector<Piece> in, out;

    [[nodiscard]] static std::uint64_t bytes_of(const std::vector<Piece>& pieces);
};

/// Not thread-safe.
class Ring {
public:
    static constexpr std::uint32_t kNumberMax = 1024;

    /// False: not what Virtio allows; the ring has no memory then.
    bool set_number(std::uint32_t number);
    bool set_address(const RingAddress& address);
    void set_base(std::uint16_t base) { next_ = used_ = base; }
    [[nodiscard]] std::uint16_t base() const { return next_; }

    enum class Status : std::uint8_t {
        kEmpty,
        kChain,
        kBadChain,   ///< malformed: chain.head is all that is good
        kBroken,     ///< the ring itself is malformed, or its memory is not granted
        kInterrupted ///< nothing has happened yet
    };
    /// The next chain that the guest has made available. put_back() makes it the next one again.
    Status next(model::BusMemory& memory, Chain& chain);
    void put_back() { --next_; }
    /// Gives a chain back. kEmpty: done, `notify` says whether the guest wants to hear of it. kBroken,
    /// kInterrupted.
    Status complete(model::BusMemory& memory, std::uint16_t head, std::uint32_t written, bool& notify);

private:
    Status walk(model::BusMemory& memory, Chain& chain) const;

    std::uint32_t number_ = 0;
    RingAddress address_{};
    bool ready_ = false;
    std::uint16_t next_ = 0, used_ = 0; // indices that count on and on
};

} // namespace flex::npu::vhost_user
