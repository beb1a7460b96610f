// Known answers: a wrapper that passes parameters in the wrong order still round-trips with itself.
#include "base/crypto.h"

#include <gtest/gtest.h>

#include <vector>

namespace flex::crypto {
namespace {

std::vector<std::byte> unhex(std::string_view text) {
    std::vector<std::byte> out(text.size() / 2);
    EXPECT_TRUE(from_hex(text, out).ok());
    return out;
}

Secret32 secret(std::string_view text) {
    Secret32 out;
    EXPECT_TRUE(from_hex(text, out.bytes()).ok());
    return out;
}

Public32 public32(std::string_view text) {
    Public32 out;
    EXPECT_TRUE(from_hex(text, out).ok());
    return out;
}

TEST(Crypto, hmac_sha256_gives_the_answers_of_rfc4231) {
    std::array<std::byte, 32> out;
    const auto key = unhex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b");
    ASSERT_TRUE(hmac_sha256(key, bytes_of("Hi There"), out).ok());
    EXPECT_EQ(hex(out), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
}

TEST(Crypto, hkdf_sha256_gives_the_answers_of_rfc5869) {
    std::vector<std::byte> out(42);
    const auto ikm = unhex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b");
    ASSERT_TRUE(
        hkdf_sha256(ikm, unhex("000102030405060708090a0b0c"), unhex("f0f1f2f3f4f5f6f7f8f9"), out).ok());
    EXPECT_EQ(hex(out),
              "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    ASSERT_TRUE(hkdf_sha256(ikm, {}, {}, out).ok()); // test case 3: no salt, no info
    EXPECT_EQ(hex(out),
              "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(Crypto, x25519_gives_the_answers_of_rfc7748) {
    const auto bob = secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    const auto alice_public = public32("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    EXPECT_EQ(hex(x25519_public(bob).value()),
              "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    EXPECT_EQ(hex(x25519_shared(bob, alice_public).value().bytes()),
              "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
}

TEST(Crypto, x25519_refuses_a_peer_that_forces_the_result) {
    const auto bob = secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    const auto shared = x25519_shared(bob, Public32{}); // the point of order 1
    ASSERT_FALSE(shared.ok());
    EXPECT_EQ(shared.error().code, ErrorCode::kAuthentication);
}

TEST(Crypto, ed25519_gives_the_answers_of_rfc8032) {
    const auto key = secret("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    const auto expected = public32("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    EXPECT_EQ(ed25519_public(key).value(), expected);
    auto signature = ed25519_sign(key, {}).value();
    EXPECT_EQ(hex(signature),
              "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
              "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b");
    EXPECT_TRUE(ed25519_verify(expected, {}, signature));
    EXPECT_FALSE(ed25519_verify(expected, bytes_of("x"), signature));
    signature[10] ^= std::byte{1};
    EXPECT_FALSE(ed25519_verify(expected, {}, signature));
}

TEST(Crypto, aes_256_gcm_gives_the_answers_of_its_test_case_14) {
    auto aead = Aead::create(Cipher::kAes256Gcm, Secret32()).value();
    std::array<std::byte, 16> text{};
    Tag tag;
    ASSERT_TRUE(aead.seal(Nonce{}, {}, text, text, tag).ok());
    EXPECT_EQ(hex(text), "cea7403d4d606b6e074ec5d3baf39d18");
    EXPECT_EQ(hex(tag), "d0d1c8a799996bf0265b98b5d48ab919");
}

TEST(Crypto, chacha20_poly1305_gives_the_answers_of_rfc8439) {
    const auto key = secret("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    auto aead = Aead::create(Cipher::kChaCha20Poly1305, key).value();
    Nonce nonce;
    ASSERT_TRUE(from_hex("070000004041424344454647", nonce).ok());
    const auto clear =
        bytes_of("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
                 "future, sunscreen would be it.");
    std::vector<std::byte> text(clear.begin(), clear.end());
    Tag tag;
    ASSERT_TRUE(aead.seal(nonce, unhex("50515253c0c1c2c3c4c5c6c7"), text, text, tag).ok());
    EXPECT_EQ(hex(Bytes(text).first(16)), "d31a8d34648e60db7b86afbc53ef7ec2");
    EXPECT_EQ(hex(tag), "1ae10b594f09e26a7e902ecbd0600691");
}

class AeadTest : public testing::TestWithParam<Cipher> {};

TEST_P(AeadTest, opens_what_it_sealed_and_leaves_nothing_of_what_it_refuses) {
    const auto key = random_secret().value();
    auto aead = Aead::create(GetParam(), key).value();
    const std::vector<std::byte> clear(5000, std::byte{0x5a});
    std::vector<std::byte> text = clear;
    Tag tag;
    const Nonce nonce{};
    ASSERT_TRUE(aead.seal(nonce, bytes_of("place 1"), text, text, tag).ok());
    EXPECT_NE(text, clear);
    const auto sealed = text;

    ASSERT_TRUE(aead.open(nonce, bytes_of("place 1"), text, text, tag).ok());
    EXPECT_EQ(text, clear);

    text = sealed;
    EXPECT_FALSE(aead.open(nonce, bytes_of("place 2"), text, text, tag).ok());
    EXPECT_EQ(text, std::vector<std::byte>(5000)); // wiped

    text = sealed;
    text[4999] ^= std::byte{1};
    EXPECT_FALSE(aead.open(nonce, bytes_of("place 1"), text, text, tag).ok());

    text = sealed;
    tag[0] ^= std::byte{1};
    EXPECT_FALSE(aead.open(nonce, bytes_of("place 1"), text, text, tag).ok());
}

INSTANTIATE_TEST_SUITE_P(Ciphers, AeadTest, testing::Values(Cipher::kAes256Gcm, Cipher::kChaCha20Poly1305),
                         [](const auto& info) {
                             return info.param == Cipher::kAes256Gcm ? "aes" : "chacha";
                         });

TEST(Crypto, hexadecimal_is_read_strictly) {
    std::array<std::byte, 2> out;
    EXPECT_TRUE(from_hex("00fF", out).ok());
    EXPECT_EQ(hex(out), "00ff");
    for (const char* bad : {"", "00f", "00ff0", "00fg", "0x00", " 00f"})
        EXPECT_FALSE(from_hex(bad, out).ok()) << bad;
}

} // namespace
} // namespace flex::crypto
