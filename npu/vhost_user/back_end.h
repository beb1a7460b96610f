// The device's side of a vhost-user connection: QEMU's messages on one thread, jobs from the rings on
// another.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "npu/model/device.h"
#include "npu/vhost_user/ring.h"
#include "npu/vhost_user/translations.h"

namespace flex::npu::vhost_user {

inline constexpr std::uint32_t kRings = 4;

class BackEnd {
public:
    /// `socket`: connected to QEMU.
    BackEnd(Fd socket, const engine::Kernels& kernels, const model::DeviceOptions& options);
    ~BackEnd();
    BackEnd(const BackEnd&) = delete;
    BackEnd& operator=(const BackEnd&) = delete;

    /// Serves until QEMU closes the connection, or sends what is no message.
    void serve();

    [[nodiscard]] model::Device& device() { return device_; }

private:
    /// What the two threads share of a ring is guarded by mutex_; the Ring itself is the worker's while it is
    /// `busy_`.
    struct Queue {
        Ring ring;
        std::shared_ptr<Fd> kick, call, error;
        bool started = false, enabled = false, broken = false;
        std::atomic<bool> cancelled{false}; // being stopped: what runs must not be completed
    };
    using Lock = std::unique_lock<std::mutex>;
    static constexpr int kNobody = -1;

    // Messages. False: the payload is not what the request has.
    bool handle(Message& message);
    bool handle_feature(const Message& message);
    bool handle_ring(Message& message);
    bool handle_ring_fd(Message& message);
    bool handle_iotlb(const Message& message);
    bool get_configuration(const Message& message);
    bool set_configuration(const Message& message);
    bool get_ring_base(const Message& message);
    [[nodiscard]] bool is_started(std::uint32_t index);
    void stop_ring(std::uint32_t index);
    bool reply(const Message& message, std::span<const std::byte> payload);
    bool reply_word(const Message& message, std::uint64_t word);
    void wake();

    // Jobs.
    void work();
    void wait_for_kicks();
    bool serve_ring(std::uint32_t index);
    bool serve_chain(Queue& queue);
    Ring::Status run_chain(Queue& queue, const Chain& chain, bool& notify);
    bool copy_job(Queue& queue, const Chain& chain, std::vector<std::byte>& job, flex_npu_result& failure);
    bool write_result(Queue& queue, const Chain& chain, const flex_npu_result& result);

    Channel channel_;
    Translations translations_;
    model::Device device_;

    std::uint64_t features_ = 0, protocol_features_ = 0; // agreed on; the serving thread's alone

    std::mutex mutex_;
    std::condition_variable changed_;
    std::array<Queue, kRings> queues_;
    bool usable_ = false; // the features that rings need are agreed on
    int busy_ = kNobody;  // ring that the worker has taken
    bool ends_ = false;

    Fd wake_; // eventfd: the worker is to look again
    std::thread worker_;
};

} // namespace flex::npu::vhost_user
