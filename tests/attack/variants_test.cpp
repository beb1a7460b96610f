// For each of these defences there is a build without it, in which its attack must get through: so the attack tests can fail.
#include <algorithm>
#include <csignal>
#include <iostream>

#include "cli/attack/runner.h"
#include "support/device_under_test.h"

namespace flex::test {
namespace {

namespace fs = std::filesystem;

struct Variant {
    const char* image;   ///< "monitor" or "tos"
    const char* defence; ///< what is not in it (cmake/FlexImage.cmake, WITHOUT)
    const char* attack;
};

constexpr Variant kVariants[] = {
    {"monitor", "stage2_unmap", "cpu-read"},      // a protected frame stays mapped in the normal tree
    {"monitor", "smmu", "dma-read"},              // devices bypass the SMMU
    {"monitor", "smc_filter", "boot-calls"},      // every SMC goes to the firmware and the trusted OS
    {"monitor", "state_check", "recall-flex"},    // frames change hands whatever their state
    {"monitor", "copy_once", "list-flip"},        // a list is read again after it was checked
    {"monitor", "reset_scrub", "reset-scan"},     // protected memory survives a reset
    {"monitor", "lpi_filter", "gic-lpi"},         // LPI tables may be placed anywhere
    {"monitor", "pci_filter", "pci-bars"},        // devices answer wherever they are told to
    {"monitor", "fwcfg_hide", "fw-cfg"},          // fw_cfg is mapped
    {"monitor", "npu_unmap", "npu-registers"},    // the NPU's registers stay mapped in Flex mode
    {"monitor", "pci_filter", "npu-bars"},        // and devices may be laid over them
    {"monitor", "npu_stream", "npu-memory"},      // the NPU comes back with the secure world's stream
    {"monitor", "npu_reset", "npu-residue"},      // it changes hands as it is
    {"tos", "adopt_check", "alloc-foreign"},      // frames are taken without a look at their state
    {"tos", "move_check", "move-frame"},          // content moves to any frame
    {"tos", "shared_check", "shared-area"},       // any address is a shared area
    {"tos", "zero_on_release", "scan-reclaimed"}, // memory goes back as it is
    {"tos", "rpc_check", "alloc-malformed"},      // every answer is believed
    {"tos", "kv_seal", "kv-read"},                // its program stores conversations in the clear
    {"tos", "kv_seal", "kv-tamper"},              // and believes what it reads
};

DeviceUnderTest& device() {
    static DeviceUnderTest* one = new DeviceUnderTest(FLEX_TEST_HOME); // powered off after each test
    return *one;
}

class WithoutDefence : public testing::TestWithParam<Variant> {
protected:
    void TearDown() override { device().device().kill(); }
};

TEST_P(WithoutDefence, the_attack_gets_through) {
    const Variant& variant = GetParam();
    const std::string name = std::string(variant.image) + "-without-" + variant.defence + ".bin";
    const fs::path image = platform::repository() / "build/device/images" / name;
    ASSERT_TRUE(fs::exists(image)) << name << " is not built: ninja -C build/device variants";
    platform::MachineOptions options = machine_options();
    (std::string(variant.image) == "tos" ? options.firmware.trusted_os : options.firmware.monitor) = image;
    device().boot(options);
    const attack::Attack* attack = attack::find_attack(variant.attack);
    ASSERT_NE(attack, nullptr) << variant.attack;
    // Whatever state the device is in afterwards: it goes.
    const attack::Outcome outcome = attack->run(device().target());
    std::cout << name_of(outcome.verdict) << ": " << outcome.how << "\n";
    EXPECT_EQ(outcome.verdict, attack::Verdict::kBreach) << variant.attack << " did not notice: " << outcome.how;
}

INSTANTIATE_TEST_SUITE_P(builds, WithoutDefence, testing::ValuesIn(kVariants), [](const auto& info) {
    std::string name = std::string(info.param.defence) + "_" + info.param.attack;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

} // namespace
} // namespace flex::test

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    std::signal(SIGPIPE, SIG_IGN);
    return RUN_ALL_TESTS();
}
