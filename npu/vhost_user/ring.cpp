#include "npu/vhost_user/ring.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

namespace flex::npu::vhost_user {

using model::BusMemory;
using model::Copied;

namespace {

// Virtio 1.2, 2.7.5 to 2.7.8.
struct Descriptor {
    std::uint64_t address;
    std::uint32_t bytes;
    std::uint16_t flags, next;
};
static_assert(sizeof(Descriptor) == 16);
constexpr std::uint16_t kNext = 1, kWrite = 2, kIndirect = 4;
constexpr std::uint16_t kNoInterrupt = 1;
struct UsedElement {
    std::uint32_t id, bytes;
};

Ring::Status failure(const Copied& copied) {
    return copied.status == Copied::Status::kInterrupted ? Ring::Status::kInterrupted : Ring::Status::kBroken;
}

} // namespace

std::uint64_t Chain::bytes_of(const std::vector<Piece>& pieces) {
    std::uint64_t bytes = 0;
    for (const Piece& piece : pieces) bytes += piece.bytes;
    return bytes;
}

bool Ring::set_number(std::uint32_t number) {
    ready_ = false; // addresses follow
    number_ = number <= kNumberMax && std::has_single_bit(number) ? number : 0;
    return number_ != 0;
}

bool Ring::set_address(const RingAddress& address) {
    constexpr std::uint64_t kFar = ~std::uint64_t{0} - 64 * kNumberMax; // no ring reaches around the end
    const bool aligned = address.descriptors % 16 == 0 && address.available % 2 == 0 && address.used % 4 == 0;
    const bool below = std::max({address.descriptors, address.available, address.used}) < kFar;
    address_ = address;
    ready_ = number_ != 0 && aligned && below;
    return ready_;
}

Ring::Status Ring::next(BusMemory& memory, Chain& chain) {
    if (!ready_) return Status::kBroken;
    std::uint16_t available = 0;
    Copied copied = copy_from_bus(memory, address_.available + 2, &available, sizeof available);
    if (!copied.done()) return failure(copied);
    const auto waiting = static_cast<std::uint16_t>(available - next_);
    if (waiting == 0) return Status::kEmpty;
    if (waiting > number_) return Status::kBroken;
    std::atomic_thread_fence(std::memory_order_acquire); // the index before what it announces
    const std::uint64_t slot = address_.available + 4 + 2 * (next_ % number_);
    copied = copy_from_bus(memory, slot, &chain.head, sizeof chain.head);
    if (!copied.done()) return failure(copied);
    if (chain.head >= number_) return Status::kBroken;
    const Status status = walk(memory, chain);
    if (status == Status::kChain || status == Status::kBadChain) ++next_;
    return status;
}

Ring::Status Ring::walk(BusMemory& memory, Chain& chain) const {
    chain.in.clear();
    chain.out.clear();
    std::uint32_t index = chain.head;
    // A chain that is longer than the table runs in a circle.
    for (std::uint32_t i = 0; i < number_; ++i) {
        Descriptor d{};
        const Copied copied = copy_from_bus(memory, address_.descriptors + 16 * index, &d, sizeof d);
        if (!copied.done()) return failure(copied);
        const bool write = (d.flags & kWrite) != 0;
        if ((d.flags & kIndirect) != 0 || (!write && !chain.out.empty())) return Status::kBadChain;
        (write ? chain.out : chain.in).push_back({d.address, d.bytes});
        if ((d.flags & kNext) == 0) return Status::kChain;
        if (d.next >= number_) return Status::kBadChain;
        index = d.next;
    }
    return Status::kBadChain;
}

Ring::Status Ring::complete(BusMemory& memory, std::uint16_t head, std::uint32_t written, bool& notify) {
    const UsedElement element{head, written};
    Copied copied = copy_to_bus(memory, address_.used + 4 + 8 * (used_ % number_), &element, sizeof element);
    if (!copied.done()) return failure(copied);
    std::atomic_thread_fence(std::memory_order_release);
    const auto used = static_cast<std::uint16_t>(used_ + 1);
    copied = copy_to_bus(memory, address_.used + 2, &used, sizeof used);
    if (!copied.done()) return failure(copied);
    used_ = used;
    std::atomic_thread_fence(
        std::memory_order_seq_cst); // the index, then whether the guest wants to hear of it
    std::uint16_t flags = 0;
    // The chain is given back: where the flags cannot be read the guest is told, which does no harm.
    if (!copy_from_bus(memory, address_.available, &flags, sizeof flags).done()) flags = 0;
    notify = (flags & kNoInterrupt) == 0;
    return Status::kEmpty;
}

} // namespace flex::npu::vhost_user
