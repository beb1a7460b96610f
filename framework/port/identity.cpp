#include "port/identity.h"

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "port/files.h"

namespace flex::port {
namespace {

constexpr std::string_view kDeviceWord = "flexserve-device-1 ";
constexpr std::string_view kTrustMagic = "FLEXTRS1";

struct Free {
    void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
    void operator()(X509* p) const { X509_free(p); }
    void operator()(BIO* p) const { BIO_free(p); }
    void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
};

bool add_extension(X509* certificate, int nid, const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
    const std::unique_ptr<X509_EXTENSION, Free> extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
    return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

/// Everything in it is fixed or follows from the key, so that two makers agree. (RFC 5280; RFC 8410 for
/// Ed25519, whose signatures are deterministic. 99991231235959Z is RFC 5280's "no expiry", 4.1.2.5.)
bool fill_ca(X509* certificate, EVP_PKEY* key, const crypto::Public32& public_key) {
    const std::string name = "FlexServe device " + crypto::hex(crypto::Bytes(public_key).first(8));
    X509_NAME* subject = X509_get_subject_name(certificate);
    return X509_set_version(certificate, X509_VERSION_3) == 1 &&
           ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1) == 1 &&
           ASN1_TIME_set_string_X509(X509_getm_notBefore(certificate), "20250101000000Z") == 1 &&
           ASN1_TIME_set_string_X509(X509_getm_notAfter(certificate), "99991231235959Z") == 1 &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                      reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0) == 1 &&
           X509_set_issuer_name(certificate, subject) == 1 && X509_set_pubkey(certificate, key) == 1 &&
           add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
           add_extension(certificate, NID_key_usage, "critical,keyCertSign") &&
           add_extension(certificate, NID_subject_key_identifier, "hash") &&
           X509_sign(certificate, key, nullptr) > 0;
}

void put_u32(std::vector<std::byte>& to, std::uint32_t value) {
    for (int i = 0; i < 4; ++i) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}
void put_u64(std::vector<std::byte>& to, std::uint64_t value) {
    for (int i = 0; i < 8; ++i) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}
std::uint64_t get_little_endian(crypto::Bytes bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = bytes.size(); i-- > 0;)
        value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
    return value;
}

} // namespace

DeriveKey derive_from(crypto::Bytes root_key) {
    return [root_key](std::string_view label) -> Result<crypto::Secret32> {
        crypto::Secret32 key;
        FLEX_TRY(crypto::hmac_sha256(root_key, crypto::bytes_of(label), key.bytes().first<32>()));
        return key;
    };
}

Result<std::string> operator_token(const DeriveKey& derive) {
    FLEX_ASSIGN(const auto key, derive(kOperatorKeyLabel));
    return crypto::hex(key.bytes());
}

Result<std::string> ca_certificate_pem(const crypto::Secret32& ca_key) {
    FLEX_ASSIGN(const auto public_key, crypto::ed25519_public(ca_key));
    const std::unique_ptr<EVP_PKEY, Free> key(EVP_PKEY_new_raw_private_key(
        EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(ca_key.bytes().data()), 32));
    const std::unique_ptr<X509, Free> certificate(X509_new());
    const std::unique_ptr<BIO, Free> out(BIO_new(BIO_s_mem()));
    if (!key || !certificate || !out || !fill_ca(certificate.get(), key.get(), public_key) ||
        PEM_write_bio_X509(out.get(), certificate.get()) != 1) {
        return fail(ErrorCode::kInternal, "OpenSSL failed to make the device's certificate");
    }
    char* text = nullptr;
    const long length = BIO_get_mem_data(out.get(), &text);
    return std::string(text, static_cast<std::size_t>(length));
}

std::string format_device_public(const crypto::Public32& key) {
    return std::string(kDeviceWord) + crypto::hex(key) + "\n";
}

Result<crypto::Public32> parse_device_public(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
    crypto::Public32 key;
    if (!text.starts_with(kDeviceWord) || !crypto::from_hex(text.substr(kDeviceWord.size()), key)) {
        return fail(ErrorCode::kCorrupt, "not a device's public key (one line: flexserve-device-1 and 64 "
                                         "hexadecimal digits)");
    }
    return key;
}

