// QEMU's side of a vhost-user connection, as far as the NPU's back end needs one: memory, an SMMU that can be
// changed, and a driver's rings in that memory.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "npu/vhost_user/back_end.h"

namespace flex::npu::vhost_user::testing {

class FrontEnd {
public:
    static constexpr std::uint64_t kMemoryBytes = 8 << 20;
    static constexpr std::uint64_t kUserAddress = 0x7f00'0000'0000;
    /// IOVA of the first byte of memory, where nothing else is said.
    static constexpr std::uint64_t kIova = 0x1'0000'0000;
    static constexpr std::uint16_t kRingSize = 16;

    explicit FrontEnd(const model::DeviceOptions& options = {});
    ~FrontEnd();

    // ---- messages ----
    /// Sends a request and waits for its acknowledgement: what was answered (0: good).
    std::uint64_t request(Request request, std::span<const std::byte> payload, std::span<const int> fds = {});
    template <class T> std::uint64_t request(Request which, const T& payload, std::span<const int> fds = {}) {
        return request(which, bytes_of(payload), fds);
    }
    /// For requests that have an answer of their own.
    template <class T> T ask(Request request, std::span<const std::byte> payload = {}) {
        const std::lock_guard lock(main_mutex_);
        T out{};
        EXPECT_TRUE(main_.send(static_cast<std::uint32_t>(request), 0, payload));
        Message message;
        EXPECT_TRUE(main_.receive(message) && message.read(out));
        return out;
    }
    /// Closes the connection.
    void hang_up();

    // ---- configuration space ----
    std::array<std::uint32_t, 3> configuration();
    void configure(const std::array<std::uint32_t, 3>& words);
    std::uint32_t read(std::uint32_t reg);
    void write(std::uint32_t reg, std::uint32_t value);

    // ---- the SMMU: pages of 4 KiB ----
    enum Permission : std::uint8_t { kNone = 0, kReadOnly = 1, kWriteOnly = 2, kBoth = 3 };
    void map(std::uint64_t iova, std::uint64_t bytes, std::uint64_t offset, std::uint8_t permission);
    /// Changes the tables, then tells the device, as QEMU does when the guest invalidates.
    void unmap(std::uint64_t iova, std::uint64_t bytes);
    void invalidate(std::uint64_t iova, std::uint64_t bytes);
    std::atomic<unsigned> misses{0};
    std::atomic<bool> silent{false}; // leaves a MISS unanswered until it is false again
    /// Called between the translation of a MISS and its UPDATE, and between that and the answer.
    using Hook = std::function<void(std::uint64_t iova)>;
    void before_update(Hook hook);
    void before_answer(Hook hook);

    // ---- memory and rings ----
    [[nodiscard]] std::byte* memory() { return memory_; }
    template <class T> T* at(std::uint64_t iova) { return reinterpret_cast<T*>(memory_ + (iova - kIova)); }
    void start_ring(std::uint32_t ring, std::uint16_t base = 0);
    std::uint32_t stop_ring(std::uint32_t ring);
    struct Piece {
        std::uint64_t iova;
        std::uint32_t bytes;
        bool write;
    };
    /// Descriptors first .. first + n of a ring; makes the chain available, and kicks.
    void submit(std::uint32_t ring, const std::vector<Piece>& pieces, std::uint16_t first = 0);
    void set_descriptor(std::uint32_t ring, std::uint16_t index, const Piece& piece, std::uint16_t flags,
                        std::uint16_t next);
    void make_available(std::uint32_t ring, std::uint16_t head);
    /// Waits until the ring has given back `count` chains in all: the bytes written into the last one.
    std::uint32_t wait_used(std::uint32_t ring, std::uint16_t count);
    [[nodiscard]] std::uint16_t used(std::uint32_t ring);
    /// Whether the ring's error event comes.
    bool wait_error(std::uint32_t ring);

    /// Pages that the rings do not use.
    static constexpr std::uint64_t kFree = kIova + (1 << 20);

private:
    struct Page {
        std::uint64_t offset;
        std::uint8_t permission;
    };
    static std::uint64_t ring_at(std::uint32_t ring) { return kIova + ring * 0x4000; }
    void answer_misses();
    void call(const Hook& hook, std::uint64_t iova);
    void send_fd(Request request, std::uint32_t ring, int fd);

    Channel main_{Fd()};
    std::mutex main_mutex_;
    Channel misses_{Fd()};
    Fd memory_fd_;
    std::byte* memory_ = nullptr;
    std::mutex smmu_mutex_;
    std::map<std::uint64_t, Page> pages_;
    Hook before_update_, before_answer_; // guarded by smmu_mutex_, too
    std::array<Fd, kRings> kicks_, calls_, errors_;
    std::uint32_t sequence_ = 0;
    std::unique_ptr<BackEnd> back_end_;
    std::thread serving_, answering_;
};

} // namespace flex::npu::vhost_user::testing
