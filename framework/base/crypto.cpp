#include "base/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace flex::crypto {
namespace {

struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
    void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
};
template <class T> using Owned = std::unique_ptr<T, Free>;

const unsigned char* raw(const std::byte* p) { return reinterpret_cast<const unsigned char*>(p); }
unsigned char* raw(std::byte* p) { return reinterpret_cast<unsigned char*>(p); }

Error broken(const char* what) {
    return fail(ErrorCode::kInternal, std::string("OpenSSL failed to ") + what);
}

Owned<EVP_PKEY> private_key(int type, const Secret32& key) {
    return Owned<EVP_PKEY>(
        EVP_PKEY_new_raw_private_key(type, nullptr, raw(key.bytes().data()), key.bytes().size()));
}

Result<Public32> public_from_private(int type, const Secret32& key) {
    const auto pkey = private_key(type, key);
    Public32 out;
    std::size_t length = out.size();
    if (!pkey || EVP_PKEY_get_raw_public_key(pkey.get(), raw(out.data()), &length) != 1) {
        return broken("derive a public key");
    }
    return out;
}

} // namespace

void wipe(MutableBytes bytes) { OPENSSL_cleanse(bytes.data(), bytes.size()); }

void initialise() { OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr); }

Status random(MutableBytes out) {
    if (RAND_bytes(raw(out.data()), static_cast<int>(out.size())) != 1) return broken("get random bytes");
    return {};
}

Result<Secret32> random_secret() {
    Secret32 secret;
    FLEX_TRY(random(secret.bytes()));
    return secret;
}

Result<Public32> sha256(Bytes data) {
    Public32 out;
    if (EVP_Digest(data.data(), data.size(), raw(out.data()), nullptr, EVP_sha256(), nullptr) != 1) {
        return broken("hash");
    }
    return out;
}

Status hmac_sha256(Bytes key, Bytes data, std::span<std::byte, 32> out) {
    unsigned length = 0;
    if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), raw(data.data()), data.size(),
             raw(out.data()), &length) == nullptr) {
        return broken("compute an HMAC");
    }
    return {};
}

Status hkdf_sha256(Bytes secret, Bytes salt, Bytes info, MutableBytes out) {
    const Owned<EVP_KDF> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
    const Owned<EVP_KDF_CTX> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
    if (!context) return broken("find HKDF");
    char digest[] = "SHA256";
    // OSSL_PARAM has no const; nothing is written through it.
    const auto octets = [](const char* name, Bytes b) {
        return OSSL_PARAM_construct_octet_string(name, const_cast<std::byte*>(b.data()), b.size());
    };
    OSSL_PARAM parameters[5] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        octets(OSSL_KDF_PARAM_KEY, secret),
    };
    std::size_t count =
        2; // OpenSSL refuses a parameter without bytes; leaving it out means the same (RFC 5869, 2.2)
    if (!salt.empty()) parameters[count++] = octets(OSSL_KDF_PARAM_SALT, salt);
    if (!info.empty()) parameters[count++] = octets(OSSL_KDF_PARAM_INFO, info);
    parameters[count] = OSSL_PARAM_construct_end();
    if (EVP_KDF_derive(context.get(), raw(out.data()), out.size(), parameters) != 1) {
        return broken("derive a key");
    }
    return {};
}

bool equal_constant_time(Bytes a, Bytes b) {
    return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Result<Public32> x25519_public(const Secret32& key) { return public_from_private(EVP_PKEY_X25519, key); }

Result<Secret32> x25519_shared(const Secret32& key, const Public32& peer) {
    const auto mine = private_key(EVP_PKEY_X25519, key);
    const Owned<EVP_PKEY> theirs(
        EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, raw(peer.data()), peer.size()));
    const Owned<EVP_PKEY_CTX> context(mine ? EVP_PKEY_CTX_new(mine.get(), nullptr) : nullptr);
    Secret32 out;
    std::size_t length = out.bytes().size();
    if (!theirs || !context || EVP_PKEY_derive_init(context.get()) != 1 ||
        EVP_PKEY_derive_set_peer(context.get(), theirs.get()) != 1 ||
        EVP_PKEY_derive(context.get(), raw(out.bytes().data()), &length) != 1) {
        return fail(ErrorCode::kAuthentication, "the X25519 public key is not usable");
    }
    return out;
}

Result<Public32> ed25519_public(const Secret32& key) { return public_from_private(EVP_PKEY_ED25519, key); }

Result<Signature> ed25519_sign(const Secret32& key, Bytes message) {
    const auto pkey = private_key(EVP_PKEY_ED25519, key);
    const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
    Signature out;
    std::size_t length = out.size();
    if (!pkey || !context || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, pkey.get()) != 1 ||
        EVP_DigestSign(context.get(), raw(out.data()), &length, raw(message.data()), message.size()) != 1) {
        return broken("sign");
    }
    return out;
}

