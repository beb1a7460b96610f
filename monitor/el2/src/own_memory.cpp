// The monitor's own stage 1: identity, every page with the least it needs.
#include "console.hpp"
#include "monitor.hpp"
#include "stacks.hpp"

extern "C" {
extern char monitor_text_begin[], monitor_text_end[], monitor_rodata_end[], monitor_data_end[],
    monitor_stacks[];
// Read by enable_own_stage1 with the MMU off.
struct alignas(64) OwnStage1 {
    uint64_t mair, tcr, ttbr, sctlr;
};
OwnStage1 own_stage1;
void enable_own_stage1();
}

namespace flex::monitor {
namespace {

// Stage 1 of EL2 (Arm ARM D8.3.1.1): AttrIndx[4:2], AP[2] = bit 7 read-only, AP[1] = bit 6 RES1, XN = bit 54.
constexpr u64 kReadOnly = bit(7), kNoExecute = bit(54);
constexpr u64 kMemory = bits(4, 2, 0) | bit(6) | descriptor::kInnerShareable | descriptor::kAccessed;
constexpr u64 kText = kMemory | kReadOnly;
constexpr u64 kConstants = kMemory | kReadOnly | kNoExecute;
constexpr u64 kData = kMemory | kNoExecute;
constexpr u64 kDevice = bits(4, 2, 1) | bit(6) | kNoExecute | descriptor::kAccessed;

u64 at(const char* symbol) { return reinterpret_cast<u64>(symbol); }

void map(u64 begin, u64 end, u64 attributes) {
    if (begin < end) FLEX_REQUIRE(the_monitor.own_tree.map_region({begin, end - begin}, attributes));
}

} // namespace

void map_own_memory() {
    Monitor& m = the_monitor;
    FLEX_REQUIRE(m.own_tree.init(m.hardware, m.pool, {}));
    map(at(monitor_text_begin), at(monitor_text_end), kText);
    map(at(monitor_text_end), at(monitor_rodata_end), kConstants);
    map(at(monitor_rodata_end), at(monitor_data_end), kData);
    for (u64 core = 0; core < STACKS_CORES; core++) {
        const u64 stack = at(monitor_stacks) + core * STACK_SLOT_BYTES + STACK_GUARD_BYTES;
        const u64 panic_stack = stack + STACK_BYTES + STACK_GUARD_BYTES;
        map(stack, stack + STACK_BYTES, kData);
        map(panic_stack, panic_stack + PANIC_STACK_BYTES, kData);
    }
    map(Layout::kRecord, m.layout.region.end(), kData);
    // DRAM of the normal world: lists, the device tree, zeroing.
    map(m.layout.dram.base, m.layout.region.base, kData);
    map(m.layout.region.end(), m.layout.dram.end(), kData);
    map(BOARD_UART0_BASE, BOARD_UART0_BASE + BOARD_UART0_BYTES, kDevice);
    map(BOARD_SMMU_BASE, BOARD_SMMU_BASE + BOARD_SMMU_BYTES, kDevice);
    map(BOARD_PCIE_MMIO_BASE, BOARD_PCIE_MMIO_BASE + BOARD_PCIE_MMIO_BYTES, kDevice); // to reset the NPU
    map(BOARD_PCIE_ECAM_BASE, BOARD_PCIE_ECAM_BASE + BOARD_PCIE_ECAM_BYTES, kDevice);
    map(BOARD_GICR_BASE, BOARD_GICR_BASE + BOARD_GICR_BYTES_PER_CORE * BOARD_CORES_MAX, kDevice);

    // MAIR: 0 normal write-back, 1 Device-nGnRE. TCR: 39-bit input, write-back inner-shareable walks, 4 KiB;
    // PS as the core has.
    u64 features;
    asm("mrs %0, id_aa64mmfr0_el1" : "=r"(features));
    const u64 output_size = field(features, 3, 0) < 5 ? field(features, 3, 0) : 5;
    own_stage1.mair = 0x04ff;
    own_stage1.tcr = bit(31) | bit(23) | bits(18, 16, output_size) | bits(13, 12, 3) | bits(11, 10, 1) |
                     bits(9, 8, 1) | bits(5, 0, 64 - kInputBits);
    own_stage1.ttbr = reinterpret_cast<u64>(m.own_tree.root());
    // RES1 bits, M, C, SA, I, WXN.
    own_stage1.sctlr = 0x30c50830 | bit(0) | bit(2) | bit(3) | bit(12) | bit(19);
    arch::clean_and_invalidate(reinterpret_cast<u64>(&own_stage1));
    // The tables were written past the caches: no stale line may hide them.
    for (u64 a = m.layout.pool; a < m.layout.pool + m.pool.in_use() * kFrameSize; a += 64)
        arch::clean_and_invalidate(a);
    arch::dsb();
    enable_own_stage1();
}

} // namespace flex::monitor
