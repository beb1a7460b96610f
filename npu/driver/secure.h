// The NPU of the device's secure world: held for as long as it is used and nobody else wants it.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "npu/driver/npu.h"
#include "npu/driver/queue.h"
#include "npu/driver/region.h"
#include "port/port.h"

namespace flex::npu {

/// Flex-Mem, as the NPU's stream sees it.
class PortBus final : public Bus {
public:
    explicit PortBus(port::Port& port) : port_(port) {}
    Result<std::span<std::byte>> allocate(std::size_t bytes) override;
    void free(std::span<std::byte> memory) override { port_.free({memory.data(), memory.size()}); }
    Status addresses(const std::byte* from, std::span<std::uint64_t> pages) override {
        return port_.bus_addresses(from, pages);
    }

private:
    port::Port& port_;
};

class SecureNpu final : public Npu {
public:
    struct Options {
        std::chrono::milliseconds patience{100};     ///< that the normal world has to end its jobs
        std::chrono::milliseconds keep{1000};        ///< without a pass, before it goes back
        std::chrono::milliseconds job_limit{20'000}; ///< then a job counts as lost
        /// Tests put something else in the place of the mapped BAR.
        std::function<std::unique_ptr<Registers>(const flex_npu_grant&)> registers{};
    };
    /// `port` must outlive it. Errors: kOutOfMemory, kIo.
    static Result<std::unique_ptr<SecureNpu>> create(port::Port& port, Options options);
    ~SecureNpu() override;

    Result<std::span<std::byte>> allocate(std::size_t bytes) override { return bus_.allocate(bytes); }
    void free(std::span<std::byte> memory) override { bus_.free(memory); }
    Result<Region> map(std::span<const std::byte> memory) override { return regions_.map(memory); }
    Result<Region> map_slots(std::size_t slot_bytes, std::uint32_t slots) override {
        return regions_.map_slots(slot_bytes, slots);
    }
    Status place(Region region, std::uint32_t slot, std::span<const std::byte> memory) override {
        return regions_.place(region, slot, memory);
    }
    void unmap(Region region) override { regions_.unmap(region); }

    Status begin() override;
    [[nodiscard]] bool wanted_back() override;
    void end(bool give_back) override;
    Status submit(const Job& job) override;
    Result<flex_npu_result> wait() override;
    [[nodiscard]] Info info() const override { return info_.value_or(Info{}); }
    [[nodiscard]] Counters counters() const override;

private:
    using Clock = std::chrono::steady_clock;
    SecureNpu(port::Port& port, Options options);
    Status acquire();
    Status identify();
    void release();
    Status refresh_addresses(std::uint32_t moves);
    Error give_up(const Error& why);
    void keep();

    port::Port& port_;
    const Options options_;
    PortBus bus_;
    Regions regions_;
    std::span<std::byte> memory_; // of device_
    std::array<std::uint64_t, Device::kPages> pages_{};
    std::uint32_t moves_ = 0;  // flex_npu_grant::moves that pages_ and regions_ are of
    std::optional<Info> info_; // once it was held
    std::uint64_t cookie_ = 0;
    bool wanted_ = false; // the normal world was heard to want it

    mutable std::mutex mutex_; // guards what follows; the thread that computes has device_ while in_use_
    std::condition_variable changed_;
    std::unique_ptr<Registers> registers_;
    std::optional<Device> device_; // while it is held
    bool in_use_ = false;          // between begin() and end()
    bool keeper_sleeps_ = false;
    bool stop_ = false;
    Clock::time_point last_use_;
    Counters counters_;
    std::thread keeper_; // gives it back when nobody computes
};

} // namespace flex::npu