bool ed25519_verify(const Public32& key, Bytes message, const Signature& signature) {
    const Owned<EVP_PKEY> pkey(
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw(key.data()), key.size()));
    const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
    return pkey && context &&
           EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, pkey.get()) == 1 &&
           EVP_DigestVerify(context.get(), raw(signature.data()), signature.size(), raw(message.data()),
                            message.size()) == 1;
}

const char* name_of(Cipher cipher) {
    return cipher == Cipher::kAes256Gcm ? "aes-256-gcm" : "chacha20-poly1305";
}

Result<Cipher> cipher_from(std::string_view name) {
    for (const Cipher cipher : {Cipher::kAes256Gcm, Cipher::kChaCha20Poly1305}) {
        if (name == name_of(cipher)) return cipher;
    }
    return fail(ErrorCode::kInvalidArgument,
                "unknown cipher \"" + std::string(name) + "\"; use aes-256-gcm or chacha20-poly1305");
}

Result<Aead> Aead::create(Cipher cipher, const Secret32& key) {
    const EVP_CIPHER* evp = cipher == Cipher::kAes256Gcm ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
    Aead aead(EVP_CIPHER_CTX_new());
    if (aead.context_ == nullptr ||
        EVP_CipherInit_ex(aead.context_, evp, nullptr, raw(key.bytes().data()), nullptr, 1) != 1) {
        return broken("set up a cipher");
    }
    return aead;
}

Aead::Aead(Aead&& other) noexcept : context_(std::exchange(other.context_, nullptr)) {}
Aead& Aead::operator=(Aead&& other) noexcept {
    std::swap(context_, other.context_);
    return *this;
}
Aead::~Aead() { EVP_CIPHER_CTX_free(context_); }

namespace {

/// EVP counts in int; feeding it in pieces keeps any length right.
bool update(EVP_CIPHER_CTX* context, Bytes in, std::byte* out) {
    constexpr std::size_t kPiece = 1u << 30;
    for (std::size_t done = 0; done < in.size();) {
        const std::size_t piece = std::min(kPiece, in.size() - done);
        int length = 0;
        if (EVP_CipherUpdate(context, out == nullptr ? nullptr : raw(out + done), &length,
                             raw(in.data() + done), static_cast<int>(piece)) != 1) {
            return false;
        }
        done += piece;
    }
    return true;
}

} // namespace

Status Aead::seal(const Nonce& nonce, Bytes associated, Bytes in, MutableBytes out, Tag& tag) {
    std::array<unsigned char, 16> rest;
    int length = 0;
    if (in.size() != out.size() ||
        EVP_CipherInit_ex(context_, nullptr, nullptr, nullptr, raw(nonce.data()), 1) != 1 ||
        !update(context_, associated, nullptr) || !update(context_, in, out.data()) ||
        EVP_CipherFinal_ex(context_, rest.data(), &length) != 1 ||
        EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(tag.size()), tag.data()) != 1) {
        return broken("encrypt");
    }
    return {};
}

Status Aead::open(const Nonce& nonce, Bytes associated, Bytes in, MutableBytes out, const Tag& tag) {
    std::array<unsigned char, 16> rest;
    int length = 0;
    auto expected = tag; // EVP takes it as mutable
    if (in.size() != out.size() ||
        EVP_CipherInit_ex(context_, nullptr, nullptr, nullptr, raw(nonce.data()), 0) != 1 ||
        EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(expected.size()),
                            expected.data()) != 1 ||
        !update(context_, associated, nullptr) || !update(context_, in, out.data()) ||
        EVP_CipherFinal_ex(context_, rest.data(), &length) != 1) {
        wipe(out);
        return fail(ErrorCode::kAuthentication, "authentication failed");
    }
    return {};
}

std::string hex(Bytes bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string out;
    out.reserve(2 * bytes.size());
    for (const std::byte b : bytes) {
        out += kDigits[std::to_integer<unsigned>(b) >> 4];
        out += kDigits[std::to_integer<unsigned>(b) & 15];
    }
    return out;
}

Status from_hex(std::string_view text, MutableBytes out) {
    const auto digit = [](char c) -> int {
        if (c >= '0' && c <= '9') return c - '0';
        if (c >= 'a' && c <= 'f') return c - 'a' + 10;
        if (c >= 'A' && c <= 'F') return c - 'A' + 10;
        return -1;
    };
    if (text.size() != 2 * out.size()) {
        return fail(ErrorCode::kCorrupt, "expected " + std::to_string(2 * out.size()) +
                                             " hexadecimal digits, found " + std::to_string(text.size()));
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
        const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return fail(ErrorCode::kCorrupt, "not a hexadecimal number");
        out[i] = static_cast<std::byte>(high << 4 | low);
    }
    return {};
}

} // namespace flex::crypto
