// The NPU's switch between the worlds, on the board.
#include "console.hpp"
#include "monitor.hpp"

namespace flex::monitor {
namespace {

// A reset stops a job between two pieces of its work, so this is generous.
constexpr u64 kResetMs = 2000;

// Virtio 1.2, 4.1.4.3: offsets in the common configuration structure.
constexpr u64 kDeviceFeatureSelect = 0x00, kDriverFeatureSelect = 0x08, kDeviceStatus = 0x14,
              kQueueSelect = 0x16;

// PCI Local Bus Specification 3.0, 6.2 and 6.8: the command register, and the control words of MSI and MSI-X,
// which are the upper halves of their capabilities' first words.
constexpr u32 kCommand = 0x04, kControl = 0x02;
constexpr u32 kInterruptDisable = 1u << 10, kMsiEnable = 1u << 0, kMsixEnable = 1u << 15;

EcamConfig configuration() { return EcamConfig(the_monitor.ecam.base); }

template <class Condition> bool wait_for(u64 end, Condition condition) {
    while (!condition()) {
        if (FLEX_READ(cntpct_el0) > end) return false;
        arch::yield();
    }
    return true;
}

// The registers of abi/npu.h, by way of the device configuration words.
class NpuRegisters final {
public:
    explicit NpuRegisters(u64 words) : words_(words) {}
    // Each word costs a round trip to the carrier's process, so these two are all.
    void begin_reset() {
        arch::write32(words_ + FLEX_NPU_CONFIG_ACCESS, FLEX_NPU_ACCESS_RESET);
        arch::dsb();
    }
    // The reset clears the word: a device that did nothing, or is none, does not pass for one that is reset.
    [[nodiscard]] bool reset_ended() { return arch::read32(words_ + FLEX_NPU_CONFIG_ACCESS) == 0; }

private:
    u64 words_;
};

} // namespace

Status NpuMachine::locate(flex_npu_control& where) {
    EcamConfig config = configuration();
    if (!the_monitor.pci.windows(config, NpuFunction::kAt, windows_)) return Status::Argument;
    where.registers = windows_.bars[function_.bar].base;
    where.bytes = windows_.bars[function_.bar].bytes;
    where.common = function_.common, where.notify = function_.notify;
    where.isr = function_.isr, where.device = function_.device;
    where.notify_multiplier = function_.notify_multiplier;
    return Status::Ok;
}

template <class Action> void NpuMachine::for_each_region(Action action) const {
    const stage2::Attributes attributes = the_monitor.hardware.attributes();
    action(Region{the_monitor.ecam.base + NpuFunction::kAt, kFrameSize}, attributes.device_read_only);
    for (const Region& bar : windows_.bars) action(bar, attributes.device);
}

// The page-table frames that this takes stay until show(), which therefore needs none.
bool NpuMachine::hide() {
    Monitor& m = the_monitor;
    Guard<Hardware> guard(m.memory.lock(), m.hardware);
    PageTree<Hardware>& tree = m.memory.normal_tree();
    bool enough = true;
    for_each_region([&](Region region, u64) {
        for (u64 a = region.base; enough && a < region.end(); a += kFrameSize) enough = tree.prepare(a, 3);
    });
    for_each_region([&](Region region, u64) {
        for (u64 a = region.base; a < region.end(); a += kFrameSize) enough ? tree.unmap(a, 3) : tree.tidy(a);
    });
    tree.sync();
    m.pool.free_retired();
    if (enough) m.pci.hold(NpuFunction::kAt);
    return enough;
}

void NpuMachine::show() {
    Monitor& m = the_monitor;
    Guard<Hardware> guard(m.memory.lock(), m.hardware);
    PageTree<Hardware>& tree = m.memory.normal_tree();
    for_each_region([&](Region region, u64 attributes) {
        for (u64 a = region.base; a < region.end(); a += kFrameSize) tree.map(a, 3, attributes);
        for (u64 a = region.base; a < region.end(); a += kFrameSize) tree.tidy(a);
    });
    tree.sync();
    m.pool.free_retired();
    m.pci.let_go();
}

void NpuMachine::cut_stream() {
    Monitor& m = the_monitor;
    Guard<Hardware> guard(m.memory.lock(), m.hardware);
    m.hardware.smmu().set_stream(NpuFunction::kStream, Smmu::Stream::Abort);
}

void NpuMachine::join_stream(bool flex) {
    Monitor& m = the_monitor;
    Guard<Hardware> guard(m.memory.lock(), m.hardware);
    m.hardware.smmu().set_stream(NpuFunction::kStream, flex ? Smmu::Stream::Flex : Smmu::Stream::Normal);
}

// First virtio's reset, which stops the queues (2.4.2: it is over when the status reads 0). The carrier takes
// a queue's job with it, but tells the NPU nothing when no queue ever ran; so its own reset register as well.
bool NpuMachine::reset() {
    const u64 base = windows_.bars[function_.bar].base, common = base + function_.common;
    const u64 end = FLEX_READ(cntpct_el0) + kResetMs * FLEX_READ(cntfrq_el0) / 1000;
    arch::write8(common + kDeviceStatus, 0);
    arch::dsb();
    if (!wait_for(end, [&] { return arch::read8(common + kDeviceStatus) == 0; })) return false;
    // Virtio does not say that these go, too.
    arch::write32(common + kDeviceFeatureSelect, 0);
    arch::write32(common + kDriverFeatureSelect, 0);
    arch::write16(common + kQueueSelect, 0);
    NpuRegisters registers(base + function_.device);
    registers.begin_reset();
    return wait_for(end, [&] { return registers.reset_ended(); });
}

// An MSI is a write to memory, of an address and a value that the normal world may have put into the device's
// table: the stream would carry it into Flex-Mem. The line carries nothing: by it Linux learns that a job has
// ended, and lends a core.
void NpuMachine::settle_interrupts(bool flex) {
    const EcamConfig config = configuration();
    const auto settle = [&](u32 reg, u32 clear, u32& saved) {
        const u32 at = NpuFunction::kAt + reg;
        if (flex) saved = config.read(at & ~3u) >> (at % 4 * 8) & 0xffff;
        config.write(at, 2, flex ? saved & ~clear : saved);
    };
    settle(kCommand, kInterruptDisable, command_);
    if (function_.msi != 0) settle(function_.msi + kControl, kMsiEnable, msi_control_);
    if (function_.msix != 0) settle(function_.msix + kControl, kMsixEnable, msix_control_);
}

// Virtio 1.2, 4.1.4.5: reading the interrupt status lowers the line.
bool NpuMachine::lower_interrupt() {
    return arch::read8(windows_.bars[function_.bar].base + function_.isr) != 0;
}

bool NpuMachine::has_registers_at(u64 address) const {
    for (const Region& bar : windows_.bars)
        if (address >= bar.base && address < bar.end()) return true;
    return false;
}

void set_up_npu() {
    Monitor& m = the_monitor;
    auto* control = reinterpret_cast<flex_npu_control*>(m.layout.npu_control);
    *control = {};
    m.npu_machine.init({});
    m.npu = NpuSwitch<NpuMachine>(m.npu_machine, control);
    NpuFunction function;
    EcamConfig config = configuration();
    if (m.ecam.bytes == 0 || !NpuFinder(config, m.pci).find(function)) return;
    m.npu_machine.init(function);
    (void)m.npu.control().appear();
    print("monitor: the NPU is function %x\n", NpuFunction::kStream);
}

Status give_npu() {
    Monitor& m = the_monitor;
    const Guard<Hardware> guard(m.pci_lock, m.hardware);
    const Status status = m.npu.give();
    if (status == Status::Ok) m.memory.counters().add(FLEX_STAT_NPU_SWITCHES);
    return status;
}

Status take_npu() {
    Monitor& m = the_monitor;
    const Guard<Hardware> guard(m.pci_lock, m.hardware);
    const Status status = m.npu.take();
    if (status == Status::Ok) m.memory.counters().add(FLEX_STAT_NPU_SWITCHES);
    return status;
}

// With the lock: the windows are where they were when it left the normal world, and no switch is under way.
bool lower_npu_interrupt() {
    Monitor& m = the_monitor;
    const Guard<Hardware> guard(m.pci_lock, m.hardware);
    const NpuState state = m.npu.control().state();
    return (state == NpuState::Given || state == NpuState::Held) && m.npu_machine.lower_interrupt();
}

NpuPart denied_npu_part(u64 ipa) {
    Monitor& m = the_monitor;
    if (ipa < BOARD_PCIE_MMIO_BASE || ipa >= m.ecam.end()) return NpuPart::None;
    const Guard<Hardware> guard(m.pci_lock, m.hardware);
    const NpuState state = m.npu.control().state();
    if (state == NpuState::Absent || state == NpuState::Normal) return NpuPart::None;
    NpuPart part = NpuPart::None;
    if (m.npu_machine.has_registers_at(ipa)) part = NpuPart::Registers;
    if (round_down(ipa, kFrameSize) == m.ecam.base + NpuFunction::kAt) part = NpuPart::Configuration;
    if (part != NpuPart::None) m.memory.counters().add(FLEX_STAT_NPU_DENIED);
    return part;
}

void silence_npu() {
    Monitor& m = the_monitor;
    if (m.npu.control().state() == NpuState::Absent) return;
    m.hardware.smmu().set_stream(NpuFunction::kStream, Smmu::Stream::Abort);
}

} // namespace flex::monitor
