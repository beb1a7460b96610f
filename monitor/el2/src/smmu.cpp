#include "smmu.hpp"

#include "arch.hpp"
#include "console.hpp"
#include "page_tree.hpp"

namespace flex::monitor {
namespace {

// Register offsets: IHI 0070, chapter 6.
constexpr u64 kIdr0 = 0x00, kIdr1 = 0x04, kIdr3 = 0x0c;
constexpr u64 kCr0 = 0x20, kCr0Ack = 0x24, kCr1 = 0x28, kCr2 = 0x2c, kGbpa = 0x44;
constexpr u64 kIrqControl = 0x50, kIrqControlAck = 0x54, kGlobalError = 0x60, kGlobalErrorN = 0x64;
constexpr u64 kStreamTable = 0x80, kStreamTableConfig = 0x88;
constexpr u64 kCommands = 0x90, kCommandsProduced = 0x98, kCommandsConsumed = 0x9c;
constexpr u64 kEvents = 0xa0, kEventsProduced = 0x100a8, kEventsConsumed = 0x100ac;

constexpr u32 kEnable = 1u << 0, kEventsEnable = 1u << 2, kCommandsEnable = 1u << 3;

// Command opcodes, chapter 4.
constexpr u64 kConfigureAll = 0x04, kForgetAddress = 0x2a, kForgetVmid = 0x28, kForgetNonSecure = 0x30;
constexpr u64 kSync = 0x46;

// Queues of 2^8: a pointer is the index and, above it, the wrap bit.
constexpr unsigned kQueueBits = 8;
constexpr u32 kQueueEntries = 1u << kQueueBits;
constexpr u32 kPointerMask = 2 * kQueueEntries - 1;
constexpr u32 kOverflow = 1u << 31;

struct alignas(64) StreamEntry {
    u64 words[8];
};
struct alignas(16) Command {
    u64 words[2];
};
struct alignas(32) Event {
    u64 words[4];
};
static_assert(sizeof(StreamEntry) == 64 && sizeof(Command) == 16 && sizeof(Event) == 32);

alignas(sizeof(StreamEntry) * Smmu::kStreams) StreamEntry stream_table[Smmu::kStreams];
alignas(sizeof(Command) * kQueueEntries) Command command_queue[kQueueEntries];
alignas(sizeof(Event) * kQueueEntries) Event event_queue[kQueueEntries];

u64 address_of(const void* object) { return reinterpret_cast<u64>(object); }

} // namespace

void Smmu::init(u64 base, const u64* normal_root, const u64* flex_root, u16 normal_vmid, u16 flex_vmid) {
    base_ = base;
    roots_[0] = normal_root, roots_[1] = flex_root;
    vmids_[0] = normal_vmid, vmids_[1] = flex_vmid;

    // First of all: a disabled SMMU aborts rather than lets everything through (GBPA.ABORT).
    arch::write32(base_ + kGbpa, (1u << 31) | (1u << 20));
    while ((arch::read32(base_ + kGbpa) & (1u << 31)) != 0) arch::yield();
    write_and_acknowledge(kCr0, kCr0Ack, 0);

    const u32 idr0 = arch::read32(base_ + kIdr0);
    FLEX_REQUIRE((idr0 & 1) != 0);                               // S2P: stage 2 is there
    FLEX_REQUIRE(field(idr0, 4, 4) == 1);                        // COHACC: walks and queues are coherent
    FLEX_REQUIRE(field(idr0, 3, 2) >= 2);                        // TTF: AArch64 tables
    FLEX_REQUIRE(field(arch::read32(base_ + kIdr1), 5, 0) >= 8); // SIDSIZE: bus 0 fits
    const u32 idr3 = arch::read32(base_ + kIdr3);
    replaces_directly_ = field(idr3, 12, 11) == 2;
    can_force_write_back_ = (idr3 & bit(8)) != 0;
    forgets_ranges_ = (idr3 & bit(10)) != 0;

    // Inner-shareable write-back for tables and queues (CR1), events recorded, no interrupts: the monitor
    // polls.
    arch::write32(base_ + kCr1,
                  bits(11, 10, 3) | bits(9, 8, 1) | bits(7, 6, 1) | bits(5, 4, 3) | bits(3, 2, 1) | 1);
    arch::write32(base_ + kCr2, 0x6); // PTM, RECINVSID: broadcast TLBI ignored, unknown streams recorded
    write_and_acknowledge(kIrqControl, kIrqControlAck, 0);

    for (unsigned stream = 0; stream < kStreams; stream++) set_entry(stream, Stream::Abort);
    arch::write64(base_ + kStreamTable, bit(62) | address_of(stream_table)); // RA, linear table
    arch::write32(base_ + kStreamTableConfig, 8);                            // LOG2SIZE
    arch::write64(base_ + kCommands, bit(62) | address_of(command_queue) | kQueueBits);
    arch::write32(base_ + kCommandsProduced, 0);
    arch::write32(base_ + kCommandsConsumed, 0);
    arch::write64(base_ + kEvents, bit(62) | address_of(event_queue) | kQueueBits);
    arch::write32(base_ + kEventsProduced, 0);
    arch::write32(base_ + kEventsConsumed, 0);
    produced_ = 0;
    consumed_ = 0;
    consumed_events_ = 0;
    arch::dsb();

    write_and_acknowledge(kCr0, kCr0Ack, kCommandsEnable);
    command(kConfigureAll, 31);
    command(kForgetNonSecure, 0);
    wait();
    write_and_acknowledge(kCr0, kCr0Ack, kCommandsEnable | kEventsEnable);
    write_and_acknowledge(kCr0, kCr0Ack, kCommandsEnable | kEventsEnable | kEnable);
}

void Smmu::start() {
    for (unsigned stream = 0; stream < kStreams; stream++) set_entry(stream, Stream::Normal);
    arch::dsb();
    command(kConfigureAll, 31);
    forget_all(vmids_[0]);
    forget_all(vmids_[1]);
    wait();
}

void Smmu::set_stream(unsigned stream, Stream to) {
    FLEX_REQUIRE(stream < kStreams);
    set_entry(stream, to);
    arch::dsb();
    command(kConfigureAll, 31);
    // Translations are tagged with the tree's VMID, so the architecture asks for no more (IHI 0070, 4.3 and 4.4). But QEMU tells
    // vhost back ends, which keep translations of their own, of TLB commands only; any will do, and a stream that aborts gives out
    // none, so once on the way suffices: each is a round trip to the back end's process.
    if (to == Stream::Abort) forget_all(vmids_[0]);
    wait();
}

// Stream table entry, IHI 0070 5.2. Its valid word is written last when it becomes more permissive, first
// when less.
void Smmu::set_entry(unsigned stream, Stream to) {
    constexpr u64 kValid = 1, kConfigAbort = bits(3, 1, 0), kConfigStage2 = bits(3, 1, 6);
    StreamEntry& entry = stream_table[stream];
    auto set = [](u64& word, u64 value) { __atomic_store_n(&word, value, __ATOMIC_RELEASE); };
    set(entry.words[0], kValid | kConfigAbort);
    arch::dsb();
    if (to == Stream::Abort) return;
#ifdef FLEX_WITHOUT_SMMU
    set(entry.words[1], bits(45, 44, 1));
    set(entry.words[0], kValid | bits(3, 1, 4)); // bypass
    return;
#endif
    const unsigned tree = to == Stream::Normal ? 0 : 1;
    // S2VMID; S2T0SZ, S2SL0 = start at level 1, walks inner-shareable write-back, 4 KiB granule, 40-bit
    // output; AArch64, access flag faults off, record faults.
    set(entry.words[2], vmids_[tree] | bits(37, 32, 64 - kInputBits) | bits(39, 38, 1) | bits(41, 40, 1) |
                            bits(43, 42, 1) | bits(45, 44, 3) | bits(47, 46, 0) | bits(50, 48, 2) | bit(51) |
                            bit(53) | bit(58));
    set(entry.words[3], address_of(roots_[tree]));
    // SHCFG: shareability as incoming; S2FWB.
    set(entry.words[1], bits(45, 44, 1) | (forces_write_back_ ? bit(25) : 0));
    arch::dsb();
    set(entry.words[0], kValid | kConfigStage2);
}

// CMD_TLBI_S2_IPA, 4.4.3; ranges of (NUM + 1) << SCALE frames, 4.4.1.1. TTL stays 0 (any level), with which a range of one frame may not be
// written as a range.
void Smmu::forget(u16 vmid, u64 address, u64 bytes) {
    constexpr u64 kMostOneByOne = 64, kMostNum = 32, kFrames4K = bits(11, 10, 1);
    const u64 low = kForgetAddress | static_cast<u64>(vmid) << 32;
    u64 frames = bytes / kFrameSize;
    if (!forgets_ranges_ && frames > kMostOneByOne) return forget_all(vmid);
    while (frames != 0) {
        u64 scale = 0;
        while (forgets_ranges_ && frames >> scale > kMostNum) scale++;
        const u64 num = forgets_ranges_ ? frames >> scale : 1, done = num << scale;
        if (done == 1) command(low, address);
        else command(low | bits(16, 12, num - 1) | bits(24, 20, scale), address | kFrames4K);
        address += done * kFrameSize;
        frames -= done;
    }
}

void Smmu::forget_all(u16 vmid) { command(kForgetVmid | static_cast<u64>(vmid) << 32, 0); }

void Smmu::wait() {
    command(kSync, 0);
    tell();
    while (((arch::read32(base_ + kCommandsConsumed) ^ produced_) & kPointerMask) != 0) {
        // A command error would stop the queue for ever; the monitor's commands are all well-formed.
        FLEX_REQUIRE(((arch::read32(base_ + kGlobalError) ^ arch::read32(base_ + kGlobalErrorN)) & 1) == 0);
        arch::yield();
    }
    consumed_ = produced_;
    arch::dsb();
}

void Smmu::command(u64 low, u64 high) {
    const auto full = [&] {
        if (((consumed_ ^ produced_) & kPointerMask) == kQueueEntries) consumed_ = arch::read32(base_ + kCommandsConsumed);
        return ((consumed_ ^ produced_) & kPointerMask) == kQueueEntries;
    };
    while (full()) {
        tell();
        arch::yield();
    }
    command_queue[produced_ % kQueueEntries] = {{low, high}};
    produced_ = (produced_ + 1) & kPointerMask;
}

void Smmu::tell() {
    arch::dsb();
    arch::write32(base_ + kCommandsProduced, produced_);
}

u64 Smmu::drain_events() {
    if (base_ == 0) return 0;
    const u32 produced = arch::read32(base_ + kEventsProduced);
    u64 count = (produced - consumed_events_) & kPointerMask;
    // Overflow: records were lost; the producer's overflow bit differs from the one the consumer
    // acknowledged.
    if (((produced ^ consumed_events_) & kOverflow) != 0) count++;
    consumed_events_ = produced & (kPointerMask | kOverflow);
    if (count != 0) arch::write32(base_ + kEventsConsumed, consumed_events_);
    return count;
}

void Smmu::write_and_acknowledge(u64 control, u64 acknowledge, u32 value) {
    arch::write32(base_ + control, value);
    while (arch::read32(base_ + acknowledge) != value) arch::yield();
}

} // namespace flex::monitor
