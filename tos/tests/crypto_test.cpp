/* Hashes, keys, random numbers: published vectors. */
#include "core/drbg.hpp"
#include "core/sha256.hpp"

#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <vector>

using namespace flex::tos;

namespace {

std::string hex(const u8* data, size_t bytes) {
    std::string text;
    for (size_t i = 0; i < bytes; i++) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", data[i]);
        text += two;
    }
    return text;
}

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const u8*>(text.data()), text.size()}; }

std::string sha256(const std::string& text, size_t piece) {
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += piece)
        hash.add(text.data() + at, std::min(piece, text.size() - at));
    const Digest digest = hash.finish();
    return hex(digest.bytes, sizeof digest.bytes);
}

} // namespace

/* FIPS 180-4 examples */
TEST(Sha256, hashes_the_published_messages_in_any_pieces) {
    const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    for (const size_t piece : {1, 7, 63, 64, 65, 1000}) {
        EXPECT_EQ(sha256("", piece), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        EXPECT_EQ(sha256("abc", piece), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        EXPECT_EQ(sha256(two_blocks, piece),
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        EXPECT_EQ(sha256(std::string(1'000'000, 'a'), piece),
                  "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}

/* RFC 4231, test cases 1, 2 and 6 (key longer than a block) */
TEST(Hmac, agrees_with_rfc_4231) {
    const auto hmac = [](const std::string& key, const std::string& data) {
        const Digest digest = hmac_sha256(bytes_of(key), bytes_of(data));
        return hex(digest.bytes, sizeof digest.bytes);
    };
    EXPECT_EQ(hmac(std::string(20, '\x0b'), "Hi There"),
              "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    EXPECT_EQ(hmac("Jefe", "what do ya want for nothing?"),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    EXPECT_EQ(hmac(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First"),
              "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

/* RFC 8439, 2.3.2 */
TEST(ChaCha20, agrees_with_rfc_8439) {
    u32 key[8];
    for (u32 i = 0; i < 8; i++) key[i] = 0x03020100 + 0x04040404 * i;
    const u32 nonce[3] = {0x09000000, 0x4a000000, 0x00000000};
    u8 block[64];
    chacha20_block(key, 1, nonce, block);
    EXPECT_EQ(hex(block, sizeof block), "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
                                        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e");
}

TEST(Drbg, gives_the_same_numbers_only_for_the_same_seeds_and_requests) {
    Drbg a, b;
    a.seed(bytes_of("seed"));
    b.seed(bytes_of("seed"));
    u8 x[100], y[100];
    a.generate(x, sizeof x);
    b.generate(y, sizeof y);
    EXPECT_EQ(hex(x, sizeof x), hex(y, sizeof y));
    a.generate(x, sizeof x);
    EXPECT_NE(hex(x, sizeof x), hex(y, sizeof y)) << "a second request must not repeat the first";
    b.seed(bytes_of("more"));
    a.generate(x, sizeof x);
    b.generate(y, sizeof y);
    EXPECT_NE(hex(x, sizeof x), hex(y, sizeof y)) << "a seed must change what follows";
}

TEST(Drbg, keeps_no_key_that_would_give_away_earlier_numbers) {
    Drbg generator;
    generator.seed(bytes_of("seed"));
    u8 numbers[64];
    generator.generate(numbers, sizeof numbers);
    /* The state after a request is a block of the old key that was never given out. */
    u32 state[8];
    static_assert(sizeof generator == sizeof state);
    std::memcpy(state, &generator, sizeof state);
    u8 block[64];
    const u32 nonce[3] = {};
    for (u32 counter = 0; counter < 4; counter++) {
        chacha20_block(state, counter, nonce, block);
        EXPECT_NE(std::memcmp(block, numbers, sizeof block), 0);
    }
}
