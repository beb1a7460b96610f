// Who asks, as far as that decides what may be shared: the KV cache of one caller is never another's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/crypto.h"

namespace flex::api {

/// A caller is whoever knows a secret: the API key that a client sends (Authorization: Bearer …). Keys
/// shorter than this are no secrets: clients that must send something send "none" or "sk-no-key-required".
inline constexpr std::size_t kMinApiKeyBytes = 32;

/// Derives the key of all these digests from the device's root key (Port::device_key), so that a caller is
/// the same one after a restart.
inline constexpr std::string_view kCallerKeyLabel = "flexserve/caller/v1";

/// One request's caller. Holds no secret, only a digest under a key that nobody else has.
class Caller {
public:
    /// Requests of the same non-empty scope may share what the KV cache holds; everything that must be alike
    /// is in it: the API key, the conversation's key (prompt_cache_key), and the model with its version.
    /// Empty when the request brings neither of the two keys.
    [[nodiscard]] std::string scope(std::string_view model, std::uint64_t version,
                                    std::string_view cache_key) const;
    /// Who may list and delete what is kept of the request: whoever brings the API key or, for requests
    /// without one, the conversation's key. Empty: nobody.
    [[nodiscard]] std::string owner(std::string_view cache_key) const;
    [[nodiscard]] bool known() const { return !digest_.empty(); }

private:
    friend class Callers;
    const crypto::Secret32* key_ = nullptr; // of the Callers it came from
    std::string digest_;                    // of its API key; empty: it has none
    bool fresh_ = false;                    // made by Callers::fresh: nobody comes back as this one
};

/// Any thread. Outlives the callers it makes.
class Callers {
public:
    Callers(); ///< under a random key
    explicit Callers(crypto::Secret32 key) : key_(std::move(key)) {}
    /// From the header's value; "" when there is none.
    [[nodiscard]] Caller of(std::string_view authorization) const;
    /// One that nobody else can be: for what is computed within one request.
    [[nodiscard]] Caller fresh() const;

private:
    crypto::Secret32 key_;
};

} // namespace flex::api
