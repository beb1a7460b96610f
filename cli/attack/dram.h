// The machine's DRAM as the host sees it: everything, whatever the guest may reach. It shows that a secret which the normal world
// looked for in vain is really there, and that after a reset it is nowhere.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "launcher/file_descriptor.h"

namespace flex::attack {

class Dram {
public:
    /// The DRAM of the QEMU process `pid`. Throws platform::DeviceError.
    explicit Dram(pid_t pid);

    /// Offsets from the start of DRAM where `pattern` begins, `limit` at most. The guest runs meanwhile.
    [[nodiscard]] std::vector<std::uint64_t> find(std::string_view pattern, std::size_t limit = 16) const;

private:
    platform::FileDescriptor file_;
};

} // namespace flex::attack
