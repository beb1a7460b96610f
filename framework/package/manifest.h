// The outside of a sealed model: header and manifest of a .flex file (docs/package-format.md).
//
// Everything read from a file is hostile until parse() has returned: it bounds every count by the file's own
// size before using it, and it checks the publisher's signature over all of it. After parse() the numbers are
// consistent with each other and are what the publisher wrote; whether that publisher is trusted, and whether
// the package is for this device and recent enough, are questions for package/trust.h and package/package.h.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/crypto.h"
#include "base/result.h"

namespace flex::package {

inline constexpr std::uint32_t kFormatVersion = 2;
inline constexpr std::uint64_t kAlignment = 4096; ///< of chunks, in the file and in memory
inline constexpr std::uint64_t kTensorAlignment = 64;
inline constexpr std::uint32_t kMinChunkBytes = 64u << 10;
inline constexpr std::uint32_t kMaxChunkBytes = 16u << 20;
inline constexpr std::uint32_t kMaxManifestBytes = 4u << 20;
inline constexpr std::uint32_t kMaxGroups = 4096;
inline constexpr std::uint32_t kMaxChunks = 131072;
inline constexpr std::size_t kMaxNameBytes = 64;
inline constexpr std::size_t kHeaderBytes = 160;

/// What belongs together in memory: loaded with one request, decrypted in place.
enum class GroupKind : std::uint32_t { kMetadata = 0, kStage = 1 };

struct Group {
    GroupKind kind = GroupKind::kMetadata;
    std::uint32_t stage = 0;       ///< engine::Stage of a kStage group
    std::uint32_t first_chunk = 0; ///< groups own consecutive chunks, in order, without gaps
    std::uint32_t chunk_count = 0; ///< at least 1
};

struct Chunk {
    std::uint32_t bytes = 0; ///< of ciphertext = of plaintext; a multiple of kAlignment, at most chunk_bytes
    std::uint32_t group = 0;
    crypto::Tag tag{};
};

using PackageId = std::array<std::byte, 16>;

struct Manifest {
    crypto::Public32 publisher{}; ///< Ed25519; from the header
    PackageId id{};               ///< random, new with each sealing
    std::uint64_t version = 0;
    crypto::Cipher cipher = crypto::Cipher::kChaCha20Poly1305;
    std::uint32_t chunk_bytes = 0;
    std::uint64_t data_offset = 0; ///< of the first chunk
    std::uint64_t file_bytes = 0;  ///< = data_offset + all chunks
    crypto::Public32 device{};     ///< X25519 public key of the only device that can open it
    crypto::Public32 ephemeral{};  ///< X25519, made for this sealing
    std::array<std::byte, 32> wrapped_key{};
    crypto::Tag wrapped_key_tag{};
    std::string name; ///< what clients call the model; 1..64 of [A-Za-z0-9._-], not starting with '.'
    std::vector<Group> groups;
    std::vector<Chunk> chunks;

    [[nodiscard]] std::uint64_t group_bytes(const Group& group) const;
    /// Offset in the file of a chunk.
    [[nodiscard]] std::uint64_t chunk_offset(std::uint32_t chunk) const;
};

[[nodiscard]] bool is_valid_name(std::string_view name);

/// Bytes of header plus manifest.
[[nodiscard]] std::uint64_t serialized_bytes(const Manifest& manifest);

/// Header and manifest, signed. `manifest.publisher` is set from the key. Error: kInternal.
Result<std::vector<std::byte>> serialize(Manifest& manifest, const crypto::Secret32& publisher_key);

/// Bytes of header plus manifest, from the first kHeaderBytes of a file. Errors: kCorrupt (not a package),
/// kUnsupported (newer format).
Result<std::uint64_t> prefix_bytes(crypto::Bytes header, std::uint64_t file_bytes);

/// `prefix`: exactly prefix_bytes() bytes. Errors: kCorrupt, kUnsupported, kAuthentication (signature).
Result<Manifest> parse(crypto::Bytes prefix, std::uint64_t file_bytes);

/// What is bound to a chunk besides its content (the AEAD's associated data), and its nonce.
[[nodiscard]] std::array<std::byte, 48> chunk_associated_data(const Manifest& manifest, std::uint32_t chunk);
[[nodiscard]] crypto::Nonce chunk_nonce(std::uint32_t chunk);

/// Content key <-> wrapped form in the manifest (id, version, cipher, name, device must be set).
Status wrap_key(Manifest& manifest, const crypto::Secret32& content_key);
/// Error: kAuthentication.
Result<crypto::Secret32> unwrap_key(const Manifest& manifest, const crypto::Secret32& device_key);

} // namespace flex::package
