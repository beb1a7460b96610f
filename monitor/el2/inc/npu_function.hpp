#pragma once

#include "abi/npu.h"
#include "board.h"
#include "pci_filter.hpp"

namespace flex::monitor {

// What the monitor learns of the NPU's PCI function before Linux runs, and keeps.
struct NpuFunction {
    static constexpr u32 kAt = BOARD_NPU_SLOT
                               << 15; // of its configuration space in ECAM: device, function 0, bus 0
    static constexpr unsigned kStream = BOARD_NPU_SLOT << 3;

    unsigned bar = 0; // that holds the virtio structures
    u32 common = 0, notify = 0, isr = 0, device = 0, notify_multiplier = 0; // their offsets
    u32 msi = 0, msix = 0; // offsets of these capabilities in configuration space; 0: none
};

// Reads the capability list (PCI Local Bus Specification 3.0, 6.7; Virtio 1.2, 4.1.4). False: it is not the
// NPU, or not as the rest of the monitor needs it: all four virtio structures in one memory BAR, whole and
// aligned. The device is the board's, yet nothing it says is used unchecked.
template <class Config> class NpuFinder final {
public:
    NpuFinder(Config& config, PciFilter<Config>& filter) : config_(config), filter_(filter) {}

    [[nodiscard]] bool find(NpuFunction& out) {
        constexpr u32 kStatusList = 1u << 20;
        if (config_.read(NpuFunction::kAt) != BOARD_NPU_PCI_ID) return false;
        if ((config_.read(NpuFunction::kAt + 4) & kStatusList) == 0) return false;
        u32 at = config_.read(NpuFunction::kAt + 0x34) & 0xfc;
        // 4 bytes each at least: a longer list runs in a circle.
        for (unsigned n = 0; at >= 0x40 && n < 48; n++) {
            const u32 head = config_.read(NpuFunction::kAt + at);
            switch (head & 0xff) {
            case kMsi:
                out.msi = at;
                break;
            case kMsix:
                out.msix = at;
                break;
            case kVendor:
                if (!take_structure(out, at, head)) return false;
                break;
            default:
                break;
            }
            at = head >> 8 & 0xfc;
        }
        return found_ == kAllFound && filter_.memory_bytes(NpuFunction::kAt, out.bar) % kFrameSize == 0;
    }

private:
    static constexpr u32 kMsi = 0x05, kVendor = 0x09, kMsix = 0x11;
    // cfg_type
    static constexpr u32 kCommon = 1, kNotify = 2, kIsr = 3, kDevice = 4;
    static constexpr u32 kAllFound = 0x1e;

    // Least lengths: the common structure up to the queues' addresses, a word for each notification, what
    // abi/npu.h has.
    static constexpr u32 least(u32 type) {
        return type == kCommon ? 56 : type == kNotify ? 2 : type == kIsr ? 1 : 12;
    }

    // A structure that is listed twice: the first counts.
    bool take_structure(NpuFunction& out, u32 at, u32 head) {
        const u32 type = head >> 24, length_of_head = head >> 16 & 0xff;
        if (type < kCommon || type > kDevice || (found_ >> type & 1) != 0) return true;
        if (length_of_head < (type == kNotify ? 20 : 16) || at + length_of_head > 0x100) return false;
        const unsigned bar = config_.read(NpuFunction::kAt + at + 4) & 0xff;
        const u64 offset = config_.read(NpuFunction::kAt + at + 8),
                  length = config_.read(NpuFunction::kAt + at + 12);
        if (found_ != 0 && bar != out.bar) return false;
        if (offset % 4 != 0 || length < least(type) ||
            offset + length > filter_.memory_bytes(NpuFunction::kAt, bar))
            return false;
        out.bar = bar;
        found_ |= 1u << type;
        const u32 where = static_cast<u32>(offset); // BARs of more than 4 GiB: offsets are words
        if (type == kCommon) out.common = where;
        if (type == kIsr) out.isr = where;
        if (type == kDevice) out.device = where;
        if (type == kNotify) {
            out.notify = where;
            out.notify_multiplier = config_.read(NpuFunction::kAt + at + 16);
        }
        return true;
    }

    Config& config_;
    PciFilter<Config>& filter_;
    u32 found_ = 0; // bit: cfg_type
};

} // namespace flex::monitor
