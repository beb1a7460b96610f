#pragma once

#include "types.hpp"

namespace flex::monitor {

// The SMMUv3 (Arm IHI 0070) in front of the PCIe root. Every stream is translated by stage 2 only, or
// aborted; Linux does not know that it exists. The monitor's lock protects commands and stream changes.
class Smmu final {
public:
    enum class Stream { Abort, Normal, Flex };

    // Streams 0..255: bus 0. Buses behind bridges have higher numbers and abort.
    static constexpr unsigned kStreams = 256;

    // Everything aborts from here on. roots: level 1 tables of the two trees (stage 2, 39-bit input).
    void init(u64 base, const u64* normal_root, const u64* flex_root, u16 normal_vmid, u16 flex_vmid);

    // All streams to the normal tree; translation on.
    void start();

    // Points a stream at a tree, or nowhere; what it translated before is forgotten and no longer under way. From one
    // tree to another only by way of Abort.
    void set_stream(unsigned stream, Stream to);

    // FEAT_BBM level 2 in the SMMU (IDR3.BBML).
    [[nodiscard]] bool replaces_directly() const { return replaces_directly_; }
    // IDR3.FWB: stage 2 can say that memory is write-back, whatever the device says. force_write_back(): it does, from
    // the next start() or set_stream() on; the trees have to be written for it (stage2::kForced).
    [[nodiscard]] bool can_force_write_back() const { return can_force_write_back_; }
    void force_write_back() { forces_write_back_ = can_force_write_back_; }

    // Frames; at any level of the tables, and the tables themselves.
    void forget(u16 vmid, u64 address, u64 bytes);
    void forget_all(u16 vmid);
    // All commands given so far have taken effect, on translations under way too (CMD_SYNC).
    void wait();

    // Empties the event queue; returns how many accesses were refused since the last time.
    u64 drain_events();

private:
    // Into the queue; the SMMU is told by tell(), at the latest in wait().
    void command(u64 low, u64 high);
    void tell();
    void write_and_acknowledge(u64 control, u64 acknowledge, u32 value);
    void set_entry(unsigned stream, Stream to);

    u64 base_ = 0;
    const u64* roots_[2] = {};
    u16 vmids_[2] = {};
    u32 produced_ = 0;
    u32 consumed_ = 0; // of the commands, as last read: no more are under way
    u32 consumed_events_ = 0;
    bool replaces_directly_ = false;
    bool forgets_ranges_ = false; // IDR3.RIL
    bool can_force_write_back_ = false;
    bool forces_write_back_ = false;
};

} // namespace flex::monitor
