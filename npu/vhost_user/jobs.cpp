// The worker: takes chains from the rings in turn, and has the device run them.
#include <poll.h>
#include <unistd.h>

#include "npu/vhost_user/back_end.h"

namespace flex::npu::vhost_user {

using model::Copied;

namespace {

void signal(const std::shared_ptr<Fd>& event) {
    const std::uint64_t one = 1;
    if (event != nullptr) [[maybe_unused]]
        const ssize_t written = ::write(event->get(), &one, sizeof one);
}

/// Of a pipe or an event: whatever is there.
void drain(int fd) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof count);
}

/// Translations are interrupted for as long as a reset takes.
void wait_for_reset() { ::usleep(100); }

} // namespace

void BackEnd::work() {
    for (;;) {
        bool some = true;
        while (some) {
            some = false;
            for (std::uint32_t i = 0; i < kRings; ++i) some |= serve_ring(i);
        }
        {
            const Lock lock(mutex_);
            if (ends_) return;
        }
        wait_for_kicks();
    }
}

void BackEnd::wait_for_kicks() {
    std::vector<std::shared_ptr<Fd>> kicks; // held, so that nobody closes what is waited for
    std::vector<Queue*> kicked;
    std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}};
    {
        const Lock lock(mutex_);
        for (Queue& queue : queues_) {
            if (!queue.started || queue.broken || queue.kick == nullptr) continue;
            kicks.push_back(queue.kick);
            kicked.push_back(&queue);
            fds.push_back({queue.kick->get(), POLLIN, 0});
        }
    }
    if (poll(fds.data(), fds.size(), -1) < 0) return;
    for (std::size_t i = 0; i < fds.size(); ++i) {
        if ((fds[i].revents & POLLIN) != 0) {
            drain(fds[i].fd);
        } else if (fds[i].revents != 0 && i > 0) { // no event at all: it would be "ready" for ever
            const Lock lock(mutex_);
            kicked[i - 1]->broken = true;
        }
    }
}

/// One chain of a ring. False: there is none, or none may be taken.
bool BackEnd::serve_ring(std::uint32_t index) {
    Queue& queue = queues_[index];
    {
        const Lock lock(mutex_);
        if (ends_ || !usable_ || !queue.started || !queue.enabled || queue.broken) return false;
        busy_ = static_cast<int>(index);
    }
    const bool more = serve_chain(queue);
    const Lock lock(mutex_);
    busy_ = kNobody;
    changed_.notify_all();
    return more;
}

bool BackEnd::serve_chain(Queue& queue) {
    Chain chain;
    bool notify = false;
    Ring::Status status = queue.ring.next(translations_, chain);
    switch (status) {
    case Ring::Status::kEmpty:
        return false;
    case Ring::Status::kInterrupted:
        if (!queue.cancelled) wait_for_reset();
        return true;
    case Ring::Status::kChain:
        status = run_chain(queue, chain, notify);
        break;
    case Ring::Status::kBadChain:
        status = queue.ring.complete(translations_, chain.head, 0, notify);
        break;
    case Ring::Status::kBroken:
        break;
    }
    const Lock lock(mutex_);
    if (status == Ring::Status::kInterrupted) {
        queue.ring.put_back();
    } else if (status == Ring::Status::kBroken) {
        queue.broken = true;
        signal(queue.error);
    } else if (notify) {
        signal(queue.call);
    }
    return true;
}

/// kInterrupted: the ring is being stopped, and the chain was not completed.
Ring::Status BackEnd::run_chain(Queue& queue, const Chain& chain, bool& notify) {
    std::uint32_t written = 0;
    if (Chain::bytes_of(chain.out) >= sizeof(flex_npu_result)) {
        std::vector<std::byte> job;
        flex_npu_result result{};
        if (copy_job(queue, chain, job, result)) result = device_.run(job, &queue.cancelled);
        if (queue.cancelled) return Ring::Status::kInterrupted;
        if (write_result(queue, chain, result)) written = sizeof result;
    }
    for (;;) {
        if (queue.cancelled) return Ring::Status::kInterrupted;
        const Ring::Status status = queue.ring.complete(translations_, chain.head, written, notify);
        if (status != Ring::Status::kInterrupted) return status;
        wait_for_reset();
    }
}

bool BackEnd::copy_job(Queue& queue, const Chain& chain, std::vector<std::byte>& job,
                       flex_npu_result& failure) {
    const std::uint64_t bytes = Chain::bytes_of(chain.in);
    if (bytes > FLEX_NPU_JOB_BYTES) {
        failure.status = FLEX_NPU_BAD_JOB;
        return false;
    }
    job.resize(bytes);
    std::size_t at = 0;
    for (const Chain::Piece& piece : chain.in) {
        const Copied copied = copy_from_bus(translations_, piece.address, job.data() + at, piece.bytes);
        if (!copied.done()) {
            const bool refused = copied.status == Copied::Status::kRefused;
            failure.status = refused ? FLEX_NPU_FAULT : FLEX_NPU_ABORTED;
            failure.address = copied.address;
            return false;
        }
        at += piece.bytes;
    }
    return !queue.cancelled;
}

bool BackEnd::write_result(Queue& queue, const Chain& chain, const flex_npu_result& result) {
    const auto bytes = bytes_of(result);
    std::size_t at = 0;
    for (const Chain::Piece& piece : chain.out) {
        const std::size_t some = std::min<std::size_t>(piece.bytes, bytes.size() - at);
        Copied copied{Copied::Status::kInterrupted};
        while (!queue.cancelled) {
            copied = copy_to_bus(translations_, piece.address, bytes.data() + at, some);
            if (copied.status != Copied::Status::kInterrupted) break;
            wait_for_reset();
        }
        if (!copied.done()) return false;
        at += some;
    }
    return true;
}

} // namespace flex::npu::vhost_user
