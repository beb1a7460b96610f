#include "api/tls.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <memory>

#include "port/identity.h"

namespace flex::api {
namespace {

struct Free {
    void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
    void operator()(X509* p) const { X509_free(p); }
    void operator()(BIO* p) const { BIO_free(p); }
    void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Certificate = std::unique_ptr<X509, Free>;

constexpr const char* kAlternativeNames = "DNS:localhost,IP:127.0.0.1,IP:::1";

bool add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    const std::unique_ptr<X509_EXTENSION, Free> extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
    return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_random_serial(X509* certificate) {
    std::array<std::byte, 16> serial;
    if (!crypto::random(serial)) return false;
    serial[0] &= std::byte{0x7f}; // positive (RFC 5280, 4.1.2.2)
    BIGNUM* number = BN_bin2bn(reinterpret_cast<const unsigned char*>(serial.data()), serial.size(), nullptr);
    const bool done =
        number != nullptr && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
    BN_free(number);
    return done;
}

/// The dates are those of the CA: the device's only clock is the normal world's, which proves nothing.
Certificate make_leaf(EVP_PKEY* leaf_key, X509* ca, EVP_PKEY* ca_key) {
    Certificate leaf(X509_new());
    const auto* name = reinterpret_cast<const unsigned char*>("localhost");
    if (!leaf || X509_set_version(leaf.get(), X509_VERSION_3) != 1 || !set_random_serial(leaf.get()) ||
        X509_set1_notBefore(leaf.get(), X509_get0_notBefore(ca)) != 1 ||
        X509_set1_notAfter(leaf.get(), X509_get0_notAfter(ca)) != 1 ||
        X509_NAME_add_entry_by_txt(X509_get_subject_name(leaf.get()), "CN", MBSTRING_ASC, name, -1, -1, 0) !=
            1 ||
        X509_set_issuer_name(leaf.get(), X509_get_subject_name(ca)) != 1 ||
        X509_set_pubkey(leaf.get(), leaf_key) != 1 ||
        !add_extension(leaf.get(), ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(leaf.get(), ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(leaf.get(), ca, NID_ext_key_usage, "serverAuth") ||
        !add_extension(leaf.get(), ca, NID_subject_alt_name, kAlternativeNames) ||
        !add_extension(leaf.get(), ca, NID_subject_key_identifier, "hash") ||
        !add_extension(leaf.get(), ca, NID_authority_key_identifier, "keyid") ||
        X509_sign(leaf.get(), ca_key, nullptr) <= 0) {
        return nullptr;
    }
    return leaf;
}

bool apply(SSL_CTX* context, X509* leaf, EVP_PKEY* leaf_key) {
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_num_tickets(context, 0) ==
               1 && // no resumption: each connection proves the device anew
           SSL_CTX_set_max_early_data(context, 0) == 1 &&
           SSL_CTX_use_certificate(context, leaf) == 1 && SSL_CTX_use_PrivateKey(context, leaf_key) == 1;
}

} // namespace

Status configure_tls(ssl_ctx_st* context, port::Port& port) {
    FLEX_ASSIGN(const auto ca_secret, port.device_key(port::kTlsCaKeyLabel));
    FLEX_ASSIGN(const std::string ca_pem, port::ca_certificate_pem(ca_secret));
    const std::unique_ptr<BIO, Free> text(BIO_new_mem_buf(ca_pem.data(), static_cast<int>(ca_pem.size())));
    const Certificate ca(text ? PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr) : nullptr);
    const Key ca_key(EVP_PKEY_new_raw_private_key(
        EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(ca_secret.bytes().data()), 32));
    const Key leaf_key(EVP_EC_gen("P-256"));
    const Certificate leaf(ca && ca_key && leaf_key ? make_leaf(leaf_key.get(), ca.get(), ca_key.get())
                                                    : nullptr);
    if (!leaf || !apply(context, leaf.get(), leaf_key.get())) {
        return fail(ErrorCode::kInternal, "OpenSSL failed to make the server's certificate");
    }
    return {};
}

Result<std::string> device_ca_pem(port::Port& port) {
    FLEX_ASSIGN(const auto ca_secret, port.device_key(port::kTlsCaKeyLabel));
    return port::ca_certificate_pem(ca_secret);
}

} // namespace flex::api
