#include "device_tree.hpp"

#include <algorithm>
#include <array>
#include <gtest/gtest.h>
#include <string>
#include <vector>

extern "C" {
#include <libfdt.h>
}

namespace flex::monitor {
namespace {

constexpr Region kMonitor{0x60000000, 0x600000};

// What QEMU's virt machine describes, in the parts that matter here.
class QemuTree {
public:
    QemuTree() : bytes_(0x100000) {
        fdt_create_empty_tree(data(), static_cast<int>(bytes_.size()));
        add("memory@40000000", nullptr, {0, 0x40000000, 0, 0x80000000});
        text("/memory@40000000", "device_type", "memory");
        add("secram@e000000", nullptr, {0, 0xe000000, 0, 0x1000000});
        text("/secram@e000000", "status", "disabled");
        add("fw-cfg@9020000", "qemu,fw-cfg-mmio", {0, 0x9020000, 0, 0x18});
        add("virtio_mmio@a000000", "virtio,mmio", {0, 0xa000000, 0, 0x200});
        add("smmuv3@9050000", "arm,smmu-v3", {0, 0x9050000, 0, 0x20000});
        add("flash@4000000", "cfi-flash", {0, 0x4000000, 0, 0x4000000});
        add("pl011@9000000", "arm,pl011", {0, 0x9000000, 0, 0x1000});
        add("pl011@9040000", "arm,pl011", {0, 0x9040000, 0, 0x1000});
        text("/pl011@9040000", "status", "disabled");
        add("pl031@9010000", "arm,pl031", {0, 0x9010000, 0, 0x1000});
        add("platform-bus@c000000", "qemu,platform", {});
        add("pmu", "arm,armv8-pmuv3", {});
        add("timer", "arm,armv8-timer", {});
        add("intc@8000000", "arm,gic-v3", {0, 0x8000000, 0, 0x10000, 0, 0x80a0000, 0, 0xf60000});
        fdt_add_subnode(data(), fdt_path_offset(data(), "/intc@8000000"), "its@8080000");
        add("pcie@10000000", "pci-host-ecam-generic", {0, 0x3f000000, 0, 0x1000000});
        cells("/pcie@10000000", "ranges",
              {0x1000000, 0, 0, 0, 0x3eff0000, 0, 0x10000, 0x2000000, 0, 0x10000000, 0, 0x10000000, 0,
               0x2eff0000});
        cells("/pcie@10000000", "iommu-map", {0, 1, 0, 0x10000});
        cells("/pcie@10000000", "msi-map", {0, 1, 0, 0x10000});
        add("cpus", nullptr, {});
        cells("/cpus", "#address-cells", {1});
        cells("/cpus", "#size-cells", {0});
        for (const u32 cpu : {0u, 1u}) {
            const std::string name = "cpu@" + std::to_string(cpu);
            fdt_add_subnode(data(), fdt_path_offset(data(), "/cpus"), name.c_str());
            cells("/cpus/" + name, "reg", {cpu});
        }
        add("aliases", nullptr, {});
        text("/aliases", "serial0", "/pl011@9000000");
        text("/aliases", "serial1", "/pl011@9040000");
        add("chosen", nullptr, {});
        text("/chosen", "stdout-path", "/pl011@9000000");
        add("secure-chosen", nullptr, {});
    }

