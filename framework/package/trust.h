// Whom and what this device believes: the list of publishers, and the newest version seen of every package.
//
// What is remembered lies in the rollback-proof store, so neither replacing files nor a reset brings back an
// older package or an older list of publishers.
#pragma once

#include <mutex>
#include <optional>
#include <vector>

#include "base/result.h"
#include "package/manifest.h"
#include "port/identity.h"
#include "port/port.h"

namespace flex::package {

/// The record of one package name.
struct SeenPackage {
    std::array<std::byte, 16> name_hash{}; ///< of SHA-256(name)
    std::array<std::byte, 16> publisher_hash{};
    std::uint64_t version = 0;
    PackageId id{};
};

/// What the rollback-proof store holds.
struct TrustRecord {
    std::uint64_t trust_serial = 0; ///< highest serial of a list of publishers seen
    std::vector<SeenPackage> seen;
    /// What the keys of stored conversations hang on (docs/kv-store.md); a new one makes the old ones
    /// worthless.
    std::optional<std::array<std::byte, 32>> conversations{};
};

inline constexpr std::size_t kMaxSeenPackages = 290; ///< fits the 16 KiB of the store

[[nodiscard]] std::vector<std::byte> format_record(const TrustRecord& record);
/// Empty content is an empty record. Error: kCorrupt.
Result<TrustRecord> parse_record(crypto::Bytes content);

/// Decides about `manifest` against `list`, and updates both serial and versions in `record`; returns whether
/// it changed. Errors: kAuthentication (unknown publisher, older version, same version with other content,
/// name owned by another publisher, older list), kUnsupported (store full).
Result<bool> admit(const Manifest& manifest, const port::TrustList& list, TrustRecord& record);

/// The device's memory of trust. Any thread.
class TrustStore {
public:
    /// `port` must outlive it.
    explicit TrustStore(port::Port& port) : port_(port) {}

    /// Refuses the package, or accepts it and remembers its version. Errors: as admit(); kNotFound when the
    /// device was never told of a publisher; kIo.
    Status admit(const Manifest& manifest);

    /// TrustRecord::conversations. Errors: kNotFound (there was never one), kIo, kCorrupt.
    Result<crypto::Secret32> conversations_secret();
    /// Replaces it: what hung on the old one cannot be opened any more.
    Status replace_conversations_secret(const crypto::Secret32& secret);

private:
    port::Port& port_;
    std::mutex mutex_;
};

} // namespace flex::package
