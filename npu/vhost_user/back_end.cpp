// Messages of the connection. What jobs do is in jobs.cpp.
#include "npu/vhost_user/back_end.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace flex::npu::vhost_user {

namespace {

constexpr std::uint64_t kNeeded = kVersion1 | kAccessPlatform; // an NPU past the SMMU is none
constexpr std::uint64_t kOffered = kNeeded | kHasProtocolFeatures;
constexpr std::uint64_t kProtocolOffered =
    kProtocolMultiqueue | kProtocolReplyAck | kProtocolBackEndChannel | kProtocolConfiguration;

bool has_own_reply(Request request) {
    switch (request) {
    case Request::kGetFeatures:
    case Request::kGetProtocolFeatures:
    case Request::kGetQueueNumber:
    case Request::kGetRingBase:
    case Request::kGetConfiguration:
        return true;
    default:
        return false;
    }
}

} // namespace

BackEnd::BackEnd(Fd socket, const engine::Kernels& kernels, const model::DeviceOptions& options)
    : channel_(std::move(socket)), device_(translations_, kernels, options),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), worker_([this] { work(); }) {}

BackEnd::~BackEnd() {
    {
        const Lock lock(mutex_);
        ends_ = true;
        for (Queue& queue : queues_) queue.cancelled = true;
    }
    translations_.interrupt(true); // for good
    device_.abort();
    wake();
    worker_.join();
}

void BackEnd::wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

void BackEnd::serve() {
    Message message;
    while (channel_.receive(message)) {
        const auto request = static_cast<Request>(message.header.request);
        const bool good = handle(message);
        if (!good) {
            std::fprintf(stderr, "flexserve-npu: request %u of %u bytes refused\n", message.header.request,
                         message.header.size);
            if (has_own_reply(request)) return; // there is no reply that says so
        }
        const bool acknowledge = (message.header.flags & kNeedReply) != 0 &&
                                 (protocol_features_ & kProtocolReplyAck) != 0 && !has_own_reply(request);
        if (acknowledge && !reply_word(message, good ? 0 : 1)) return;
    }
}

bool BackEnd::reply(const Message& message, std::span<const std::byte> payload) {
    return channel_.send(message.header.request, kReply, payload);
}

bool BackEnd::reply_word(const Message& message, std::uint64_t word) {
    return reply(message, bytes_of(word));
}

bool BackEnd::handle(Message& message) {
    switch (static_cast<Request>(message.header.request)) {
    case Request::kSetOwner:
    case Request::kResetOwner:
        return true;
    case Request::kGetFeatures:
    case Request::kSetFeatures:
    case Request::kGetProtocolFeatures:
    case Request::kSetProtocolFeatures:
    case Request::kGetQueueNumber:
        return handle_feature(message);
    case Request::kSetMemoryTable:
        return translations_.set_memory(message);
    case Request::kSetBackEndChannel:
        if (message.fds.size() != 1) return false;
        translations_.set_channel(std::move(message.fds[0]));
        return true;
    case Request::kIotlb:
        return handle_iotlb(message);
    case Request::kGetConfiguration:
        return get_configuration(message);
    case Request::kSetConfiguration:
        return set_configuration(message);
    case Request::kGetRingBase:
        return get_ring_base(message);
    case Request::kSetRingKick:
    case Request::kSetRingCall:
    case Request::kSetRingError:
        return handle_ring_fd(message);
    case Request::kSetRingNumber:
    case Request::kSetRingAddress:
    case Request::kSetRingBase:
    case Request::kSetRingEnable:
        return handle_ring(message);
    default:
        return false;
    }
}

bool BackEnd::handle_feature(const Message& message) {
    std::uint64_t word = 0;
    switch (static_cast<Request>(message.header.request)) {
    case Request::kGetFeatures:
        return reply_word(message, kOffered);
    case Request::kGetProtocolFeatures:
        return reply_word(message, kProtocolOffered);
    case Request::kGetQueueNumber:
        return reply_word(message, kRings);
    case Request::kSetFeatures: {
        if (!message.read(word) || (word & ~kOffered) != 0) return false;
        features_ = word;
        const Lock lock(mutex_);
        usable_ = (word & kNeeded) == kNeeded;
        return true;
    }
    default: // kSetProtocolFeatures
        if (!message.read(word) || (word & ~kProtocolOffered) != 0) return false;
        protocol_features_ = word;
        return true;
    }
}

