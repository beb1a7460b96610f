/* SHA-256 (FIPS 180-4) and HMAC (FIPS 198-1). Small rather than fast: used for keys and records of a few KiB.
 */
#ifndef FLEX_TOS_CORE_SHA256_HPP
#define FLEX_TOS_CORE_SHA256_HPP

#include "core/types.hpp"

namespace flex::tos {

struct Digest {
    u8 bytes[32];
};

class Sha256 {
public:
    Sha256();
    ~Sha256();
    void add(const void* data, u64 bytes);
    [[nodiscard]] Digest finish();

private:
    void block(const u8* data);

    u32 state_[8];
    u8 pending_[64];
    u64 total_ = 0;
};

class HmacSha256 {
public:
    explicit HmacSha256(Bytes key);
    ~HmacSha256();
    void add(const void* data, u64 bytes) { inner_.add(data, bytes); }
    [[nodiscard]] Digest finish();

private:
    Sha256 inner_;
    u8 outer_key_[64];
};

[[nodiscard]] Digest hmac_sha256(Bytes key, Bytes data);

} // namespace flex::tos

#endif
