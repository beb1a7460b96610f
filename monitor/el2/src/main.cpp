// The first core's way from BL31 to Linux.
#include "console.hpp"
#include "device_tree.hpp"
#include "gicr_filter.hpp"
#include "monitor.hpp"

namespace flex::monitor {

constinit Monitor the_monitor;

namespace {

struct Loaded {
    Region kernel{BOARD_KERNEL_BASE, 0};
    Region initramfs{BOARD_INITRD_BASE, 0};
    const char* command_line = "";
};

// What the launcher loaded beside the kernel. Untrusted, as the kernel is: a wrong size only hurts the normal
// world.
Loaded read_loader_info() {
    auto* page = reinterpret_cast<u8*>(BOARD_LOADER_INFO_BASE);
    const auto* words = reinterpret_cast<const u64*>(page);
    if (words[0] != BOARD_LOADER_INFO_MAGIC) panic("no loader information page: nothing to boot");
    page[BOARD_LOADER_INFO_BYTES - 1] = 0;
    Loaded loaded;
    loaded.kernel.bytes = words[1];
    loaded.initramfs.bytes = words[2];
    if (loaded.kernel.bytes == 0 || loaded.kernel.bytes > BOARD_KERNEL_BYTES_MAX ||
        loaded.initramfs.bytes > BOARD_INITRD_BYTES_MAX) {
        panic("loader information: kernel or initramfs of a wrong size");
    }
    loaded.command_line = reinterpret_cast<const char*>(page + BOARD_LOADER_INFO_COMMAND_LINE_OFFSET);
    return loaded;
}

void scrub(const Loaded& loaded) {
    const Region kept[] = {
        {BOARD_DTB_BASE, BOARD_DTB_BYTES_MAX},
        {BOARD_LOADER_INFO_BASE, BOARD_LOADER_INFO_BYTES},
        loaded.kernel,
        loaded.initramfs,
        the_monitor.layout.region,
    };
    scrub_at_start(kept, sizeof(kept) / sizeof(kept[0]));
}

MonitorFrameTable<> fill_frame_table() {
    const Layout& layout = the_monitor.layout;
    auto* cells = reinterpret_cast<u8*>(Layout::kFrameTable);
    for (u64 i = 0; i < layout.frames; i++) cells[i] = FLEX_FRAME_NORMAL;
    const u64 first = (layout.region.base - layout.dram.base) / kFrameSize;
    for (u64 i = 0; i < layout.region.bytes / kFrameSize; i++) cells[first + i] = FLEX_FRAME_RESERVED;
    return {cells, layout.dram.base, layout.frames};
}

void map_for_linux(const DeviceRegions& devices, unsigned cores) {
    Monitor& m = the_monitor;
    PageTree<Hardware>& tree = m.memory.normal_tree();
    const Layout& layout = m.layout;
    const stage2::Attributes attributes = m.hardware.attributes();
    const auto map = [&](u64 base, u64 end, u64 attributes) {
        if (base < end) FLEX_REQUIRE(tree.map_region({base, end - base}, attributes));
    };
    map(layout.dram.base, layout.region.base, attributes.memory);
    map(layout.region.end(), layout.dram.end(), attributes.memory);
    for (unsigned i = 0; i < devices.count; i++) {
        // Beyond the 512 GiB that the tree covers (a PCIe window QEMU may place there): Linux cannot reach
        // it.
        if (devices.regions[i].end() >> kInputBits != 0) continue;
        map(devices.regions[i].base, devices.regions[i].end(), attributes.device);
    }
    m.ecam = devices.ecam;
    map(m.ecam.base, m.ecam.end(), attributes.device_read_only);
    m.redistributors = {devices.redistributors.base, cores * kGicrCoreBytes};
    FLEX_REQUIRE(m.redistributors.bytes <= devices.redistributors.bytes);
    for (unsigned core = 0; core < cores; core++) {
        const u64 frames = devices.redistributors.base + core * kGicrCoreBytes;
        map(frames, frames + kGicrFrameBytes, attributes.device_read_only);
        map(frames + kGicrFrameBytes, frames + kGicrCoreBytes, attributes.device);
    }
}

// Nothing on the bus answers until Linux turns it on.
void take_pci_configuration(const DeviceRegions& devices) {
    if (devices.ecam.bytes == 0) return;
    FLEX_REQUIRE(devices.ecam.base == BOARD_PCIE_ECAM_BASE && devices.ecam.bytes <= BOARD_PCIE_ECAM_BYTES);
    EcamConfig config(devices.ecam.base);
    const Region memory{BOARD_PCIE_MMIO_BASE, BOARD_PCIE_MMIO_BYTES}, io{0, BOARD_PCIE_PIO_BYTES};
    if (!the_monitor.pci.init(config, static_cast<unsigned>(devices.ecam.bytes / kMiB), memory, io))
        panic("more PCI functions than are supported");
}

void clean_tree(u64 address) {
    for (u64 line = address; line < address + BOARD_DTB_BYTES_MAX; line += 64) arch::clean_to_memory(line);
    arch::dsb();
}

// This core runs on the stack of index 0, so it comes first whatever the order in the tree.
void register_cores(const BoardDescription& board) {
    CoreRegistry& cores = the_monitor.cores;
    const u64 self = FLEX_READ(mpidr_el1) & CoreRegistry::kAffinity;
    bool listed = false;
    FLEX_REQUIRE(board.core_count <= BOARD_CORES_MAX && cores.add(self));
    cores.set_on(0);
    for (unsigned i = 0; i < board.core_count; i++) {
        if (board.cores[i] == self) {
            listed = true;
        } else {
            FLEX_REQUIRE(cores.add(board.cores[i]));
        }
    }
    FLEX_REQUIRE(listed);
}

} // namespace

PageState describe_page(u64 address) {
    static constexpr const char* kNames[] = {"reserved", "normal",  "shared",  "claimed",
                                             "flex",     "adopted", "released"};
    Monitor& m = the_monitor;
    PageState page{.frame = "outside DRAM", .normal = {}, .own = {}};
    FrameRange frame;
    if (m.memory.table().covering(address, 1, frame)) {
        const auto state = static_cast<unsigned>(m.memory.table().state(frame.first));
        page.frame = state < FLEX_FRAME_STATES ? kNames[state] : "corrupt";
    }
    if (m.memory.normal_tree().root() != nullptr) page.normal = m.memory.normal_tree().find(address);
    if (m.own_tree.root() != nullptr) page.own = m.own_tree.find(address);
    return page;
}

extern "C" [[noreturn]] void monitor_main() {
    Monitor& m = the_monitor;
    // TF-A's qemu platform passes BL33 no address of the tree (x0 is the MPIDR): it stays where QEMU put it.
    auto* tree = reinterpret_cast<void*>(BOARD_DTB_BASE);
    BoardDescription board;
    if (!read_board(tree, BOARD_DTB_BYTES_MAX, board)) panic("no usable device tree from the firmware");
    if (!Layout::plan(board.dram, m.layout)) panic("DRAM of a size that is not supported");
    m.pool.init(m.layout.pool, m.layout.pool_tables);
    map_own_memory();
    m.own_tables = m.pool.in_use();
    register_cores(board);

    const Loaded loaded = read_loader_info();
    scrub(loaded);
    FLEX_REQUIRE(m.memory.init(m.hardware, fill_frame_table(), m.pool));
    record_this_life();
    m.hardware.smmu().init(BOARD_SMMU_BASE, m.memory.normal_tree().root(), m.memory.flex_tree().root(),
                           m.memory.kNormalVmid, m.memory.kFlexVmid);
    m.hardware.detect();

    const s64 status = call_firmware(FLEX_TOS_BOOT, Layout::kFrameTable, m.layout.dram.base, m.layout.frames);
    if (status != FLEX_OK) panic("the trusted OS does not take the frame table");

    DeviceRegions devices;
    const LinuxBoot boot{m.layout.region, loaded.initramfs, loaded.command_line};
    if (!edit_for_linux(tree, BOARD_DTB_BYTES_MAX, boot, devices)) panic("cannot edit the device tree");
    clean_tree(BOARD_DTB_BASE);
    take_pci_configuration(devices);
    map_for_linux(devices, board.core_count);
    set_up_npu();
    m.hardware.smmu().start();
    m.pool.free_retired(); // what mapping and merging left; nobody has walked it
    set_up_el2();
    print("monitor: %u cores, %u MiB, %u MiB of it the monitor's at %x; starting Linux\n", board.core_count,
          m.layout.dram.bytes / kMiB, m.layout.region.bytes / kMiB, m.layout.region.base);
    start_el1(loaded.kernel.base, BOARD_DTB_BASE);
}

} // namespace flex::monitor