bool BackEnd::handle_iotlb(const Message& message) {
    Iotlb entry{};
    if (!message.read(entry)) return false;
    switch (entry.type) {
    case IotlbType::kUpdate:
        return translations_.update(entry);
    case IotlbType::kInvalidate:
        translations_.invalidate(entry);
        return true;
    default:
        return false;
    }
}

bool BackEnd::get_configuration(const Message& message) {
    struct {
        Configuration header;
        std::array<std::byte, kConfigurationMax> bytes;
    } answer{};
    if (message.header.size < sizeof answer.header) return false;
    std::memcpy(&answer.header, message.payload.data(), sizeof answer.header);
    const std::uint32_t size = answer.header.size;
    if (size > kConfigurationMax || message.header.size != sizeof answer.header + size) return false;
    device_.read_configuration(answer.header.offset, std::span(answer.bytes).first(size));
    return reply(message, bytes_of(answer).first(sizeof answer.header + size));
}

bool BackEnd::set_configuration(const Message& message) {
    Configuration header{};
    if (message.header.size < sizeof header) return false;
    std::memcpy(&header, message.payload.data(), sizeof header);
    if (message.header.size - sizeof header != header.size) return false;
    device_.write_configuration(header.offset,
                                std::span(message.payload).subspan(sizeof header, header.size));
    return true;
}

bool BackEnd::is_started(std::uint32_t index) {
    const Lock lock(mutex_);
    return queues_[index].started;
}

/// Where a ring lies changes only while it stands. QEMU starts rings one by one; when the SMMU refuses one, it forgets to
/// stop those before it, and sets all of them up anew later.
bool BackEnd::handle_ring(Message& message) {
    RingAddress address{};
    RingState state{};
    const auto request = static_cast<Request>(message.header.request);
    if (request == Request::kSetRingAddress ? !message.read(address) : !message.read(state)) return false;
    const std::uint32_t index = request == Request::kSetRingAddress ? address.index : state.index;
    if (index >= kRings) return false;
    if (request != Request::kSetRingEnable && is_started(index)) stop_ring(index);
    const Lock lock(mutex_);
    Queue& queue = queues_[index];
    if (request == Request::kSetRingEnable) {
        queue.enabled = state.number == 1;
        wake();
        return state.number <= 1;
    }
    switch (request) {
    case Request::kSetRingNumber:
        return queue.ring.set_number(state.number);
    case Request::kSetRingBase:
        queue.ring.set_base(static_cast<std::uint16_t>(state.number));
        return state.number <= 0xffff;
    default:
        return queue.ring.set_address(address);
    }
}

bool BackEnd::handle_ring_fd(Message& message) {
    std::uint64_t word = 0;
    if (!message.read(word) || (word & kRingIndexMask) >= kRings) return false;
    const bool without = (word & kRingWithoutFd) != 0;
    if (message.fds.size() != (without ? 0 : 1)) return false;
    auto fd = without ? nullptr : std::make_shared<Fd>(std::move(message.fds[0]));
    const Lock lock(mutex_);
    Queue& queue = queues_[word & kRingIndexMask];
    switch (static_cast<Request>(message.header.request)) {
    case Request::kSetRingCall:
        queue.call = std::move(fd);
        return true;
    case Request::kSetRingError:
        queue.error = std::move(fd);
        return true;
    default: // kSetRingKick: the ring starts. One that has no such descriptor would have to be watched all
             // the time.
        if (without) return false;
        queue.kick = std::move(fd);
        queue.started = true;
        queue.broken = false;
        queue.cancelled = false;
        wake();
        return true;
    }
}

/// When this returns, the device does not touch memory for the sake of this ring any more. A job that was
/// stopped half-way is counted as not yet taken, so that a machine that was only paused goes on with it.
void BackEnd::stop_ring(std::uint32_t index) {
    Lock lock(mutex_);
    Queue& queue = queues_[index];
    queue.started = false;
    queue.cancelled = true;
    const auto left = [&] { return busy_ != static_cast<int>(index); };
    if (!left()) {
        lock.unlock();
        translations_.interrupt(true);
        device_.abort();
        lock.lock();
        changed_.wait(lock, left);
        translations_.interrupt(false);
    }
    queue.kick.reset();
    const bool last = std::ranges::none_of(queues_, [](const Queue& q) { return q.started; });
    lock.unlock();
    if (last) device_.reset();
}

bool BackEnd::get_ring_base(const Message& message) {
    RingState state{};
    if (!message.read(state) || state.index >= kRings) return false;
    stop_ring(state.index);
    state.number = queues_[state.index].ring.base();
    return reply(message, bytes_of(state));
}

} // namespace flex::npu::vhost_user
