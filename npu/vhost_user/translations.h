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
// an UPDATE is taken only while a MISS is under way, and only into the cache that the MISS was for. It is not
// taken either when something was taken back since the MISS was sent: nobody can tell whether it was looked
// up before. The device then asks again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "npu/model/bus_memory.h"
#include "npu/vhost_user/guest_memory.h"

namespace flex::npu::vhost_user {

/// Thread-safe. update(), invalidate(), set_memory() never wait for QEMU, so the thread that serves QEMU's
/// messages can call them while another one waits for the answer to a MISS.
class Translations final : public model::BusMemory {
public:
    Translations();

    model::Window open(std::uint64_t address, std::uint64_t bytes, model::Access access) override;
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

    Answer miss(std::uint64_t address, model::Access access);
    Answer answer();
    std::optional<model::Window> look_up(std::uint64_t address, std::uint64_t bytes, model::Access access);
    template <class Change> void exclusively(const Change& change);
    static void erase(Cache& cache, std::uint64_t first, std::uint64_t last);

    std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    GuestMemory memory_;
    Cache caches_[2]; // by Access
    unsigned open_ = 0, changes_ = 0;
    std::optional<model::Access> asked_; // of the MISS under way
    bool outdated_ = false;              // something was taken back since it was sent

    std::mutex miss_mutex_; // one MISS at a time; guards what follows
    std::unique_ptr<Channel> channel_;
    unsigned abandoned_ = 0; // answers that are still to come, to nobody
    std::array<std::byte, sizeof(Header) + sizeof(std::uint64_t)> reply_{};
    std::size_t reply_bytes_ = 0;

    std::atomic<unsigned> interrupts_{0};
    Fd interrupted_; // eventfd: readable while interrupts_ > 0
};

} // namespace flex::npu::vhost_user
