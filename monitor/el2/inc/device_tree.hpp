#pragma once

#include "types.hpp"

namespace flex::monitor {

// What the monitor needs to know of the machine, from the board's device tree.
struct BoardDescription {
    static constexpr unsigned kMostCores = 8;
    Region dram;
    u64 cores[kMostCores] = {}; // MPIDR affinities
    unsigned core_count = 0;
};

// False: the tree is damaged or has not exactly one memory node.
[[nodiscard]] bool read_board(const void* tree, u64 most_bytes, BoardDescription& out);

// What is put into Linux's tree.
struct LinuxBoot {
    Region monitor; // taken out of the memory node
    Region initramfs;
    const char* command_line = ""; // NUL-terminated
};

// The device registers that the edited tree still names: what Linux gets mapped, and nothing else.
struct DeviceRegions {
    static constexpr unsigned kMost = 24;
    Region regions[kMost];
    unsigned count = 0;
    Region redistributors; // GICR: mapped core by core, RD_base frames read-only
    Region ecam;           // PCI configuration space: mapped read-only, writes are filtered
};

// Edits the tree in place (room: `capacity` bytes). Nodes stay by an allow-list: what is not known to be
// harmless (no DMA past the SMMU, no secure device) goes, also what a later QEMU may add. False: damaged, no
// room, or more regions than fit.
[[nodiscard]] bool edit_for_linux(void* tree, u64 capacity, const LinuxBoot& boot, DeviceRegions& out);

} // namespace flex::monitor
