// The device's view of memory through the SMMU: IOVAs are looked up in caches that vhost IOTLB messages fill
// and empty.
//
// A translation is kept from job to job. That is as safe as asking anew: QEMU turns every invalidation of the
// SMMU into an INVALIDATE message, and does not go on with the guest's command queue until that is answered;
// and it is answered here when the entry is gone and no access that used it is under way. So when the guest
// sees its CMD_SYNC done, nothing reaches the old frame any more, and there is nothing that a look at the
// start of a job could add.
//
// QEMU's UPDATE always says "read and write", whatever was asked for. So reads and writes have a cache each,
// an UPDATE is taken only while a MISS for an address in it is under way, and only into the cache that the
// MISS was for. It is not taken either when something was taken back since the MISS was sent: nobody can tell
// whether it was looked up before. The device then asks again.
//
// A round trip takes longer than the lookup in it. So once a MISS is answered and shows that the next pages
// of the operand are still unknown (memory in pages of 4 KiB), they are all asked for before the first of
// them is answered. They are of one kind of access, so it does not matter which of these UPDATEs belongs to
// which MISS; what is refused of them is asked for again when it is accessed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "npu/model/bus_memory.h"
#include "npu/vhost_user/guest_memory.h"

namespace flex::npu::vhost_user {

/// Thread-safe. Opening and closing a window takes no lock: cores do that every few microseconds, and one
/// that loses its processor inside a lock would stop the other. They count themselves in and out instead,
/// each in a place of its own; who changes something keeps new ones out and waits until nobody is inside.
///
/// update(), invalidate(), set_memory() never wait for QEMU, so the thread that serves QEMU's
/// messages can call them while another one waits for the answer to a MISS.
class Translations final : public model::BusMemory {
public:
    Translations();

    void close() override;
    void interrupt(bool on) override;
    void forget() override;

    /// GuestMemory::show(). Also forgets all translations: they point into the old one.
    bool set_memory(const Message& table);
    /// Where MISS messages go.
    void set_channel(Fd fd);
    /// False: not a translation that can be used.
    bool update(const Iotlb& entry);
    /// Returns when nothing uses what was there any more.
    void invalidate(const Iotlb& range);

private:
    using Lock = std::unique_lock<std::mutex>;
    enum class Answer : std::uint8_t { kGranted, kRefused, kInterrupted };
    struct Entry {
        std::uint64_t last = 0; ///< address
        std::byte* data = nullptr;
    };
    using Cache = std::map<std::uint64_t, Entry>; // by first address; entries do not overlap

    model::Window open_window(std::uint64_t address, std::uint64_t bytes, model::Access access,
                              const model::Ahead* ahead) override;
    Answer miss(std::uint64_t address, model::Access access, const model::Ahead* ahead);
    Answer ask(std::span<const std::uint64_t> addresses, model::Access access);
    Answer answer();
    std::size_t remove_known(std::span<std::uint64_t> addresses, model::Access access);
    std::optional<model::Window> look_up(std::uint64_t address, std::uint64_t bytes, model::Access access);
    void enter();
    void leave();
    [[nodiscard]] bool somebody_inside() const;
    template <class Change> void exclusively(const Change& change);
    bool take(const Iotlb& update);
    static void erase(Cache& cache, std::uint64_t first, std::uint64_t last);
    static Cache::const_iterator find(const Cache& cache, std::uint64_t address);

    /// Threads that are between enter() and leave(): those that have this place in common.
    struct alignas(64) Inside {
        std::atomic<unsigned> count{0};
    };
    static constexpr std::size_t kPlaces = 16;
    Inside& place_of_this_thread();
    Inside inside_[kPlaces];
    std::atomic<unsigned> changes_{0}; // under way or waiting: nobody enters. Changed with the mutex

    std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    GuestMemory memory_;
    Cache caches_[2]; // by Access; changed while nobody is inside, so also read by who is
    std::span<const std::uint64_t> asked_; // addresses of the MISSes under way
    model::Access asked_for_{};            // that they ask for
    bool outdated_ = false;                // something was taken back since they were sent

    std::mutex miss_mutex_; // one thread asks at a time; guards what follows
    std::unique_ptr<Channel> channel_;
    std::size_t abandoned_ = 0; // answers that are still to come, to nobody
    std::array<std::byte, sizeof(Header) + sizeof(std::uint64_t)> reply_{};
    std::size_t reply_bytes_ = 0;

    std::atomic<unsigned> interrupts_{0};
    Fd interrupted_; // eventfd: readable while interrupts_ > 0
};

} // namespace flex::npu::vhost_user
