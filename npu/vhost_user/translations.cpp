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
/// Asked for together: some 2 ms of QEMU's time, after which others (a MISS for writing) have their turn.
constexpr std::size_t kAhead = 64;

} // namespace

Translations::Translations() : interrupted_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

/// The entry that holds the address, or the end.
Translations::Cache::const_iterator Translations::find(const Cache& cache, std::uint64_t address) {
    auto entry = cache.upper_bound(address);
    if (entry == cache.begin()) return cache.end();
    --entry;
    return address <= entry->second.last ? entry : cache.end();
}

Translations::Inside& Translations::place_of_this_thread() {
    static std::atomic<std::size_t> threads{0};
    thread_local const std::size_t mine = threads.fetch_add(1);
    return inside_[mine % kPlaces];
}

bool Translations::somebody_inside() const {
    return std::ranges::any_of(inside_, [](const Inside& one) { return one.count.load() != 0; });
}

/// Either exclusively() sees that we are inside, or we see that it wants to be alone.
void Translations::enter() {
    std::atomic<unsigned>& here = place_of_this_thread().count;
    for (;;) {
        here.fetch_add(1);
        if (changes_.load() == 0) return;
        leave();
        Lock lock(mutex_);
        changed_.wait(lock, [&] { return changes_.load() == 0; });
    }
}

void Translations::leave() {
    place_of_this_thread().count.fetch_sub(1);
    if (changes_.load() == 0) return;
    { const Lock lock(mutex_); } // whoever waits has looked before we left, or waits already
    changed_.notify_all();
}

/// Stays inside when there is one: until close().
std::optional<Window> Translations::look_up(std::uint64_t address, std::uint64_t bytes, Access access) {
    enter();
    const Cache& cache = caches_[static_cast<std::size_t>(access)];
    const auto entry = find(cache, address);
    if (entry == cache.end()) {
        leave();
        return std::nullopt;
    }
    std::byte* const data = entry->second.data + (address - entry->first);
    std::uint64_t left = entry->second.last - address; // behind the first byte: this cannot overflow
    // What lies together here, too, is one window: memory that the SMMU has in pages is not slower for it.
    for (auto next = std::next(entry); left < bytes - 1 && next != cache.end(); ++next) {
        if (next->first != address + left + 1 || next->second.data != data + left + 1) break;
        left = next->second.last - address;
    }
    return Window{Window::Status::kOpen, data, static_cast<std::size_t>(std::min(left, bytes - 1) + 1)};
}

Window Translations::open_window(std::uint64_t address, std::uint64_t bytes, Access access,
                                 const model::Ahead* ahead) {
    for (unsigned i = 0; i < kTries; ++i) {
        if (const auto window = look_up(address, bytes, access)) return *window;
        const Answer answer = miss(address, access, i == 0 ? ahead : nullptr);
        if (answer == Answer::kInterrupted) return {Window::Status::kInterrupted};
        if (answer == Answer::kRefused) break;
    }
    return {};
}

void Translations::close() { leave(); }

/// change() while no window is open, and before another one opens.
template <class Change> void Translations::exclusively(const Change& change) {
    Lock lock(mutex_);
    changes_.fetch_add(1);
    changed_.wait(lock, [&] { return !somebody_inside(); });
    change();
    if (changes_.fetch_sub(1) == 1) changed_.notify_all();
}

void Translations::forget() {
    exclusively([&] {
        outdated_ = true;
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
    if (update.size == 0 || update.address + (update.size - 1) < update.address) return false;
    bool good = false;
    exclusively([&] { good = take(update); });
    return good;
}

bool Translations::take(const Iotlb& update) {
    std::byte* const data = memory_.find(update.user_address, update.size);
    if (data == nullptr) return false;
    const std::uint64_t last = update.address + (update.size - 1);
    const bool wanted =
        std::ranges::any_of(asked_, [&](std::uint64_t a) { return a >= update.address && a <= last; });
    if (!wanted || outdated_) return true; // nobody wants it, or not this: the next access asks
    const std::uint8_t needed = asked_for_ == Access::kRead ? 1 : 2;
    if ((update.permission & needed) == 0) return false;
    Cache& cache = caches_[static_cast<std::size_t>(asked_for_)];
    if (cache.size() >= kEntriesMax) cache.clear();
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

/// Takes out of `addresses` those that need not be asked for: how many are left.
std::size_t Translations::remove_known(std::span<std::uint64_t> addresses, Access access) {
    const Lock lock(mutex_);
    const Cache& cache = caches_[static_cast<std::size_t>(access)];
    const auto known =
        std::ranges::remove_if(addresses, [&](std::uint64_t a) { return find(cache, a) != cache.end(); });
    return addresses.size() - known.size();
}

/// Makes QEMU fill the cache. kGranted: the entry was there when the answer came (it may be gone again).
Translations::Answer Translations::miss(std::uint64_t address, Access access, const model::Ahead* ahead) {
    const std::lock_guard turn(miss_mutex_);
    // Answers come in the order of the questions: one that nobody waits for any more must not be taken for
    // the next one's.
    for (; abandoned_ > 0; --abandoned_) {
        if (answer() == Answer::kInterrupted) return Answer::kInterrupted;
    }
    if (interrupts_ > 0) return Answer::kInterrupted;
    if (channel_ == nullptr) return Answer::kRefused;
    if (remove_known(std::span(&address, 1), access) == 0) return Answer::kGranted; // another core has asked
    const Answer result = ask(std::span(&address, 1), access);
    if (result != Answer::kGranted || ahead == nullptr) return result;

    std::array<std::uint64_t, kAhead> next;
    const std::size_t pages = ahead->pages(next);
    const std::size_t unknown = remove_known(std::span(next).first(pages), access);
    if (unknown > 0) (void)ask(std::span(next).first(unknown), access);
    return result;
}

/// Sends a MISS for each of `addresses` (at least one), then waits for the answers: what was said to the
/// first.
Translations::Answer Translations::ask(std::span<const std::uint64_t> addresses, Access access) {
    {
        const Lock lock(mutex_);
        asked_ = addresses;
        asked_for_ = access;
        outdated_ = false;
    }
    std::size_t sent = 0;
    for (const std::uint64_t address : addresses) {
        const auto permission = static_cast<std::uint8_t>(access == Access::kRead ? 1 : 2);
        const Iotlb question{address, 0, 0, permission, IotlbType::kMiss, {}};
        if (!channel_->send(kBackEndIotlb, kNeedReply, bytes_of(question))) break;
        ++sent;
    }
    Answer first = Answer::kRefused;
    for (std::size_t i = 0; i < sent; ++i) {
        const Answer one = answer();
        if (i == 0) first = one;
        if (one != Answer::kInterrupted) continue;
        abandoned_ += sent - i;
        break;
    }
    const Lock lock(mutex_);
    asked_ = {};
    return first;
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
