// The NPU in Linux, through its driver (abi/npu_linux.h). Not part of the device's secure world.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "abi/npu_linux.h"
#include "npu/driver/npu.h"
#include "port/port.h"

namespace flex::npu {

/// Submitting waits in the driver, so a thread of its own does it. Places of map_slots() must adjoin in the
/// order of the slots (memory/kv_arena.h), because a mapping is one piece of the address space.
class LinuxNpu final : public Npu {
public:
    /// Errors: kUnsupported, kIo.
    static Result<std::unique_ptr<LinuxNpu>> create(port::Port& port);
    ~LinuxNpu() override;

    Result<std::span<std::byte>> allocate(std::size_t bytes) override;
    void free(std::span<std::byte> memory) override { port_.free({memory.data(), memory.size()}); }
    Result<Region> map(std::span<const std::byte> memory) override;
    Result<Region> map_slots(std::size_t slot_bytes, std::uint32_t slots) override;
    Status place(Region region, std::uint32_t slot, std::span<const std::byte> memory) override;
    void unmap(Region region) override;

    Status begin() override;
    [[nodiscard]] bool wanted_back() override { return false; } // the driver sees to that
    void end(bool) override {}
    Status submit(const Job& job) override;
    Result<flex_npu_result> wait() override;
    [[nodiscard]] Info info() const override { return info_; }
    [[nodiscard]] Counters counters() const override;

private:
    struct Mapping {
        std::uint32_t number = 0; // the driver's; 0: nothing mapped yet
        const std::byte* begin = nullptr;
        std::uint64_t bytes = 0;    // mapped
        std::uint64_t most = 0;     // of a region of slots
        std::size_t slot_bytes = 0; // 0: mapped as a whole
    };
    LinuxNpu(port::Port& port, int file) : port_(port), file_(file) {}
    Status map_range(Mapping& mapping, const std::byte* begin, std::uint64_t bytes);
    void unmap_number(std::uint32_t number);
    void work();
    Error drop(Error error);

    port::Port& port_;
    const int file_;
    Info info_;

    mutable std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    std::map<Region, Mapping> mappings_;
    std::uint32_t next_ = 0;
    std::uint64_t cookie_ = 0;
    std::deque<std::vector<std::byte>> jobs_;
    std::deque<Result<flex_npu_result>> results_;
    std::size_t under_way_ = 0;
    bool running_ = false, stop_ = false;
    Counters counters_;
    std::thread worker_;
};

} // namespace flex::npu
