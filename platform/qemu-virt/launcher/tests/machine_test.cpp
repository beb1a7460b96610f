#include "launcher/machine.h"

#include <cstring>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "board.h"
#include "launcher/tests/temporary_folder.h"

namespace flex::platform {
namespace {

class MachineTest : public testing::Test {
protected:
    void SetUp() override {
        const auto file = [&](const char* name) { return folder.write(name, name); };
        options.firmware = {.fiptool = file("fiptool"), .bl1 = file("bl1"), .bl2 = file("bl2"), .bl31 = file("bl31"),
                            .trusted_os = file("tos"), .monitor = file("monitor"), .kernel = file("kernel"),
                            .initramfs = file("initramfs")};
    }
    std::string command_line() {
        std::string line;
        for (const std::string& word : qemu_arguments(options, 8443, 7001)) line += word + ' ';
        return line;
    }

    TemporaryFolder folder;
    MachineOptions options;
};

TEST_F(MachineTest, every_device_that_does_dma_sits_behind_the_smmu) {
    options.attack_devices = true;
    for (const std::string& word : qemu_arguments(options, 8443, 7001)) {
        if (!word.starts_with("virtio") && !word.starts_with("vhost")) continue;
        EXPECT_NE(word.find("-pci,"), std::string::npos) << word;
        EXPECT_NE(word.find("iommu_platform=on"), std::string::npos) << word;
        if (word.starts_with("virtio")) {
            EXPECT_NE(word.find("disable-legacy=on"), std::string::npos) << word;
        }
    }
    EXPECT_NE(command_line().find("iommu=smmuv3"), std::string::npos);
    EXPECT_NE(command_line().find("its=off"), std::string::npos);
}

TEST_F(MachineTest, forwards_reach_the_loopback_interface_only) {
    const std::string line = command_line();
    EXPECT_NE(line.find("hostfwd=tcp:127.0.0.1:8443-:8443"), std::string::npos);
    std::size_t forwards = 0;
    for (std::size_t at = line.find("hostfwd="); at != line.npos; at = line.find("hostfwd=", at + 1)) {
        EXPECT_EQ(line.compare(at, 22, "hostfwd=tcp:127.0.0.1:"), 0) << line.substr(at, 40);
        ++forwards;
    }
    EXPECT_EQ(forwards, 2u);
}

TEST_F(MachineTest, the_npu_sits_where_the_monitor_expects_it_and_can_be_left_out) {
    const std::string line = command_line();
    EXPECT_NE(line.find("-chardev socket,id=npu,path=npu.sock "), std::string::npos) << line;
    EXPECT_NE(line.find("-device vhost-user-snd-pci,chardev=npu,id=npu,iommu_platform=on,addr=10.0 "), std::string::npos) << line;
    static_assert(BOARD_NPU_SLOT == 0x10);
    options.npu.reset();
    EXPECT_EQ(command_line().find("npu"), std::string::npos) << command_line();
}

TEST_F(MachineTest, the_npu_is_told_the_limits_that_it_has) {
    const auto words = [](const NpuOptions& limits) {
        std::string line;
        for (const std::string& word : npu_arguments(limits)) line += word + ' ';
        return line.substr(line.find("--socket"));
    };
    EXPECT_EQ(words({}), "--socket npu.sock ");
    EXPECT_EQ(words({.tops = 6, .dram_gbps = 28.5, .launch_us = 100}),
              "--socket npu.sock --tops 6 --dram-gbps 28.5 --launch-us 100 ");
}

TEST_F(MachineTest, limits_of_the_npu_are_no_negative_numbers) {
    for (const double limit : {-1.0, 1e7, std::numeric_limits<double>::quiet_NaN()}) {
        options.npu = NpuOptions{.tops = limit, .dram_gbps = 0, .launch_us = 0};
        EXPECT_THROW(options.check(), DeviceError) << limit;
    }
}

TEST_F(MachineTest, the_attack_device_is_there_only_when_asked_for) {
    EXPECT_EQ(command_line().find("e1000"), std::string::npos);
    options.attack_devices = true;
    EXPECT_NE(command_line().find("-device e1000"), std::string::npos);
}

TEST_F(MachineTest, accepts_one_to_four_cores_and_one_to_sixteen_gib) {
    for (const int cores : {1, 2, 3, 4}) {
        options.cores = cores;
        EXPECT_NO_THROW(options.check());
    }
    for (const int cores : {-1, 0, 5}) {
        options.cores = cores;
        EXPECT_THROW(options.check(), DeviceError);
    }
    options.cores = 2;
    for (const std::uint64_t memory : {kGiB, 2 * kGiB, 16 * kGiB, 3 * kGiB + 2 * kMiB}) {
        options.memory = memory;
        EXPECT_NO_THROW(options.check());
    }
    for (const std::uint64_t memory : {std::uint64_t{0}, kGiB - 2 * kMiB, 16 * kGiB + 2 * kMiB, 2 * kGiB + 1}) {
        options.memory = memory;
        EXPECT_THROW(options.check(), DeviceError);
    }
}

TEST_F(MachineTest, a_missing_image_is_named) {
    std::filesystem::remove(options.firmware.monitor);
    try {
        options.check();
        FAIL() << "accepted";
    } catch (const DeviceError& error) {
        EXPECT_NE(std::string(error.what()).find(options.firmware.monitor), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("doctor"), std::string::npos);
    }
}

TEST_F(MachineTest, what_the_loader_places_cannot_reach_the_monitor) {
    static_assert(BOARD_KERNEL_BASE + BOARD_KERNEL_BYTES_MAX <= BOARD_INITRD_BASE);
    static_assert(BOARD_INITRD_BASE + BOARD_INITRD_BYTES_MAX <= BOARD_MONITOR_BASE);
    static_assert(BOARD_LOADER_INFO_BASE + BOARD_LOADER_INFO_BYTES <= BOARD_KERNEL_BASE);
    static_assert(BOARD_DTB_BASE + BOARD_DTB_BYTES_MAX <= BOARD_LOADER_INFO_BASE);
    std::filesystem::resize_file(options.firmware.initramfs, std::uintmax_t{BOARD_INITRD_BYTES_MAX} + 1);
    EXPECT_THROW(options.check(), DeviceError);
}

TEST_F(MachineTest, a_comma_in_a_path_stays_part_of_the_path) {
    options.firmware.kernel = folder.write("ker,nel", "k");
    EXPECT_NE(command_line().find("ker,,nel,addr="), std::string::npos);
}

TEST_F(MachineTest, loader_info_tells_lengths_and_command_line) {
    options.kernel_command_line = "console=ttyAMA0 x=1";
    const std::string page = loader_info(options);
    ASSERT_EQ(page.size(), std::size_t{BOARD_LOADER_INFO_BYTES});
    EXPECT_EQ(page.substr(0, 8), "FLEXBOOT");
    std::uint64_t kernel = 0, initramfs = 0;
    std::memcpy(&kernel, page.data() + 8, 8);
    std::memcpy(&initramfs, page.data() + 16, 8);
    EXPECT_EQ(kernel, 6u);
    EXPECT_EQ(initramfs, 9u);
    EXPECT_STREQ(page.c_str() + BOARD_LOADER_INFO_COMMAND_LINE_OFFSET, "console=ttyAMA0 x=1");
    options.kernel_command_line.assign(BOARD_LOADER_INFO_BYTES, 'x');
    EXPECT_THROW(options.check(), DeviceError);
}

} // namespace
} // namespace flex::platform
