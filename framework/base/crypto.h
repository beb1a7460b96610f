// The cryptography FlexServe uses, as values and errors over OpenSSL 3. Nothing here invents anything.
//
// Thread-safety: free functions may be called from any thread; an Aead belongs to one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

struct evp_cipher_ctx_st;

namespace flex::crypto {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;
using Public32 = std::array<std::byte, 32>; ///< a public key or a digest
using Tag = std::array<std::byte, 16>;
using Nonce = std::array<std::byte, 12>;
using Signature = std::array<std::byte, 64>;

void wipe(MutableBytes bytes);

/// 32 secret bytes that are overwritten when they go. Copying is spelled out, so that no copy is forgotten.
class Secret32 {
public:
    Secret32() = default;
    ~Secret32() { wipe(bytes_); }
    Secret32(Secret32&& other) noexcept : bytes_(other.bytes_) { wipe(other.bytes_); }
    Secret32& operator=(Secret32&& other) noexcept {
        bytes_ = other.bytes_;
        if (this != &other) wipe(other.bytes_);
        return *this;
    }
    Secret32(const Secret32&) = delete;
    Secret32& operator=(const Secret32&) = delete;

    [[nodiscard]] MutableBytes bytes() { return bytes_; }
    [[nodiscard]] Bytes bytes() const { return bytes_; }

private:
    std::array<std::byte, 32> bytes_{};
};

[[nodiscard]] inline Bytes bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// Call once, before any other use of OpenSSL: no configuration file is read and nothing is loaded from disk.
void initialise();

/// From the system's generator. Error: kInternal (no entropy).
Status random(MutableBytes out);
Result<Secret32> random_secret();

Result<Public32> sha256(Bytes data);
/// RFC 2104.
Status hmac_sha256(Bytes key, Bytes data, std::span<std::byte, 32> out);
/// RFC 5869, extract and expand.
Status hkdf_sha256(Bytes secret, Bytes salt, Bytes info, MutableBytes out);
[[nodiscard]] bool equal_constant_time(Bytes a, Bytes b);

/// X25519 (RFC 7748). A private key is any 32 bytes (clamped inside).
Result<Public32> x25519_public(const Secret32& private_key);
/// Error: kAuthentication when the result would be all zero (a public key of small order).
Result<Secret32> x25519_shared(const Secret32& private_key, const Public32& peer);

/// Ed25519 (RFC 8032). A private key is any 32 bytes; signatures are deterministic.
Result<Public32> ed25519_public(const Secret32& private_key);
Result<Signature> ed25519_sign(const Secret32& private_key, Bytes message);
[[nodiscard]] bool ed25519_verify(const Public32& public_key, Bytes message, const Signature& signature);

/// Numbers are those of the package format.
enum class Cipher : std::uint32_t { kAes256Gcm = 1, kChaCha20Poly1305 = 2 };
[[nodiscard]] const char* name_of(Cipher cipher);
/// "aes-256-gcm", "chacha20-poly1305". Error: kInvalidArgument.
Result<Cipher> cipher_from(std::string_view name);

/// Authenticated encryption under one key. `in` and `out` have the same length and may be the same memory.
class Aead {
public:
    static Result<Aead> create(Cipher cipher, const Secret32& key);
    Aead(Aead&&) noexcept;
    Aead& operator=(Aead&&) noexcept;
    ~Aead();

    /// A nonce must never be used twice under one key.
    Status seal(const Nonce& nonce, Bytes associated, Bytes in, MutableBytes out, Tag& tag);
    /// Error: kAuthentication; `out` is then wiped, so that no unauthenticated plaintext is left.
    Status open(const Nonce& nonce, Bytes associated, Bytes in, MutableBytes out, const Tag& tag);

private:
    explicit Aead(evp_cipher_ctx_st* context) : context_(context) {}
    evp_cipher_ctx_st* context_; // keyed; owned
};

[[nodiscard]] std::string hex(Bytes bytes);
/// Exactly out.size() bytes in hexadecimal. Error: kCorrupt.
Status from_hex(std::string_view text, MutableBytes out);

} // namespace flex::crypto
