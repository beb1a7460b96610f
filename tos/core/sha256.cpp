#include "core/sha256.hpp"

#include "core/memory.hpp"

namespace flex::tos {

namespace {
/* FIPS 180-4, 4.2.2 */
constexpr u32 kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr u32 rotate(u32 x, u32 by) { return x >> by | x << (32 - by); }

u32 load_big_endian(const u8* at) { return u32{at[0]} << 24 | u32{at[1]} << 16 | u32{at[2]} << 8 | at[3]; }
void store_big_endian(u8* at, u32 value) {
    for (u32 i = 0; i < 4; i++) at[i] = static_cast<u8>(value >> (24 - 8 * i));
}
} // namespace

Sha256::Sha256()
    : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
      pending_{} {}

Sha256::~Sha256() {
    forget(state_, sizeof state_);
    forget(pending_, sizeof pending_);
}

void Sha256::block(const u8* data) {
    u32 w[64];
    for (u32 i = 0; i < 16; i++) w[i] = load_big_endian(data + 4 * i);
    for (u32 i = 16; i < 64; i++) {
        const u32 s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        const u32 s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    u32 a = state_[0], b = state_[1], c = state_[2], d = state_[3];
    u32 e = state_[4], f = state_[5], g = state_[6], h = state_[7];
    for (u32 i = 0; i < 64; i++) {
        const u32 s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        const u32 t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
        const u32 s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        const u32 t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const u32 add[8] = {a, b, c, d, e, f, g, h};
    for (u32 i = 0; i < 8; i++) state_[i] += add[i];
    forget(w, sizeof w);
}

void Sha256::add(const void* data, u64 bytes) {
    const u8* at = static_cast<const u8*>(data);
    while (bytes > 0) {
        const u64 used = total_ % 64;
        const u64 part = min(bytes, 64 - used);
        copy_bytes(pending_ + used, at, part);
        total_ += part;
        at += part;
        bytes -= part;
        if (total_ % 64 == 0) block(pending_);
    }
}

Digest Sha256::finish() {
    const u64 bits = total_ * 8;
    const u8 one = 0x80, zero = 0;
    add(&one, 1);
    while (total_ % 64 != 56) add(&zero, 1);
    u8 length[8];
    store_big_endian(length, static_cast<u32>(bits >> 32));
    store_big_endian(length + 4, static_cast<u32>(bits));
    add(length, sizeof length);
    Digest digest;
    for (u32 i = 0; i < 8; i++) store_big_endian(digest.bytes + 4 * i, state_[i]);
    return digest;
}

HmacSha256::HmacSha256(Bytes key) {
    u8 padded[64] = {};
    if (key.size > sizeof padded) {
        Sha256 hash;
        hash.add(key.data, key.size);
        const Digest digest = hash.finish();
        copy_bytes(padded, digest.bytes, sizeof digest.bytes);
    } else {
        copy_bytes(padded, key.data, key.size);
    }
    u8 inner_key[64];
    for (u32 i = 0; i < 64; i++) {
        inner_key[i] = padded[i] ^ 0x36;
        outer_key_[i] = padded[i] ^ 0x5c;
    }
    inner_.add(inner_key, sizeof inner_key);
    forget(padded, sizeof padded);
    forget(inner_key, sizeof inner_key);
}

HmacSha256::~HmacSha256() { forget(outer_key_, sizeof outer_key_); }

Digest HmacSha256::finish() {
    const Digest inner = inner_.finish();
    Sha256 outer;
    outer.add(outer_key_, sizeof outer_key_);
    outer.add(inner.bytes, sizeof inner.bytes);
    return outer.finish();
}

Digest hmac_sha256(Bytes key, Bytes data) {
    HmacSha256 hmac(key);
    hmac.add(data.data, data.size);
    return hmac.finish();
}

} // namespace flex::tos
