// Who a device is: everything follows from its root key, so the device and whoever provisions it compute the
// same public identity without talking to each other.
//
//   X25519 key   sealed packages wrap their content key to it         label "flexserve/package-x25519/v1"
//   Ed25519 key  signs the certificate of the device's HTTPS server   label "flexserve/tls-ca-ed25519/v1"
//   MAC key      authenticates the list of trusted publishers         label "flexserve/trust-hmac/v1"
//   token        who knows it operates the device (api/operator.h)    label "flexserve/operator/v1"
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/crypto.h"
#include "base/result.h"

namespace flex::port {

inline constexpr std::string_view kPackageKeyLabel = "flexserve/package-x25519/v1";
inline constexpr std::string_view kTlsCaKeyLabel = "flexserve/tls-ca-ed25519/v1";
inline constexpr std::string_view kTrustKeyLabel = "flexserve/trust-hmac/v1";
inline constexpr std::string_view kOperatorKeyLabel = "flexserve/operator/v1";

/// HMAC-SHA256(root key, label): Port::device_key in the device, plain HMAC at provisioning.
using DeriveKey = std::function<Result<crypto::Secret32>(std::string_view label)>;
DeriveKey derive_from(crypto::Bytes root_key); // copies nothing: root_key must outlive the result

/// The operator's token: 64 hexadecimal digits. Who has the device's flash can compute it; its clients
/// cannot.
Result<std::string> operator_token(const DeriveKey& derive);

/// The device's CA certificate as PEM: self-signed Ed25519, the same bytes every time.
Result<std::string> ca_certificate_pem(const crypto::Secret32& ca_key);

/// The file device.pub: one line "flexserve-device-1 <X25519 public key in hexadecimal>".
[[nodiscard]] std::string format_device_public(const crypto::Public32& key);
/// Error: kCorrupt (says what such a file looks like).
Result<crypto::Public32> parse_device_public(std::string_view text);

/// The publishers whose packages a device accepts. `serial` only ever rises (a lower one is refused).
struct TrustList {
    std::uint64_t serial = 0;
    std::vector<crypto::Public32> publishers; ///< Ed25519; at most kMaxPublishers
};
inline constexpr std::size_t kMaxPublishers = 64;
inline constexpr const char* kTrustFile = "device.trust"; ///< in the store folder

/// The file device.trust. It needs the root key to make, so the normal world, which carries it, cannot forge
/// it.
Result<std::vector<std::byte>> format_trust(const TrustList& list, const crypto::Secret32& mac_key);
/// Errors: kCorrupt, kAuthentication.
Result<TrustList> parse_trust(crypto::Bytes content, const crypto::Secret32& mac_key);

/// Writes what the world needs to know of a new device: FOLDER/device.pub, FOLDER/device-ca.pem and
/// FOLDER/store/device.trust (which names `publisher`, with `serial`). Existing files are replaced
/// atomically.
Status provision(crypto::Bytes root_key, const std::string& folder, const crypto::Public32& publisher,
                 std::uint64_t serial = 1);

/// The publisher key of this user: HOME/publisher.key (32 bytes, mode 0600), made on first use.
Result<crypto::Secret32> publisher_key(const std::string& home);

/// The same, for a caller that has a flash image's root key and the user's data folder.
Status provision_for_user(crypto::Bytes root_key, const std::string& folder, const std::string& home);

} // namespace flex::port