Result<std::vector<std::byte>> format_trust(const TrustList& list, const crypto::Secret32& mac_key) {
    if (list.publishers.size() > kMaxPublishers) {
        return fail(ErrorCode::kInvalidArgument, "more than 64 publishers");
    }
    std::vector<std::byte> content;
    for (const char c : kTrustMagic) content.push_back(static_cast<std::byte>(c));
    put_u64(content, list.serial);
    put_u32(content, static_cast<std::uint32_t>(list.publishers.size()));
    put_u32(content, 0);
    for (const auto& publisher : list.publishers)
        content.insert(content.end(), publisher.begin(), publisher.end());
    std::array<std::byte, 32> mac;
    FLEX_TRY(crypto::hmac_sha256(mac_key.bytes(), content, mac));
    content.insert(content.end(), mac.begin(), mac.end());
    return content;
}

Result<TrustList> parse_trust(crypto::Bytes content, const crypto::Secret32& mac_key) {
    constexpr std::size_t kHead = 24, kMac = 32;
    if (content.size() < kHead + kMac ||
        std::memcmp(content.data(), kTrustMagic.data(), kTrustMagic.size()) != 0) {
        return fail(ErrorCode::kCorrupt, "the device's list of publishers is damaged; provision it again");
    }
    const auto body = content.first(content.size() - kMac);
    std::array<std::byte, 32> mac;
    FLEX_TRY(crypto::hmac_sha256(mac_key.bytes(), body, mac));
    if (!crypto::equal_constant_time(mac, content.last(kMac))) {
        return fail(ErrorCode::kAuthentication,
                    "the device's list of publishers was not made for this device, or was changed");
    }
    TrustList list;
    list.serial = get_little_endian(body.subspan(8, 8));
    const std::uint64_t count = get_little_endian(body.subspan(16, 4));
    if (count > kMaxPublishers || body.size() != kHead + 32 * count) {
        return fail(ErrorCode::kCorrupt,
                    "the device's list of publishers is inconsistent; provision it again");
    }
    list.publishers.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
        std::ranges::copy(body.subspan(kHead + 32 * i, 32), list.publishers[i].begin());
    }
    return list;
}

Status provision(crypto::Bytes root_key, const std::string& folder, const crypto::Public32& publisher,
                 std::uint64_t serial) {
    const DeriveKey derive = derive_from(root_key);
    FLEX_ASSIGN(const auto package_key, derive(kPackageKeyLabel));
    FLEX_ASSIGN(const auto ca_key, derive(kTlsCaKeyLabel));
    FLEX_ASSIGN(const auto mac_key, derive(kTrustKeyLabel));
    FLEX_ASSIGN(const auto package_public, crypto::x25519_public(package_key));
    FLEX_ASSIGN(const std::string certificate, ca_certificate_pem(ca_key));
    FLEX_ASSIGN(const auto trust, format_trust({serial, {publisher}}, mac_key));
    FLEX_TRY(make_folders(folder + "/store"));
    FLEX_TRY(write_file(folder + "/device.pub", crypto::bytes_of(format_device_public(package_public))));
    FLEX_TRY(write_file(folder + "/device-ca.pem", crypto::bytes_of(certificate)));
    return write_file(folder + "/store/" + kTrustFile, trust);
}

Result<crypto::Secret32> publisher_key(const std::string& home) {
    const std::string path = home + "/publisher.key";
    crypto::Secret32 key;
    auto content = read_file(path, key.bytes().size());
    if (content) {
        if (content->size() != key.bytes().size()) {
            return fail(ErrorCode::kCorrupt, path + " is not a publisher's key of 32 bytes");
        }
        std::ranges::copy(*content, key.bytes().begin());
        crypto::wipe(*content);
        return key;
    }
    if (content.error().code != ErrorCode::kNotFound) return content.error();
    FLEX_TRY(make_folders(home, 0700));
    FLEX_TRY(crypto::random(key.bytes()));
    FLEX_TRY(write_file(path, key.bytes(), 0600));
    return key;
}

Status provision_for_user(crypto::Bytes root_key, const std::string& folder, const std::string& home) {
    FLEX_ASSIGN(const auto key, publisher_key(home));
    FLEX_ASSIGN(const auto publisher, crypto::ed25519_public(key));
    return provision(root_key, folder, publisher);
}

} // namespace flex::port
