#include "port/identity.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "port/files.h"
#include "port/port.h"
#include "temporary_folder.h"

namespace flex::port {
namespace {

std::string text_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

crypto::Secret32 key_of(char fill) {
    crypto::Secret32 key;
    for (auto& b : key.bytes()) b = static_cast<std::byte>(fill);
    return key;
}

TEST(Identity, factory_and_device_compute_the_same_public_identity) {
    const test::TemporaryFolder folder;
    auto device = make_native_port(folder.path()).value();
    const auto root = read_file(folder.path() + "/root.key", 32).value();
    ASSERT_TRUE(provision(root, folder.path(), crypto::Public32{}).ok());

    const auto package_key = device->device_key(kPackageKeyLabel).value();
    EXPECT_EQ(parse_device_public(text_of(folder.path() + "/device.pub")).value(),
              crypto::x25519_public(package_key).value());
    EXPECT_EQ(text_of(folder.path() + "/device-ca.pem"),
              ca_certificate_pem(device->device_key(kTlsCaKeyLabel).value()).value());
}

TEST(Identity, the_ca_certificate_is_the_same_every_time_and_differs_between_devices) {
    const auto one = ca_certificate_pem(key_of(1)).value();
    EXPECT_EQ(one, ca_certificate_pem(key_of(1)).value());
    EXPECT_NE(one, ca_certificate_pem(key_of(2)).value());
}

TEST(Identity, the_keys_of_one_device_are_independent) {
    const auto root = key_of(7);
    const auto derive = derive_from(root.bytes());
    const auto a = derive(kPackageKeyLabel).value(), b = derive(kTlsCaKeyLabel).value(),
               c = derive(kTrustKeyLabel).value();
    EXPECT_NE(crypto::hex(a.bytes()), crypto::hex(b.bytes()));
    EXPECT_NE(crypto::hex(a.bytes()), crypto::hex(c.bytes()));
    EXPECT_NE(crypto::hex(b.bytes()), crypto::hex(c.bytes()));
}

TEST(Identity, a_device_public_key_file_is_read_strictly) {
    const crypto::Public32 key = crypto::x25519_public(key_of(3)).value();
    EXPECT_EQ(parse_device_public(format_device_public(key)).value(), key);
    const std::string good = format_device_public(key);
    for (const std::string& bad :
         {std::string(), good.substr(0, 40), "x" + good, good + "00", std::string("flexserve-device-1 ")}) {
        EXPECT_FALSE(parse_device_public(bad).ok()) << bad;
    }
}

TEST(Identity, the_list_of_publishers_is_believed_only_with_the_device_s_own_mac) {
    const auto key = key_of(4);
    const TrustList list{5, {crypto::Public32{}, crypto::ed25519_public(key_of(9)).value()}};
    const auto content = format_trust(list, key).value();
    const auto read = parse_trust(content, key).value();
    EXPECT_EQ(read.serial, 5u);
    EXPECT_EQ(read.publishers, list.publishers);

    EXPECT_EQ(parse_trust(content, key_of(5)).error().code, ErrorCode::kAuthentication);
    for (std::size_t i = 0; i < content.size(); ++i) {
        auto changed = content;
        changed[i] ^= std::byte{1};
        EXPECT_FALSE(parse_trust(changed, key).ok()) << "byte " << i;
    }
    for (std::size_t length = 0; length < content.size(); ++length) {
        EXPECT_FALSE(parse_trust(crypto::Bytes(content).first(length), key).ok()) << length;
    }
}

TEST(Identity, a_publisher_keeps_his_key) {
    const test::TemporaryFolder home;
    const auto first = publisher_key(home.path() + "/deep/home").value();
    EXPECT_EQ(crypto::hex(first.bytes()),
              crypto::hex(publisher_key(home.path() + "/deep/home").value().bytes()));
}

TEST(Files, a_new_file_appears_whole_or_not_at_all) {
    const test::TemporaryFolder folder;
    const std::string path = folder.path() + "/file";
    ASSERT_TRUE(write_file(path, crypto::bytes_of("old")).ok());
    {
        auto file = NewFile::create(path).value();
        ASSERT_TRUE(file.write(0, crypto::bytes_of("half of the n")).ok());
    } // given up
    EXPECT_EQ(text_of(path), "old");
    EXPECT_EQ(list_folder(folder.path()).value(), std::vector<std::string>{"file"});
    ASSERT_TRUE(write_file(path, crypto::bytes_of("new")).ok());
    EXPECT_EQ(text_of(path), "new");
}

TEST(Files, a_full_disk_is_an_error_that_names_the_file) {
    const auto status = write_file("/dev/full/x", crypto::bytes_of("content"));
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("/dev/full/x"), std::string::npos);
}

} // namespace
} // namespace flex::port