    void* data() { return bytes_.data(); }
    u64 capacity() const { return bytes_.size(); }
    bool has(const std::string& path) { return fdt_path_offset(data(), path.c_str()) >= 0; }
    const void* property(const std::string& path, const char* name, int* length = nullptr) {
        return fdt_getprop(data(), fdt_path_offset(data(), path.c_str()), name, length);
    }
    void add(const std::string& name, const char* compatible, std::vector<u32> reg) {
        ASSERT_GE(fdt_add_subnode(data(), 0, name.c_str()), 0);
        if (compatible != nullptr) text("/" + name, "compatible", compatible);
        if (!reg.empty()) cells("/" + name, "reg", reg);
    }
    void text(const std::string& path, const char* name, const char* value) {
        ASSERT_EQ(fdt_setprop_string(data(), fdt_path_offset(data(), path.c_str()), name, value), 0);
    }
    void cells(const std::string& path, const char* name, std::vector<u32> values) {
        for (u32& value : values) value = cpu_to_fdt32(value);
        ASSERT_EQ(fdt_setprop(data(), fdt_path_offset(data(), path.c_str()), name, values.data(),
                              static_cast<int>(4 * values.size())),
                  0);
    }

private:
    std::vector<u8> bytes_;
};

struct Edited {
    Edited() {
        ok = edit_for_linux(tree.data(), tree.capacity(), {kMonitor, {0x4c000000, 0x1234}, "console=ttyAMA0"},
                            devices);
    }
    QemuTree tree;
    DeviceRegions devices;
    bool ok = false;
};

TEST(DeviceTree, finds_dram_and_cores) {
    QemuTree tree;
    BoardDescription board;
    ASSERT_TRUE(read_board(tree.data(), tree.capacity(), board));
    EXPECT_EQ(board.dram.base, 0x40000000u);
    EXPECT_EQ(board.dram.bytes, 0x80000000u);
    ASSERT_EQ(board.core_count, 2u);
    EXPECT_EQ(board.cores[0] + board.cores[1], 1u) << "cores 0 and 1, in whatever order";
}

TEST(DeviceTree, a_damaged_tree_is_refused) {
    std::array<u8, 64> garbage{};
    BoardDescription board;
    EXPECT_FALSE(read_board(garbage.data(), garbage.size(), board));
    QemuTree tree;
    EXPECT_FALSE(read_board(tree.data(), tree.capacity() - 1, board)) << "larger than the room it may take";
}

TEST(DeviceTree, linux_is_told_of_no_device_that_writes_memory_past_the_smmu) {
    Edited e;
    ASSERT_TRUE(e.ok);
    for (const char* gone : {"/fw-cfg@9020000", "/virtio_mmio@a000000", "/smmuv3@9050000", "/flash@4000000",
                             "/intc@8000000/its@8080000", "/pl011@9040000", "/secram@e000000",
                             "/platform-bus@c000000", "/pmu", "/secure-chosen"}) {
        EXPECT_FALSE(e.tree.has(gone)) << gone;
    }
    for (const char* kept : {"/pl011@9000000", "/pl031@9010000", "/timer", "/intc@8000000", "/pcie@10000000",
                             "/cpus/cpu@1", "/chosen"}) {
        EXPECT_TRUE(e.tree.has(kept)) << kept;
    }
    EXPECT_EQ(e.tree.property("/pcie@10000000", "iommu-map"), nullptr);
    EXPECT_EQ(e.tree.property("/pcie@10000000", "msi-map"), nullptr);
    EXPECT_EQ(e.tree.property("/aliases", "serial1"), nullptr);
    EXPECT_NE(e.tree.property("/aliases", "serial0"), nullptr);
}

TEST(DeviceTree, the_monitors_memory_is_not_linuxs) {
    Edited e;
    ASSERT_TRUE(e.ok);
    int length = 0;
    const auto* cells = static_cast<const fdt64_t*>(e.tree.property("/memory@40000000", "reg", &length));
    ASSERT_EQ(length, 32);
    EXPECT_EQ(fdt64_to_cpu(cells[0]), 0x40000000u);
    EXPECT_EQ(fdt64_to_cpu(cells[1]), 0x20000000u);
    EXPECT_EQ(fdt64_to_cpu(cells[2]), kMonitor.end());
    EXPECT_EQ(fdt64_to_cpu(cells[2]) + fdt64_to_cpu(cells[3]), 0xc0000000u);
}

TEST(DeviceTree, exactly_the_registers_that_are_still_named_get_mapped) {
    Edited e;
    ASSERT_TRUE(e.ok);
    std::vector<std::pair<u64, u64>> found;
    for (unsigned i = 0; i < e.devices.count; i++)
        found.emplace_back(e.devices.regions[i].base, e.devices.regions[i].bytes);
    std::sort(found.begin(), found.end());
    const std::vector<std::pair<u64, u64>> expected{{0x8000000, 0x10000},  {0x9000000, 0x1000},
                                                    {0x9010000, 0x1000},   {0x10000000, 0x2eff0000},
                                                    {0x3eff0000, 0x10000}};
    EXPECT_EQ(found, expected);
    EXPECT_EQ(e.devices.ecam.base, 0x3f000000u);
    EXPECT_EQ(e.devices.ecam.bytes, 0x1000000u);
    EXPECT_EQ(e.devices.redistributors.base, 0x80a0000u);
}

TEST(DeviceTree, the_kernel_gets_its_command_line_and_initramfs) {
    Edited e;
    ASSERT_TRUE(e.ok);
    EXPECT_STREQ(static_cast<const char*>(e.tree.property("/chosen", "bootargs")), "console=ttyAMA0");
    EXPECT_EQ(fdt64_to_cpu(*static_cast<const fdt64_t*>(e.tree.property("/chosen", "linux,initrd-start"))),
              0x4c000000u);
    EXPECT_EQ(fdt64_to_cpu(*static_cast<const fdt64_t*>(e.tree.property("/chosen", "linux,initrd-end"))),
              0x4c001234u);
}

} // namespace
} // namespace flex::monitor
