#include "launcher/flash.h"

#include <sys/stat.h>

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "board.h"
#include "launcher/tests/temporary_folder.h"

namespace flex::platform {
namespace {

// A stand-in for TF-A's fiptool: the package is its arguments' files, one after the other.
constexpr const char* kFakeFiptool = "#!/bin/sh\nshift\nfor last; do :; done\n"
                                     "while [ $# -gt 1 ]; do cat \"$2\"; shift 2; done >\"$last\"\n";

class FlashTest : public testing::Test {
protected:
    void SetUp() override {
        const auto tool = folder.write("fiptool", kFakeFiptool);
        std::filesystem::permissions(tool, std::filesystem::perms::owner_all);
        firmware = {.fiptool = tool,
                    .bl1 = folder.write("bl1", "first stage"),
                    .bl2 = folder.write("bl2", "(BL2)"),
                    .bl31 = folder.write("bl31", "(BL31)"),
                    .trusted_os = folder.write("tos", "(TOS)"),
                    .monitor = folder.write("monitor", "(MONITOR)"),
                    .kernel = {},
                    .initramfs = {}};
    }
    std::string at(std::size_t offset, std::size_t bytes) const {
        std::string content(bytes, '\0');
        std::ifstream(flash, std::ios::binary).seekg(static_cast<std::streamoff>(offset)).read(content.data(), static_cast<std::streamsize>(bytes));
        return content;
    }

    TemporaryFolder folder;
    std::filesystem::path flash = folder.path() / "flash";
    Firmware firmware;
};

TEST_F(FlashTest, a_new_flash_has_the_size_of_the_bank_and_only_its_owner_may_read_it) {
    create_flash(flash);
    struct stat info {};
    ASSERT_EQ(::stat(flash.c_str(), &info), 0);
    EXPECT_EQ(info.st_size, BOARD_SECURE_FLASH_BYTES);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(FlashTest, two_devices_have_different_root_keys) {
    create_flash(flash);
    create_flash(folder.path() / "other");
    EXPECT_NE(read_root_key(flash), read_root_key(folder.path() / "other"));
    EXPECT_NE(read_root_key(flash), RootKey{});
}

TEST_F(FlashTest, the_sectors_of_the_rollback_store_start_erased) {
    create_flash(flash);
    const std::string erased(BOARD_SECURE_FLASH_SECTOR_BYTES, '\xff');
    EXPECT_EQ(at(BOARD_FLASH_STORE_A_OFFSET, erased.size()), erased);
    EXPECT_EQ(at(BOARD_FLASH_STORE_B_OFFSET, erased.size()), erased);
}

TEST_F(FlashTest, making_a_flash_never_replaces_one) {
    create_flash(flash);
    const RootKey key = read_root_key(flash);
    EXPECT_THROW(create_flash(flash), DeviceError);
    EXPECT_EQ(read_root_key(flash), key);
}

TEST_F(FlashTest, firmware_goes_to_its_places_and_leaves_key_and_store_alone) {
    create_flash(flash);
    const std::string key_and_store = at(BOARD_FLASH_ROOT_KEY_OFFSET, 1 << 20);
    write_firmware(flash, firmware, folder.path());
    EXPECT_EQ(at(BOARD_FLASH_BL1_OFFSET, 11), "first stage");
    EXPECT_EQ(at(BOARD_FLASH_FIP_OFFSET, 25), "(BL2)(BL31)(TOS)(MONITOR)");
    EXPECT_EQ(at(BOARD_FLASH_ROOT_KEY_OFFSET, 1 << 20), key_and_store);
}

TEST_F(FlashTest, new_firmware_replaces_old) {
    create_flash(flash);
    write_firmware(flash, firmware, folder.path());
    firmware.monitor = folder.write("monitor2", "(NEWER)");
    write_firmware(flash, firmware, folder.path());
    EXPECT_EQ(at(BOARD_FLASH_FIP_OFFSET, 23), "(BL2)(BL31)(TOS)(NEWER)");
}

TEST_F(FlashTest, firmware_that_would_run_into_the_root_key_is_refused) {
    create_flash(flash);
    const RootKey key = read_root_key(flash);
    folder.write("tos", std::string(BOARD_FLASH_ROOT_KEY_OFFSET - BOARD_FLASH_FIP_OFFSET + 1, 'x'));
    EXPECT_THROW(write_firmware(flash, firmware, folder.path()), DeviceError);
    EXPECT_EQ(read_root_key(flash), key);
}

TEST_F(FlashTest, a_failing_fiptool_leaves_the_flash_as_it_was) {
    create_flash(flash);
    write_firmware(flash, firmware, folder.path());
    const std::string before = at(0, 1 << 20);
    folder.write("fiptool", "#!/bin/sh\nexit 3\n");
    EXPECT_THROW(write_firmware(flash, firmware, folder.path()), DeviceError);
    EXPECT_EQ(at(0, 1 << 20), before);
}

} // namespace
} // namespace flex::platform
