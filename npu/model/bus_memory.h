// What the device sees of the machine's memory: bus addresses, which somebody else (an SMMU, or a test)
// grants or refuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace flex::npu::model {

enum class Access : std::uint8_t { kRead, kWrite };

/// A piece of memory that may be accessed until it is closed.
struct Window {
    enum class Status : std::uint8_t { kOpen, kRefused, kInterrupted };
    Status status = Status::kRefused;
    std::byte* data = nullptr; ///< of the address asked for
    std::size_t bytes = 0;     ///< at least 1 when open, at most what was asked for
};

/// What will be accessed next, in the same way as what is asked for now.
class Ahead {
public:
    virtual ~Ahead() = default;
    /// Bus addresses of pages of 4 KiB in the order of their use, from the beginning of `out`: how many.
    virtual std::size_t pages(std::span<std::uint64_t> out) const = 0;
};

/// Thread-safe. A thread has at most one window open at a time, and closes it soon (a few ten microseconds):
/// whoever takes a grant back waits until it is closed.
class BusMemory {
public:
    virtual ~BusMemory() = default;

    /// The window begins at `address` and ends at the latest `bytes` (at least 1) behind it; how much of that
    /// is granted beyond the first byte is not looked at any further than costs nothing. close() must follow
    /// exactly when it is open. A bus that has to ask somebody may ask for what comes next as well: `ahead`
    /// (may be null) changes nothing but the time that later windows take.
    Window open(std::uint64_t address, std::uint64_t bytes, Access access, const Ahead* ahead = nullptr) {
        return open_window(address, bytes, access, ahead);
    }
    virtual void close() = 0;

    /// From now on (true) an open() that would have to wait returns kInterrupted instead, those that wait now
    /// included; until this is taken back (false). Calls nest.
    virtual void interrupt(bool /*on*/) {}
    /// Translations that were looked up before are not used again.
    virtual void forget() {}

private:
    virtual Window open_window(std::uint64_t address, std::uint64_t bytes, Access access,
                               const Ahead* ahead) = 0;
};

} // namespace flex::npu::model
