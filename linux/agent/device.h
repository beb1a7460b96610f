// /dev/flexserve as an object: events, completions, the mapped slots.
#ifndef FLEX_LINUX_AGENT_DEVICE_H
#define FLEX_LINUX_AGENT_DEVICE_H

#include "linux/agent/handles.h"

#include "abi/rpc.h"
#include "flexserve/uapi.h"

#include <optional>
#include <string>

namespace flex::agent {

// Thread-safe. Members that return int return 0 or -errno.
class Device {
public:
    // Throws std::system_error when the driver is not there or has an agent already.
    explicit Device(const std::string& path);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    [[nodiscard]] flex_rpc_slot& slot(unsigned number) const { return slots_[number]; }
    // Blocks. Empty when a signal came.
    [[nodiscard]] std::optional<flexserve_event> next() const;
    int done(unsigned slot) const;
    // Reads the part of `file` that the slot asks for into protected frames and completes the slot.
    int load(unsigned slot, int file) const;
    // The program's number, counted from 1 since the driver was loaded.
    int start() const;
    int stop() const;

private:
    Descriptor descriptor_;
    flex_rpc_slot* slots_;
};

} // namespace flex::agent

#endif
