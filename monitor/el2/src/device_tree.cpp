#include "device_tree.hpp"

#include <initializer_list>

extern "C" {
#include <libfdt.h>
}

namespace flex::monitor {
namespace {

constexpr const char* kKeptByName[] = {"chosen", "aliases", "cpus", "memory", "psci"};
constexpr const char* kKeptByCompatible[] = {
    "arm,armv8-timer",       "arm,gic-v3",  "arm,pl011", "arm,pl031", "arm,pl061",
    "pci-host-ecam-generic", "fixed-clock", "gpio-keys",
#ifdef FLEX_WITHOUT_FWCFG_HIDE
    "qemu,fw-cfg-mmio",
#endif
};

bool text_equals(const char* left, const char* right) {
    while (*left != 0 && *left == *right) left++, right++;
    return *left == *right;
}

// "memory@40000000" is named "memory".
bool name_is(const char* node, const char* name) {
    while (*name != 0 && *node == *name) node++, name++;
    return *name == 0 && (*node == 0 || *node == '@');
}

bool is_enabled(const void* tree, int node) {
    const auto* status = static_cast<const char*>(fdt_getprop(tree, node, "status", nullptr));
    return status == nullptr || text_equals(status, "okay") || text_equals(status, "ok");
}

bool is_kept(const void* tree, int node) {
    const char* name = fdt_get_name(tree, node, nullptr);
    if (name == nullptr || !is_enabled(tree, node)) return false;
    for (const char* kept : kKeptByName) {
        if (name_is(name, kept)) return true;
    }
    for (const char* kept : kKeptByCompatible) {
        if (fdt_node_check_compatible(tree, node, kept) == 0) return true;
    }
    return false;
}

u64 read_cells(const fdt32_t* cells, unsigned count) {
    u64 value = 0;
    for (unsigned i = 0; i < count; i++) value = value << 32 | fdt32_to_cpu(cells[i]);
    return value;
}

// A property that is an array of entries of `cells` cells. Returns the number of entries.
unsigned cell_array(const void* tree, int node, const char* name, unsigned cells, const fdt32_t*& out) {
    int bytes = 0;
    out = static_cast<const fdt32_t*>(fdt_getprop(tree, node, name, &bytes));
    return out == nullptr ? 0 : static_cast<unsigned>(bytes) / (cells * sizeof(fdt32_t));
}

bool add_region(DeviceRegions& out, u64 base, u64 bytes) {
    if (out.count == DeviceRegions::kMost || base + bytes < base) return false;
    const u64 first = round_down(base, kFrameSize);
    out.regions[out.count++] = {first, round_up(base + bytes, kFrameSize) - first};
    return true;
}

bool add_node_regions(const void* tree, int node, DeviceRegions& out) {
    const bool gic = fdt_node_check_compatible(tree, node, "arm,gic-v3") == 0;
    const bool pci = fdt_node_check_compatible(tree, node, "pci-host-ecam-generic") == 0;
    const fdt32_t* reg = nullptr;
    const unsigned count = cell_array(tree, node, "reg", 4, reg);
    for (unsigned i = 0; i < count; i++) {
        const u64 base = read_cells(reg + 4 * i, 2);
        const u64 bytes = read_cells(reg + 4 * i + 2, 2);
        if (gic && i > 0) { // entry 0 is the distributor, 1 the redistributors
            if (i == 1) out.redistributors = {base, bytes};
        } else if (pci && i == 0) {
            out.ecam = {base, bytes};
        } else if (!add_region(out, base, bytes)) {
            return false;
        }
    }
    if (!pci) return true;
    // PCI ranges: 3 cells of PCI address, 2 of CPU address, 2 of size (IEEE 1275 PCI binding).
    const unsigned windows = cell_array(tree, node, "ranges", 7, reg);
    for (unsigned i = 0; i < windows; i++) {
        if (!add_region(out, read_cells(reg + 7 * i + 3, 2), read_cells(reg + 7 * i + 5, 2))) return false;
    }
    return true;
}

bool delete_property(void* tree, int node, const char* name) {
    const int error = fdt_delprop(tree, node, name);
    return error == 0 || error == -FDT_ERR_NOTFOUND;
}

bool delete_children(void* tree, int node) {
    for (;;) {
        const int child = fdt_first_subnode(tree, node);
        if (child == -FDT_ERR_NOTFOUND) return true;
        if (child < 0 || fdt_del_node(tree, child) != 0) return false;
    }
}

// Offsets move with every deletion, so each one starts over; the tree has some 50 nodes.
bool delete_unknown(void* tree) {
    for (;;) {
        int node = fdt_first_subnode(tree, 0);
        while (node >= 0 && is_kept(tree, node)) node = fdt_next_subnode(tree, node);
        if (node == -FDT_ERR_NOTFOUND) return true;
        if (node < 0 || fdt_del_node(tree, node) != 0) return false;
    }
}

bool cut_references(void* tree) {
    // Interrupt translation (ITS, v2m) writes memory past the SMMU.
    int node = fdt_node_offset_by_compatible(tree, -1, "arm,gic-v3");
    if (node >= 0 && !delete_children(tree, node)) return false;
    node = fdt_node_offset_by_compatible(tree, -1, "pci-host-ecam-generic");
    if (node >= 0) {
        for (const char* name : {"iommu-map", "iommu-map-mask", "msi-map", "msi-map-mask", "msi-parent"}) {
            if (!delete_property(tree, node, name)) return false;
        }
    }
    node = fdt_path_offset(tree, "/aliases");
    for (int property = fdt_first_property_offset(tree, node); node >= 0 && property >= 0;) {
        const char* name = nullptr;
        const auto* path = static_cast<const char*>(fdt_getprop_by_offset(tree, property, &name, nullptr));
        if (path != nullptr && fdt_path_offset(tree, path) < 0) {
            if (fdt_delprop(tree, node, name) != 0) return false;
            property = fdt_first_property_offset(tree, node);
        } else {
            property = fdt_next_property_offset(tree, property);
        }
    }
    return true;
}

int memory_node(const void* tree) {
    int node = fdt_first_subnode(tree, 0);
    while (node >= 0 && !(name_is(fdt_get_name(tree, node, nullptr), "memory") && is_enabled(tree, node))) {
        node = fdt_next_subnode(tree, node);
    }
    return node;
}

bool set_memory(void* tree, Region monitor) {
    const int node = memory_node(tree);
    const fdt32_t* reg = nullptr;
    if (node < 0 || cell_array(tree, node, "reg", 4, reg) != 1) return false;
    const Region dram{read_cells(reg, 2), read_cells(reg + 2, 2)};
    const u64 parts[] = {dram.base, monitor.base - dram.base, monitor.end(), dram.end() - monitor.end()};
    fdt64_t cells[4];
    for (unsigned i = 0; i < 4; i++) cells[i] = cpu_to_fdt64(parts[i]);
    const bool at_end = parts[3] == 0;
    return fdt_setprop(tree, node, "reg", cells, at_end ? sizeof(cells) / 2 : sizeof(cells)) == 0;
}

bool set_chosen(void* tree, const LinuxBoot& boot) {
    int node = fdt_path_offset(tree, "/chosen");
    if (node == -FDT_ERR_NOTFOUND) node = fdt_add_subnode(tree, 0, "chosen");
    if (node < 0 || fdt_setprop_string(tree, node, "bootargs", boot.command_line) != 0) return false;
    if (boot.initramfs.bytes == 0) return true;
    return fdt_setprop_u64(tree, node, "linux,initrd-start", boot.initramfs.base) == 0 &&
           fdt_setprop_u64(tree, node, "linux,initrd-end", boot.initramfs.end()) == 0;
}

} // namespace

bool read_board(const void* tree, u64 most_bytes, BoardDescription& out) {
    if (fdt_check_header(tree) != 0 || fdt_totalsize(tree) > most_bytes) return false;
    const int memory = memory_node(tree);
    const fdt32_t* reg = nullptr;
    if (memory < 0 || cell_array(tree, memory, "reg", 4, reg) != 1) return false;
    out.dram = {read_cells(reg, 2), read_cells(reg + 2, 2)};

    const int cpus = fdt_path_offset(tree, "/cpus");
    if (cpus < 0) return false;
    const int cells = fdt_address_cells(tree, cpus);
    if (cells < 1 || cells > 2) return false;
    for (int node = fdt_first_subnode(tree, cpus); node >= 0; node = fdt_next_subnode(tree, node)) {
        if (!name_is(fdt_get_name(tree, node, nullptr), "cpu")) continue;
        if (cell_array(tree, node, "reg", static_cast<unsigned>(cells), reg) != 1) return false;
        if (out.core_count == BoardDescription::kMostCores) return false;
        out.cores[out.core_count++] = read_cells(reg, static_cast<unsigned>(cells));
    }
    return out.core_count > 0;
}

bool edit_for_linux(void* tree, u64 capacity, const LinuxBoot& boot, DeviceRegions& out) {
    if (fdt_open_into(tree, tree, static_cast<int>(capacity)) != 0) return false;
    if (!delete_unknown(tree) || !cut_references(tree)) return false;
    for (int node = fdt_first_subnode(tree, 0); node >= 0; node = fdt_next_subnode(tree, node)) {
        const char* name = fdt_get_name(tree, node, nullptr);
        if (name_is(name, "memory") || name_is(name, "cpus")) continue;
        if (!add_node_regions(tree, node, out)) return false;
    }
    return set_memory(tree, boot.monitor) && set_chosen(tree, boot) && fdt_pack(tree) == 0;
}

} // namespace flex::monitor
