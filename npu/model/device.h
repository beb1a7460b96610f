// The NPU: registers, SRAM, and what runs jobs (abi/npu.h, docs/npu.md). Whoever carries it (a vhost-user
// process, or a test) gives it a bus and jobs.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>

#include "engine/kernels/kernels.h"
#include "engine/thread_pool.h"
#include "npu/model/bus_memory.h"
#include "npu/model/job.h"
#include "npu/model/sram.h"

namespace flex::npu::model {

/// How fast the device pretends to be. 0: as fast as it can.
struct PerformanceModel {
    std::uint32_t mac_per_us = 0;   ///< int8 and f32 alike; a TOPS is 500 000 of them
    std::uint32_t bytes_per_us = 0; ///< between memory and SRAM; a GB/s is 1 000 of them
    std::uint32_t launch_ns = 0;    ///< of a job

    /// Nanoseconds that a command takes, or 0 when neither figure is given: then it takes what it takes.
    [[nodiscard]] std::uint64_t command_ns(std::uint64_t macs, std::uint64_t bytes) const;
    [[nodiscard]] bool limits_commands() const { return mac_per_us != 0 || bytes_per_us != 0; }
};

struct DeviceOptions {
    unsigned cores = 2; ///< threads, 1..64
    PerformanceModel performance{};
};

/// Thread-safe. Runs one job at a time.
class Device {
public:
    /// `memory` and `kernels` (engine::select_kernels()) must outlive the device.
    Device(BusMemory& memory, const engine::Kernels& kernels, const DeviceOptions& options = {});
    ~Device() { reset(); }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    /// Ends when the job has ended; its failures are in the result. `job` is read once. A job that is
    /// `cancelled` does not begin; one that has begun is stopped by abort().
    flex_npu_result run(std::span<const std::byte> job, const std::atomic<bool>* cancelled = nullptr);
    /// Stops the job that runs (FLEX_NPU_ABORTED), if one does, and leaves the rest as it is.
    void abort();
    /// As after power-on: also forgets translations. When it returns nothing of the past is left.
    void reset();

    /// enum flex_npu_register. Registers that do not exist read as 0. While a job runs the SRAM window reads
    /// as 0.
    std::uint32_t read(std::uint32_t reg);
    void write(std::uint32_t reg, std::uint32_t value);

    /// enum flex_npu_configuration: what is outside, or cut off, reads as 0 and is not written.
    void read_configuration(std::uint32_t offset, std::span<std::byte> out);
    void write_configuration(std::uint32_t offset, std::span<const std::byte> in);

private:
    using Lock = std::unique_lock<std::mutex>;
    struct Registers {
        std::uint32_t power = 1, jobs = 0, faults = 0, sram_address = 0;
        std::uint64_t cycles = 0;
        std::array<std::uint32_t, FLEX_NPU_SCRATCH_REGISTERS> scratch{};
    };

    Outcome execute(Job& job, flex_npu_result& result);
    void pause(std::uint64_t nanoseconds);
    void restart(); // reset() without the configuration words
    /// Stops the job and calls `then` while none can begin.
    template <class Then> void halt(const Then& then);
    std::uint32_t read_locked(std::uint32_t reg);
    std::uint32_t sram_word();

    BusMemory& memory_;
    const engine::Kernels& kernels_;
    const DeviceOptions options_;
    engine::ThreadPool cores_;
    Sram sram_;

    std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    bool running_ = false;
    unsigned halts_ = 0;            // under way: no job begins
    std::atomic<bool> stop_{false}; // set with the mutex, looked at without
    Registers registers_;

    std::mutex access_mutex_; // guards the configuration words: an access is one step
    std::array<std::uint32_t, 3> configuration_{};
};

} // namespace flex::npu::model
