#include "core/drbg.hpp"

#include "core/memory.hpp"
#include "core/sha256.hpp"

namespace flex::tos {

namespace {
constexpr u32 rotate(u32 x, u32 by) { return x << by | x >> (32 - by); }

void quarter(u32& a, u32& b, u32& c, u32& d) {
    a += b, d = rotate(d ^ a, 16);
    c += d, b = rotate(b ^ c, 12);
    a += b, d = rotate(d ^ a, 8);
    c += d, b = rotate(b ^ c, 7);
}
} // namespace

void chacha20_block(const u32 (&key)[8], u32 counter, const u32 (&nonce)[3], u8 (&out)[64]) {
    const u32 start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1],
                           key[2],     key[3],     key[4],     key[5],     key[6], key[7],
                           counter,    nonce[0],   nonce[1],   nonce[2]};
    u32 x[16];
    copy_bytes(x, start, sizeof x);
    for (u32 round = 0; round < 10; round++) {
        for (u32 i = 0; i < 4; i++) quarter(x[i], x[4 + i], x[8 + i], x[12 + i]);
        for (u32 i = 0; i < 4; i++)
            quarter(x[i], x[4 + (i + 1) % 4], x[8 + (i + 2) % 4], x[12 + (i + 3) % 4]);
    }
    for (u32 i = 0; i < 16; i++) {
        const u32 word = x[i] + start[i];
        for (u32 k = 0; k < 4; k++) out[4 * i + k] = static_cast<u8>(word >> (8 * k));
    }
    forget(x, sizeof x);
}

void Drbg::seed(Bytes entropy) {
    HmacSha256 hmac({reinterpret_cast<const u8*>(key_), sizeof key_});
    hmac.add(entropy.data, entropy.size);
    Digest digest = hmac.finish();
    copy_bytes(key_, digest.bytes, sizeof key_);
    forget(&digest, sizeof digest);
}

void Drbg::generate(u8* out, u64 bytes) {
    u8 block[64];
    const u32 nonce[3] = {};
    u32 key[8];
    copy_bytes(key, key_, sizeof key);
    chacha20_block(key, 0, nonce, block);
    copy_bytes(key_, block, sizeof key_); /* the next request's key; the second half is not used */
    /* 2^32 blocks are 256 GiB; a request is at most a few MiB. */
    for (u32 counter = 1; bytes > 0; counter++) {
        chacha20_block(key, counter, nonce, block);
        const u64 part = min<u64>(bytes, sizeof block);
        copy_bytes(out, block, part);
        out += part;
        bytes -= part;
    }
    forget(block, sizeof block);
    forget(key, sizeof key);
}

} // namespace flex::tos
