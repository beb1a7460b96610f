#include "package/manifest.h"

#include <algorithm>
#include <cstring>

namespace flex::package {
namespace {

using crypto::Bytes;
using crypto::MutableBytes;

constexpr std::string_view kMagic = "FLEXPKG\n";
constexpr std::string_view kSignatureDomain = "flexserve package signature v1\n";
constexpr std::string_view kChunkDomain = "flexchk1";
constexpr std::string_view kWrapDomain = "flexserve content key v1";

// Byte offsets within the file header (docs/package-format.md).
constexpr std::size_t kPublisherAt = 16, kSignedHeaderBytes = 48, kSignatureAt = 48, kReservedAt = 112;
// Sizes within the manifest.
constexpr std::size_t kFixedBytes = 240, kGroupBytes = 16, kChunkEntryBytes = 24;

/// Little-endian writer over a fixed area.
class Writer {
public:
    explicit Writer(MutableBytes to) : to_(to) {}
    template <class T> void number(T value) {
        for (std::size_t i = 0; i < sizeof(T); ++i) to_[at_++] = static_cast<std::byte>(value >> (8 * i));
    }
    void bytes(Bytes from) {
        std::ranges::copy(from, to_.begin() + static_cast<std::ptrdiff_t>(at_));
        at_ += from.size();
    }
    void zeros(std::size_t count) { at_ += count; } // the area starts zeroed
    [[nodiscard]] std::size_t at() const { return at_; }

private:
    MutableBytes to_;
    std::size_t at_ = 0;
};

/// Little-endian reader; reading past the end gives zeros and is remembered.
class Reader {
public:
    explicit Reader(Bytes from) : from_(from) {}
    template <class T> T number() {
        const Bytes b = take(sizeof(T));
        std::uint64_t value = 0;
        for (std::size_t i = b.size(); i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(b[i]);
        return static_cast<T>(value);
    }
    void bytes(MutableBytes to) {
        const Bytes b = take(to.size());
        std::ranges::copy(b, to.begin());
    }
    [[nodiscard]] bool zeros(std::size_t count) {
        return std::ranges::all_of(take(count), [](std::byte b) { return b == std::byte{0}; });
    }
    Bytes take(std::size_t count) {
        if (count > from_.size()) {
            overrun_ = true;
            return {};
        }
        const Bytes part = from_.first(count);
        from_ = from_.subspan(count);
        return part;
    }
    [[nodiscard]] bool at_end() const { return from_.empty() && !overrun_; }
    [[nodiscard]] bool overrun() const { return overrun_; }
    [[nodiscard]] std::size_t left() const { return from_.size(); }

private:
    Bytes from_;
    bool overrun_ = false;
};

Error corrupt(const std::string& what) {
    return fail(ErrorCode::kCorrupt, "the package is damaged (" + what + "); copy or seal it again");
}

std::size_t manifest_bytes(const Manifest& m) {
    return kFixedBytes + kGroupBytes * m.groups.size() + kChunkEntryBytes * m.chunks.size();
}

std::vector<std::byte> signed_message(Bytes prefix) {
    std::vector<std::byte> message;
    message.reserve(kSignatureDomain.size() + prefix.size());
    for (const char c : kSignatureDomain) message.push_back(static_cast<std::byte>(c));
    const auto add = [&](Bytes b) { message.insert(message.end(), b.begin(), b.end()); };
    add(prefix.first(kSignedHeaderBytes));
    add(prefix.subspan(kHeaderBytes));
    return message;
}

void write_manifest(const Manifest& m, Writer& to) {
    to.bytes(m.id);
    to.number(m.version);
    to.number(static_cast<std::uint32_t>(m.cipher));
    to.number(m.chunk_bytes);
    to.number(m.data_offset);
    to.number(m.file_bytes);
    to.bytes(m.device);
    to.bytes(m.ephemeral);
    to.bytes(m.wrapped_key);
    to.bytes(m.wrapped_key_tag);
    to.number(static_cast<std::uint32_t>(m.groups.size()));
    to.number(static_cast<std::uint32_t>(m.chunks.size()));
    to.number(static_cast<std::uint16_t>(m.name.size()));
    to.zeros(6);
    to.bytes(crypto::bytes_of(m.name));
    to.zeros(kMaxNameBytes - m.name.size());
    for (const Group& group : m.groups) {
        to.number(static_cast<std::uint32_t>(group.kind));
        to.number(group.stage);
        to.number(group.first_chunk);
        to.number(group.chunk_count);
    }
    for (const Chunk& chunk : m.chunks) {
        to.number(chunk.bytes);
        to.number(chunk.group);
        to.bytes(chunk.tag);
    }
}

/// The fixed part; returns the two counts through the references.
Status read_fixed(Reader& from, Manifest& m, std::uint32_t& groups, std::uint32_t& chunks) {
    from.bytes(m.id);
    m.version = from.number<std::uint64_t>();
    const auto cipher = from.number<std::uint32_t>();
    m.chunk_bytes = from.number<std::uint32_t>();
    m.data_offset = from.number<std::uint64_t>();
    m.file_bytes = from.number<std::uint64_t>();
    from.bytes(m.device);
    from.bytes(m.ephemeral);
    from.bytes(m.wrapped_key);
    from.bytes(m.wrapped_key_tag);
    groups = from.number<std::uint32_t>();
    chunks = from.number<std::uint32_t>();
    const auto name_bytes = from.number<std::uint16_t>();
    const bool padding = from.zeros(6);
    if (name_bytes > kMaxNameBytes) return corrupt("a name of " + std::to_string(name_bytes) + " bytes");
    const Bytes name = from.take(name_bytes);
    m.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    if (!padding || !from.zeros(kMaxNameBytes - name_bytes)) return corrupt("reserved bytes are not zero");
    if (from.overrun()) return corrupt("the manifest is too short");
    if (!is_valid_name(m.name)) return corrupt("the model's name is not allowed");
    if (cipher != static_cast<std::uint32_t>(crypto::Cipher::kAes256Gcm) &&
        cipher != static_cast<std::uint32_t>(crypto::Cipher::kChaCha20Poly1305)) {
        return fail(ErrorCode::kUnsupported, "the package uses cipher number " + std::to_string(cipher) +
                                                 ", which this version does not know");
    }
    m.cipher = static_cast<crypto::Cipher>(cipher);
    if (m.chunk_bytes < kMinChunkBytes || m.chunk_bytes > kMaxChunkBytes || m.chunk_bytes % kAlignment != 0) {
        return corrupt("chunks of " + std::to_string(m.chunk_bytes) + " bytes");
    }
    if (groups == 0 || groups > kMaxGroups || chunks < groups || chunks > kMaxChunks) {
        return corrupt(std::to_string(groups) + " groups of " + std::to_string(chunks) + " chunks");
    }
    return {};
}

Status read_tables(Reader& from, Manifest& m, std::uint32_t groups, std::uint32_t chunks) {
    // Bounds both allocations by bytes that are really there.
    if (from.left() != kGroupBytes * std::size_t{groups} + kChunkEntryBytes * std::size_t{chunks}) {
        return corrupt("tables and counts disagree");
    }
    m.groups.resize(groups);
    std::uint32_t next_chunk = 0;
    for (std::uint32_t i = 0; i < groups; ++i) {
        Group& group = m.groups[i];
        const auto kind = from.number<std::uint32_t>();
        group.stage = from.number<std::uint32_t>();
        group.first_chunk = from.number<std::uint32_t>();
        group.chunk_count = from.number<std::uint32_t>();
        // Group 0 is the metadata, group 1 + s is stage s: there is no other order.
        group.kind = i == 0 ? GroupKind::kMetadata : GroupKind::kStage;
        if (kind != static_cast<std::uint32_t>(group.kind) || group.stage != (i == 0 ? 0 : i - 1) ||
            group.first_chunk != next_chunk || group.chunk_count == 0 ||
            group.chunk_count > chunks - next_chunk) {
            return corrupt("group " + std::to_string(i) + " is out of order");
        }
        next_chunk += group.chunk_count;
    }
    if (next_chunk != chunks) return corrupt("chunks that belong to no group");
    m.chunks.resize(chunks);
    std::uint64_t end = m.data_offset;
    for (std::uint32_t g = 0; g < groups; ++g) {
        const Group& group = m.groups[g];
        for (std::uint32_t i = 0; i < group.chunk_count; ++i) {
            Chunk& chunk = m.chunks[group.first_chunk + i];
            chunk.bytes = from.number<std::uint32_t>();
            chunk.group = from.number<std::uint32_t>();
            from.bytes(chunk.tag);
            const bool last = i + 1 == group.chunk_count;
            if (chunk.group != g || chunk.bytes == 0 || chunk.bytes % kAlignment != 0 ||
                chunk.bytes > m.chunk_bytes || (!last && chunk.bytes != m.chunk_bytes)) {
                return corrupt("chunk " + std::to_string(group.first_chunk + i) + " is out of order");
            }
            end += chunk.bytes;
        }
    }
    if (end != m.file_bytes) return corrupt("sizes do not add up");
    return {};
}

std::vector<std::byte> wrap_info(const Manifest& m) {
    std::vector<std::byte> info;
    for (const char c : kWrapDomain) info.push_back(static_cast<std::byte>(c));
    info.insert(info.end(), m.ephemeral.begin(), m.ephemeral.end());
    info.insert(info.end(), m.device.begin(), m.device.end());
    return info;
}

std::vector<std::byte> wrap_associated_data(const Manifest& m) {
    std::vector<std::byte> data(m.id.size() + 8 + 4 + m.name.size());
    Writer to(data);
    to.bytes(m.id);
    to.number(m.version);
    to.number(static_cast<std::uint32_t>(m.cipher));
    to.bytes(crypto::bytes_of(m.name));
    return data;
}

/// The key under which the content key travels. It is used once: the ephemeral key is new with each sealing.
Result<crypto::Aead> wrapping_cipher(const Manifest& m, const crypto::Secret32& mine,
                                     const crypto::Public32& peer) {
    FLEX_ASSIGN(const auto shared, crypto::x25519_shared(mine, peer));
    crypto::Secret32 key;
    FLEX_TRY(crypto::hkdf_sha256(shared.bytes(), {}, wrap_info(m), key.bytes()));
    return crypto::Aead::create(crypto::Cipher::kChaCha20Poly1305, key);
}

} // namespace

std::uint64_t Manifest::group_bytes(const Group& group) const {
    std::uint64_t bytes = 0;
    for (std::uint32_t i = 0; i < group.chunk_count; ++i) bytes += chunks[group.first_chunk + i].bytes;
    return bytes;
}

std::uint64_t Manifest::chunk_offset(std::uint32_t chunk) const {
    std::uint64_t offset = data_offset;
    for (std::uint32_t i = 0; i < chunk; ++i) offset += chunks[i].bytes;
    return offset;
}

bool is_valid_name(std::string_view name) {
    return !name.empty() && name.size() <= kMaxNameBytes && name.front() != '.' &&
           std::ranges::all_of(name, [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_' || c == '-';
           });
}

std::uint64_t serialized_bytes(const Manifest& manifest) { return kHeaderBytes + manifest_bytes(manifest); }

Result<std::vector<std::byte>> serialize(Manifest& manifest, const crypto::Secret32& publisher_key) {
    FLEX_ASSIGN(manifest.publisher, crypto::ed25519_public(publisher_key));
    std::vector<std::byte> prefix(serialized_bytes(manifest));
    Writer to(prefix);
    to.bytes(crypto::bytes_of(kMagic));
    to.number(kFormatVersion);
    to.number(static_cast<std::uint32_t>(manifest_bytes(manifest)));
    to.bytes(manifest.publisher);
    to.zeros(kHeaderBytes - to.at());
    write_manifest(manifest, to);
    FLEX_ASSIGN(const auto signature, crypto::ed25519_sign(publisher_key, signed_message(prefix)));
    std::ranges::copy(signature, prefix.begin() + kSignatureAt);
    return prefix;
}

Result<std::uint64_t> prefix_bytes(Bytes header, std::uint64_t file_bytes) {
    if (header.size() < kHeaderBytes || std::memcmp(header.data(), kMagic.data(), kMagic.size()) != 0) {
        return fail(ErrorCode::kCorrupt, "not a FlexServe package");
    }
    Reader from(header.subspan(kMagic.size()));
    const auto format = from.number<std::uint32_t>();
    const auto bytes = from.number<std::uint32_t>();
    if (format != kFormatVersion) {
        return fail(ErrorCode::kUnsupported, "package format " + std::to_string(format) +
                                                 " is not known here (only " +
                                                 std::to_string(kFormatVersion) + " is); seal it again");
    }
    if (bytes < kFixedBytes || bytes > kMaxManifestBytes) {
        return corrupt("a manifest of " + std::to_string(bytes) + " bytes");
    }
    if (file_bytes < kHeaderBytes + bytes) {
        return fail(ErrorCode::kCorrupt, "the package is truncated: it ends inside its manifest, at byte " +
                                             std::to_string(file_bytes) + "; copy it again");
    }
    return std::uint64_t{kHeaderBytes} + bytes;
}

Result<Manifest> parse(Bytes prefix, std::uint64_t file_bytes) {
    FLEX_ASSIGN(const std::uint64_t expected, prefix_bytes(prefix, file_bytes));
    if (prefix.size() != expected) return corrupt("the manifest's size");
    Manifest m;
    std::ranges::copy(prefix.subspan(kPublisherAt, m.publisher.size()), m.publisher.begin());
    crypto::Signature signature;
    std::ranges::copy(prefix.subspan(kSignatureAt, signature.size()), signature.begin());
    if (!Reader(prefix.subspan(kReservedAt, kHeaderBytes - kReservedAt)).zeros(kHeaderBytes - kReservedAt)) {
        return corrupt("reserved bytes are not zero");
    }
    // Nothing of the manifest is looked at before the signature holds.
    if (!crypto::ed25519_verify(m.publisher, signed_message(prefix), signature)) {
        return fail(
            ErrorCode::kAuthentication,
            "the package was changed after it was sealed (its signature does not match); copy it again");
    }
    Reader from(prefix.subspan(kHeaderBytes));
    std::uint32_t groups = 0, chunks = 0;
    FLEX_TRY(read_fixed(from, m, groups, chunks));
    if (m.data_offset != (expected + kAlignment - 1) / kAlignment * kAlignment)
        return corrupt("the data's offset");
    FLEX_TRY(read_tables(from, m, groups, chunks));
    if (m.file_bytes != file_bytes) {
        return fail(ErrorCode::kCorrupt,
                    "the package is " + std::string(file_bytes < m.file_bytes ? "truncated" : "too long") +
                        ": it has " + std::to_string(file_bytes) + " bytes, not " +
                        std::to_string(m.file_bytes) + "; copy it again");
    }
    return m;
}

std::array<std::byte, 48> chunk_associated_data(const Manifest& m, std::uint32_t chunk) {
    std::array<std::byte, 48> data{};
    Writer to(data);
    to.bytes(crypto::bytes_of(kChunkDomain));
    to.bytes(m.id);
    to.number(m.version);
    to.number(std::uint64_t{chunk});
    to.number(std::uint64_t{m.chunks[chunk].bytes});
    return data;
}

crypto::Nonce chunk_nonce(std::uint32_t chunk) {
    crypto::Nonce nonce{};
    Writer(nonce).number(std::uint64_t{chunk});
    return nonce;
}

Status wrap_key(Manifest& m, const crypto::Secret32& content_key) {
    FLEX_ASSIGN(const auto ephemeral, crypto::random_secret());
    FLEX_ASSIGN(m.ephemeral, crypto::x25519_public(ephemeral));
    FLEX_ASSIGN(auto cipher, wrapping_cipher(m, ephemeral, m.device));
    return cipher.seal(crypto::Nonce{}, wrap_associated_data(m), content_key.bytes(), m.wrapped_key,
                       m.wrapped_key_tag);
}

Result<crypto::Secret32> unwrap_key(const Manifest& m, const crypto::Secret32& device_key) {
    FLEX_ASSIGN(auto cipher, wrapping_cipher(m, device_key, m.ephemeral));
    crypto::Secret32 key;
    if (!cipher.open(crypto::Nonce{}, wrap_associated_data(m), m.wrapped_key, key.bytes(),
                     m.wrapped_key_tag)) {
        return fail(ErrorCode::kAuthentication,
                    "the package's content key does not open with this device's key");
    }
    return key;
}

} // namespace flex::package
