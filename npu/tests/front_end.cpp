#include "npu/tests/front_end.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace flex::npu::vhost_user::testing {

namespace {

constexpr int kPatienceMs = 20'000; // longer than anything here takes on a loaded machine
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kDescriptors = 0, kAvailable = 0x1000, kUsed = 0x2000;

struct Descriptor {
    std::uint64_t address;
    std::uint32_t bytes;
    std::uint16_t flags, next;
};

std::pair<Fd, Fd> socket_pair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    return {Fd(fds[0]), Fd(fds[1])};
}

bool wait_for(int fd) {
    pollfd waiting{fd, POLLIN, 0};
    return poll(&waiting, 1, kPatienceMs) == 1;
}

} // namespace

FrontEnd::FrontEnd(const model::DeviceOptions& options) {
    auto [front, back] = socket_pair();
    main_ = Channel(std::move(front));
    back_end_ = std::make_unique<BackEnd>(std::move(back), *engine::select_kernels(), options);
    serving_ = std::thread([this] { back_end_->serve(); });

    memory_fd_ = Fd(memfd_create("npu-test", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(memory_fd_.get(), kMemoryBytes), 0);
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd_.get(), 0));
    map(kIova, kMemoryBytes, 0, kBoth);

    EXPECT_NE(ask<std::uint64_t>(Request::kGetFeatures) & kAccessPlatform, 0u);
    const std::uint64_t protocol = ask<std::uint64_t>(Request::kGetProtocolFeatures);
    {
        const std::lock_guard lock(main_mutex_); // acknowledgements come from here on
        main_.send(static_cast<std::uint32_t>(Request::kSetProtocolFeatures), 0, bytes_of(protocol));
    }
    EXPECT_EQ(ask<std::uint64_t>(Request::kGetQueueNumber), kRings);
    auto [misses_here, misses_there] = socket_pair();
    misses_ = Channel(std::move(misses_here));
    const int channel = misses_there.get();
    EXPECT_EQ(request(Request::kSetBackEndChannel, std::span<const std::byte>(), std::span(&channel, 1)), 0u);
    const std::uint64_t features = kVersion1 | kAccessPlatform | kHasProtocolFeatures;
    EXPECT_EQ(request(Request::kSetFeatures, features), 0u);
    MemoryTable table{1, 0, {{0x4000'0000, kMemoryBytes, kUserAddress, 0}}};
    const int fd = memory_fd_.get();
    EXPECT_EQ(
        request(Request::kSetMemoryTable, bytes_of(table).first(8 + sizeof(MemoryRegion)), std::span(&fd, 1)),
        0u);
    answering_ = std::thread([this] { answer_misses(); });
}

FrontEnd::~FrontEnd() {
    hang_up();
    answering_.join();
    munmap(memory_, kMemoryBytes);
}

void FrontEnd::hang_up() {
    silent = false;
    shutdown(main_.fd(), SHUT_RDWR);
    if (serving_.joinable()) serving_.join();
    back_end_.reset();
    shutdown(misses_.fd(), SHUT_RDWR);
}

std::uint64_t FrontEnd::request(Request request, std::span<const std::byte> payload,
                                std::span<const int> fds) {
    const std::lock_guard lock(main_mutex_);
    if (!main_.send(static_cast<std::uint32_t>(request), kNeedReply, payload, fds)) return ~std::uint64_t{0};
    Message message;
    std::uint64_t word = 0;
    if (!main_.receive(message) || !message.read(word)) return ~std::uint64_t{0};
    EXPECT_EQ(message.header.request, static_cast<std::uint32_t>(request));
    return word;
}

std::array<std::uint32_t, 3> FrontEnd::configuration() {
    struct Whole {
        Configuration header;
        std::array<std::uint32_t, 3> words;
    };
    const Whole question{{0, 12, 0}, {}};
    return ask<Whole>(Request::kGetConfiguration, bytes_of(question)).words;
}

void FrontEnd::configure(const std::array<std::uint32_t, 3>& words) {
    struct {
        Configuration header;
        std::array<std::uint32_t, 3> words;
    } const all{{0, 12, 0}, words};
    EXPECT_EQ(request(Request::kSetConfiguration, all), 0u);
}

std::uint32_t FrontEnd::read(std::uint32_t reg) {
    std::array<std::uint32_t, 3> words = configuration();
    words[0] = FLEX_NPU_ACCESS(++sequence_, reg);
    configure(words);
    return configuration()[2];
}

void FrontEnd::write(std::uint32_t reg, std::uint32_t value) {
    std::array<std::uint32_t, 3> words = configuration();
    words[1] = value;
    configure(words); // as QEMU does: every word that the guest writes hands in all of them
    words[0] = FLEX_NPU_ACCESS(++sequence_, reg) | FLEX_NPU_ACCESS_WRITE;
    configure(words);
}

void FrontEnd::map(std::uint64_t iova, std::uint64_t bytes, std::uint64_t offset, std::uint8_t permission) {
    const std::lock_guard lock(smmu_mutex_);
    for (std::uint64_t at = 0; at < bytes; at += kPage) pages_[iova + at] = {offset + at, permission};
}

void FrontEnd::unmap(std::uint64_t iova, std::uint64_t bytes) {
    {
        const std::lock_guard lock(smmu_mutex_);
        for (std::uint64_t at = 0; at < bytes; at += kPage) pages_.erase(iova + at);
    }
    invalidate(iova, bytes);
}

void FrontEnd::invalidate(std::uint64_t iova, std::uint64_t bytes) {
    EXPECT_EQ(request(Request::kIotlb, Iotlb{iova, bytes, 0, 0, IotlbType::kInvalidate, {}}), 0u);
}

void FrontEnd::before_update(Hook hook) {
    const std::lock_guard lock(smmu_mutex_);
    before_update_ = std::move(hook);
}

void FrontEnd::before_answer(Hook hook) {
    const std::lock_guard lock(smmu_mutex_);
    before_answer_ = std::move(hook);
}

void FrontEnd::call(const Hook& hook, std::uint64_t iova) {
    std::unique_lock lock(smmu_mutex_);
    const Hook copy = hook;
    lock.unlock();
    if (copy) copy(iova);
}

void FrontEnd::answer_misses() {
    Message message;
    while (misses_.receive(message)) {
        Iotlb question{};
        if (message.header.request != kBackEndIotlb || !message.read(question)) break;
        ++misses;
        while (silent) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        const std::uint64_t page = question.address / kPage * kPage;
        Page found{0, kNone};
        {
            const std::lock_guard lock(smmu_mutex_);
            if (const auto entry = pages_.find(page); entry != pages_.end()) found = entry->second;
        }
        std::uint64_t status = 1;
        if ((found.permission & question.permission) == question.permission) {
            call(before_update_, page);
            // Whatever was asked for, as QEMU: read and write.
            const Iotlb update{page, kPage, kUserAddress + found.offset, kBoth, IotlbType::kUpdate, {}};
            status = request(Request::kIotlb, update);
            call(before_answer_, page);
        }
        if (!misses_.send(kBackEndIotlb, kReply, bytes_of(status))) break;
    }
}

void FrontEnd::send_fd(Request which, std::uint32_t ring, int fd) {
    const std::uint64_t word = ring;
    EXPECT_EQ(request(which, bytes_of(word), std::span(&fd, 1)), 0u);
}

void FrontEnd::start_ring(std::uint32_t ring, std::uint16_t base) {
    const std::uint64_t at = ring_at(ring);
    kicks_[ring] = Fd(eventfd(0, EFD_CLOEXEC));
    calls_[ring] = Fd(eventfd(0, EFD_CLOEXEC));
    errors_[ring] = Fd(eventfd(0, EFD_CLOEXEC));
    EXPECT_EQ(request(Request::kSetRingNumber, RingState{ring, kRingSize}), 0u);
    EXPECT_EQ(request(Request::kSetRingBase, RingState{ring, base}), 0u);
    const RingAddress address{ring, 0, at + kDescriptors, at + kUsed, at + kAvailable, 0};
    EXPECT_EQ(request(Request::kSetRingAddress, address), 0u);
    send_fd(Request::kSetRingCall, ring, calls_[ring].get());
    send_fd(Request::kSetRingError, ring, errors_[ring].get());
    send_fd(Request::kSetRingKick, ring, kicks_[ring].get());
    EXPECT_EQ(request(Request::kSetRingEnable, RingState{ring, 1}), 0u);
}

std::uint32_t FrontEnd::stop_ring(std::uint32_t ring) {
    const auto state = ask<RingState>(Request::kGetRingBase, bytes_of(RingState{ring, 0}));
    EXPECT_EQ(state.index, ring);
    return state.number;
}

void FrontEnd::set_descriptor(std::uint32_t ring, std::uint16_t index, const Piece& piece,
                              std::uint16_t flags, std::uint16_t next) {
    at<Descriptor>(ring_at(ring) + kDescriptors)[index] = {piece.iova, piece.bytes, flags, next};
}

void FrontEnd::make_available(std::uint32_t ring, std::uint16_t head) {
    auto* const available = at<std::uint16_t>(ring_at(ring) + kAvailable); // flags, index, ring
    available[2 + available[1] % kRingSize] = head;
    __atomic_store_n(&available[1], static_cast<std::uint16_t>(available[1] + 1), __ATOMIC_RELEASE);
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(kicks_[ring].get(), &one, sizeof one), 8);
}

void FrontEnd::submit(std::uint32_t ring, const std::vector<Piece>& pieces, std::uint16_t first) {
    for (std::uint16_t i = 0; i < pieces.size(); ++i) {
        const bool last = i + 1u == pieces.size();
        const auto flags = static_cast<std::uint16_t>((pieces[i].write ? 2 : 0) | (last ? 0 : 1));
        set_descriptor(ring, first + i, pieces[i], flags, first + i + 1);
    }
    make_available(ring, first);
}

std::uint16_t FrontEnd::used(std::uint32_t ring) {
    return __atomic_load_n(&at<std::uint16_t>(ring_at(ring) + kUsed)[1], __ATOMIC_ACQUIRE);
}

std::uint32_t FrontEnd::wait_used(std::uint32_t ring, std::uint16_t count) {
    while (used(ring) != count) {
        std::uint64_t calls = 0;
        if (!wait_for(calls_[ring].get())) {
            ADD_FAILURE() << "no interrupt; " << used(ring) << " chains of " << count << " are back";
            return 0;
        }
        EXPECT_EQ(::read(calls_[ring].get(), &calls, sizeof calls), 8);
    }
    const std::uint16_t slot = static_cast<std::uint16_t>(count - 1) % kRingSize;
    return at<std::uint32_t>(ring_at(ring) + kUsed + 4)[2 * slot + 1];
}

bool FrontEnd::wait_error(std::uint32_t ring) { return wait_for(errors_[ring].get()); }

} // namespace flex::npu::vhost_user::testing
