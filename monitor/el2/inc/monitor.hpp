#pragma once

#include "core_registry.hpp"
#include "flex_memory.hpp"
#include "hardware.hpp"
#include "layout.hpp"
#include "npu_machine.hpp"
#include "pci_filter.hpp"

namespace flex::monitor {

struct Frame;

// All state of the monitor; one exists. Written by the first core before any other runs, then under
// memory.lock() (or atomically).
struct Monitor {
    Layout layout;
    Hardware hardware;
    TablePool pool;
    PageTree<Hardware> own_tree; // the monitor's own stage 1
    FlexMemory<Hardware> memory;
    CoreRegistry cores;
    Region redistributors; // GICR frames of the cores there are
    Region ecam;           // PCI configuration space
    PciFilter<EcamConfig> pci;
    TicketLock<Hardware> pci_lock; // before memory.lock() when both are needed
    NpuMachine npu_machine;        // under pci_lock
    NpuSwitch<NpuMachine> npu;     // under pci_lock
    u64 own_tables = 0;    // page-table frames of own_tree
    u32 stopping = 0;      // non-zero: no core may go back to EL1
    u32 power_requested = 0;
};

extern Monitor the_monitor;

// Arguments and results of an SMC: x0..x7.
struct SmcRegisters {
    u64 x[8] = {};
};
extern "C" void secure_monitor_call(SmcRegisters* registers);
s64 call_firmware(u64 function, u64 a1 = 0, u64 a2 = 0, u64 a3 = 0);

struct PageState {
    const char* frame;
    PageTree<Hardware>::Leaf normal;
    PageTree<Hardware>::Leaf own;
};
// For panics: takes no lock.
PageState describe_page(u64 address);

// From here on, a core that traps does not return to EL1. Takes no lock.
void stop_other_cores();

// own_memory.cpp: the monitor's own translation. Fills in own_stage1 and turns it on for this core.
void map_own_memory();

// scrub.cpp
void zero_memory(Region region); // any alignment; cleaned to memory, so that it holds over a reset
// Before Linux starts: nothing that an earlier life protected is left in DRAM.
void scrub_at_start(const Region* kept, unsigned count);
void record_this_life(); // once the frame table is filled in
// Before a reset or power-off is forwarded, when no core runs EL1 or S-EL0 any more.
void scrub_protected_frames();

// core_setup.cpp
void set_up_el2(); // this core's EL2 registers: traps, stage 2
[[noreturn]] void start_el1(u64 address, u64 context);
extern "C" [[noreturn]] void enter_el1(u64 address, u64 context);
extern "C" void secondary_entry();

// calls.cpp
void handle_smc(Frame& frame);
void handle_hvc(Frame& frame);
void drain_device_faults(); // into FLEX_STAT_DMA_FAULTS
// npu.cpp
void set_up_npu(); // when PCI configuration has been taken over
Status give_npu();
Status take_npu();
// Does an access that stage 2 stopped concern the NPU while it is not the normal world's? Then it is counted.
enum class NpuPart { None, Registers, Configuration };
NpuPart denied_npu_part(u64 ipa);
// FLEX_HVC_NPU_INTERRUPT.
bool lower_npu_interrupt();
void silence_npu(); // before a reset or power-off; with memory.lock()
// aborts.cpp
void handle_abort(Frame& frame);
void inject_undefined(Frame& frame);
// system_registers.cpp
void handle_system_register(Frame& frame);

} // namespace flex::monitor
