#include "api/caller.h"

namespace flex::api {
namespace {

/// A digest of several fields that no other fields have. Empty when OpenSSL fails: then nothing is shared.
std::string digest(const crypto::Secret32& key, std::initializer_list<std::string_view> fields) {
    std::string message;
    for (const std::string_view field : fields)
        message += std::to_string(field.size()) + ":" + std::string(field);
    std::array<std::byte, 32> out{};
    const bool done = crypto::hmac_sha256(key.bytes(), crypto::bytes_of(message), out).ok();
    crypto::wipe(std::as_writable_bytes(std::span(message)));
    return done ? crypto::hex(out) : std::string();
}

} // namespace

std::string Caller::scope(std::string_view model, std::uint64_t version, std::string_view cache_key) const {
    if (digest_.empty() && cache_key.empty()) return {};
    return digest(*key_, {"scope", digest_, cache_key, model, std::to_string(version)});
}

std::string Caller::owner(std::string_view cache_key) const {
    if (fresh_) return {};
    if (!digest_.empty()) return digest(*key_, {"owner", digest_});
    return cache_key.empty() ? std::string() : digest(*key_, {"owner by conversation", cache_key});
}

Callers::Callers() {
    // Without randomness there is no TLS either; a key of zeros would only make digests guessable to who
    // can already read this memory.
    static_cast<void>(crypto::random(key_.bytes()));
}

Caller Callers::of(std::string_view authorization) const {
    constexpr std::string_view kScheme = "Bearer ";
    Caller caller;
    caller.key_ = &key_;
    if (!authorization.starts_with(kScheme)) return caller;
    const std::string_view api_key = authorization.substr(kScheme.size());
    if (api_key.size() >= kMinApiKeyBytes) caller.digest_ = digest(key_, {"caller", api_key});
    return caller;
}

Caller Callers::fresh() const {
    std::array<std::byte, 32> name{};
    Caller caller;
    caller.key_ = &key_;
    caller.fresh_ = true;
    if (crypto::random(name).ok()) caller.digest_ = digest(key_, {"fresh", crypto::hex(name)});
    return caller;
}

} // namespace flex::api
