// An NPU as the engine sees it: memory it can reach, and jobs that end in the order they were given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "abi/npu.h"
#include "base/result.h"
#include "npu/job/job.h"

namespace flex::npu {

/// What the NPU says of its speed; 0: it does not say.
struct Info {
    std::uint32_t sram_bytes = 0, cores = 0;
    std::uint32_t mac_per_us = 0;   ///< int8 multiplications
    std::uint32_t bytes_per_us = 0; ///< between memory and SRAM
    std::uint32_t launch_ns = 0;    ///< that a job takes besides
};

/// Summed since the start. Nanoseconds of wall time.
struct Counters {
    std::uint64_t jobs = 0;       ///< ended well
    std::uint64_t failures = 0;   ///< jobs that did not
    std::uint64_t switches = 0;   ///< times it was taken from the normal world
    std::uint64_t acquire_ns = 0; ///< in taking it
    std::uint64_t release_ns = 0; ///< in giving it back
    std::uint64_t busy_ns = 0;    ///< that jobs took by the NPU's own count
};

/// Jobs that may be under way: one runs, one waits.
inline constexpr std::size_t kJobsInFlight = 2;

/// Memory may be mapped, unmapped and counted from any thread. The rest belongs to the thread that computes,
/// between begin() and end().
class Npu {
public:
    virtual ~Npu() = default;

    /// Zeroed memory, 4 KiB aligned, that can be mapped. Error: kOutOfMemory.
    virtual Result<std::span<std::byte>> allocate(std::size_t bytes) = 0;
    virtual void free(std::span<std::byte> memory) = 0;

    /// A region over `memory`: whole pages of 4 KiB, which stay until unmap(). Errors: kOutOfMemory,
    /// kInvalidArgument (more than a region holds).
    virtual Result<Region> map(std::span<const std::byte> memory) = 0;
    /// A region of `slots` places of `slot_bytes` (whole pages), empty at first. Errors: as map().
    virtual Result<Region> map_slots(std::size_t slot_bytes, std::uint32_t slots) = 0;
    /// Puts `memory` (slot_bytes) in the place of what was in the slot. No job under way may use the slot.
    /// Errors: kOutOfMemory, kInvalidArgument.
    virtual Status place(Region region, std::uint32_t slot, std::span<const std::byte> memory) = 0;
    /// No job under way may use the region.
    virtual void unmap(Region region) = 0;

    /// Makes sure of the NPU for a pass. Errors: kBusy (the normal world does not give it now), kUnsupported
    /// (there is none), kIo (it does not answer as it should).
    virtual Status begin() = 0;
    /// The normal world wants it: finish what is under way, then end(true).
    [[nodiscard]] virtual bool wanted_back() = 0;
    /// The pass is over, and no job under way. It may be kept for the next pass, unless `give_back`.
    virtual void end(bool give_back) = 0;

    /// At most kJobsInFlight at a time. Errors: kInvalidArgument (Job::ok() is false), kIo.
    virtual Status submit(const Job& job) = 0;
    /// The result of the job that was submitted first of those under way, when it ended well. Error: kIo.
    virtual Result<flex_npu_result> wait() = 0;
    // After an error of submit() or wait() no job is under way, nor will one touch memory any more.

    /// After begin().
    [[nodiscard]] virtual Info info() const = 0;
    [[nodiscard]] virtual Counters counters() const = 0;
};

} // namespace flex::npu
