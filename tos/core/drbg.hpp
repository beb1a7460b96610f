/*
 * Random numbers: ChaCha20 (RFC 8439) with fast key erasure. Every request makes a fresh key from the old one
 * first, so what was given out cannot be recomputed from the state. Seeds are hashed in; a weak one never
 * weakens it. Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_DRBG_HPP
#define FLEX_TOS_CORE_DRBG_HPP

#include "core/types.hpp"

namespace flex::tos {

void chacha20_block(const u32 (&key)[8], u32 counter, const u32 (&nonce)[3], u8 (&out)[64]);

class Drbg {
public:
    void seed(Bytes entropy);
    void generate(u8* out, u64 bytes);

private:
    u32 key_[8] = {};
};

} // namespace flex::tos

#endif
