#include "npu/vhost_user/translations.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace flex::npu::vhost_user {

using model::Access;
using model::Window;

namespace {

/// A translation may be taken back before it was ever used; somebody who always does that gets no further
/// than this.
constexpr unsigned kTries = 1000;
/// In each cache. A machine with 4 GiB in pages of 4 KiB has as many.
constexpr std::size_t kEntriesMax = 1 << 20;

} // namespace

Translations::Translations() : interrupted_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

std::optional<Window> Translations::look_up(std::uint64_t address, std::uint64_t bytes, Access access) {
    Lock lock(mutex_);
    changed_.wait(lock, [&] { return changes_ == 0; });
    const Cache& cache = caches_[static_cast<std::size_t>(access)];
    auto entry = cache.upper_bound(address);
    if (entry == cache.begin()) return std::nullopt;
    --entry;
    if (address > entry->second.last) return std::nullopt;
    std::byte* const data = entry->second.data + (address - entry->first);
    std::uint64_t left = entry->second.last - address; // behind the first byte: this cannot overflow
    // What lies together here, too, is one window: memory that the SMMU has in pages is not slower for it.
    for (auto next = std::next(entry); left < bytes - 1 && next != cache.end(); ++next) {
        if (next->first != address + left + 1 || next->second.data != data + left + 1) break;
        left = next->second.last - address;
    }
    ++open_;
    return Window{Window::Status::kOpen, data, static_cast<std::size_t>(std::min(left, bytes - 1) + 1)};
}

Window Translations::open(std::uint64_t address, std::uint64_t bytes, Access access) {
    for (unsigned i = 0; i < kTries; ++i) {
        if (const auto window = look_up(address, bytes, access)) return *window;
        const Answer answer = miss(address, access);
        if (answer == Answer::kInterrupted) return {Window::Status::kInterrupted};
        if (answer == Answer::kRefused) break;
    }
    return {};
}

void Translations::close() {
    const Lock lock(mutex_);
    if (--open_ == 0 && changes_ > 0) changed_.notify_all();
}

/// change() while no window is open, and before another one opens.
template <class Change> void Translations::exclusively(const Change& change) {
    Lock lock(mutex_);
    ++changes_;
    changed_.wait(lock, [&] { return open_ == 0; });
    change();
    if (--changes_ == 0) changed_.notify_all();
}

void Translations::forget() {
    exclusively([&] {
        for (Cache& cache : caches_) cache.clear();
    });
}

bool Translations::set_memory(const Message& table) {
    bool good = false;
    exclusively([&] {
        for (Cache& cache : caches_) cache.clear();
        good = memory_.show(table);
    });
    return good;
}

void Translations::erase(Cache& cache, std::uint64_t first, std::uint64_t last) {
    auto entry = cache.upper_bound(first);
    if (entry != cache.begin() && std::prev(entry)->second.last >= first) --entry;
    while (entry != cache.end() && entry->first <= last) entry = cache.erase(entry);
}

bool Translations::update(const Iotlb& update) {
    const Lock lock(mutex_);
    if (update.size == 0 || update.address + (update.size - 1) < update.address) return false;
    std::byte* const data = memory_.find(update.user_address, update.size);
    if (data == nullptr) return false;
    if (!asked_ || outdated_) return true; // nobody wants it, or not this: the next access asks
    const std::uint8_t needed = *asked_ == Access::kRead ? 1 : 2;
    if ((update.permission & needed) == 0) return false;
    Cache& cache = caches_[static_cast<std::size_t>(*asked_)];
    const std::uint64_t last = update.address + (update.size - 1);
    if (cache.size() >= kEntriesMax) cache.clear();
    // What goes may be in use still: QEMU has not taken it back, and when it does invalidate() waits.
    erase(cache, update.address, last);
    cache[update.address] = {last, data};
    return true;
}

void Translations::invalidate(const Iotlb& range) {
    const bool all = range.size == 0 || range.address + (range.size - 1) < range.address;
    exclusively([&] {
        outdated_ = true;
        for (Cache& cache : caches_) {
            if (all)
                cache.clear();
            else
                erase(cache, range.address, range.address + (range.size - 1));
        }
    });
}

void Translations::set_channel(Fd fd) {
    interrupt(true);
    {
        const std::lock_guard lock(miss_mutex_);
        channel_ = std::make_unique<Channel>(std::move(fd));
        abandoned_ = 0;
        reply_bytes_ = 0;
    }
    interrupt(false);
}

void Translations::interrupt(bool on) {
    const Lock lock(mutex_); // the number and the event change together
    std::uint64_t count = 1;
    if (on && interrupts_++ == 0) [[maybe_unused]]
        const ssize_t written = ::write(interrupted_.get(), &count, sizeof count);
    if (!on && --interrupts_ == 0) [[maybe_unused]]
        const ssize_t got = ::read(interrupted_.get(), &count, sizeof count);
}

/// Asks QEMU. kGranted: the entry was in the cache when the answer came (it may be gone again).
Translations::Answer Translations::miss(std::uint64_t address, Access access) {
    const std::lock_guard turn(miss_mutex_);
    // Answers come in the order of the questions: one that nobody waits for any more must not be taken for
    // the next one's.
    for (; abandoned_ > 0; --abandoned_) {
        if (answer() == Answer::kInterrupted) return Answer::kInterrupted;
    }
    if (interrupts_ > 0) return Answer::kInterrupted;
    if (channel_ == nullptr) return Answer::kRefused;
    {
        const Lock lock(mutex_);
        asked_ = access;
        outdated_ = false;
    }
    const Iotlb question{address,          0, 0, static_cast<std::uint8_t>(access == Access::kRead ? 1 : 2),
                         IotlbType::kMiss, {}};
    Answer result = Answer::kRefused;
    if (channel_->send(kBackEndIotlb, kNeedReply, bytes_of(question))) {
        result = answer();
        if (result == Answer::kInterrupted) ++abandoned_;
    }
    const Lock lock(mutex_);
    asked_.reset();
    return result;
}

/// Of the oldest MISS. A channel that breaks refuses everything.
Translations::Answer Translations::answer() {
    while (reply_bytes_ < reply_.size()) {
        pollfd fds[2] = {{channel_->fd(), POLLIN, 0}, {interrupted_.get(), POLLIN, 0}};
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR) continue;
            return Answer::kRefused;
        }
        if (interrupts_ > 0) return Answer::kInterrupted;
        if (fds[0].revents == 0) continue;
        const ssize_t got =
            recv(channel_->fd(), reply_.data() + reply_bytes_, reply_.size() - reply_bytes_, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (got <= 0) return Answer::kRefused;
        reply_bytes_ += static_cast<std::size_t>(got);
    }
    reply_bytes_ = 0;
    Header header{};
    std::uint64_t status = 0;
    std::memcpy(&header, reply_.data(), sizeof header);
    std::memcpy(&status, reply_.data() + sizeof header, sizeof status);
    const bool good = header.request == kBackEndIotlb && (header.flags & kReply) != 0 && status == 0;
    return good ? Answer::kGranted : Answer::kRefused;
}

} // namespace flex::npu::vhost_user
