#include "package/trust.h"

#include <algorithm>
#include <cstring>

#include "port/files.h"

namespace flex::package {
namespace {

constexpr std::string_view kMagic = "FLEXSEE1";
constexpr std::size_t kHeadBytes = 24, kEntryBytes = 56;
constexpr std::size_t kTrustFileLimit = 4096;
constexpr std::string_view kConversationsMagic = "FLEXKVS1"; // behind the entries, and 32 bytes behind it
constexpr std::size_t kConversationsBytes = 8 + 32;
static_assert(kHeadBytes + kMaxSeenPackages * kEntryBytes + kConversationsBytes <= 16384);

void put_u64(std::vector<std::byte>& to, std::uint64_t value) {
    for (int i = 0; i < 8; ++i) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

std::uint64_t get_u64(crypto::Bytes from) {
    std::uint64_t value = 0;
    for (std::size_t i = 8; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(from[i]);
    return value;
}

Result<std::array<std::byte, 16>> short_hash(crypto::Bytes data) {
    FLEX_ASSIGN(const auto digest, crypto::sha256(data));
    std::array<std::byte, 16> out;
    std::copy_n(digest.begin(), out.size(), out.begin());
    return out;
}

Error refuse(std::string message) { return fail(ErrorCode::kAuthentication, std::move(message)); }

} // namespace

std::vector<std::byte> format_record(const TrustRecord& record) {
    std::vector<std::byte> content;
    for (const char c : kMagic) content.push_back(static_cast<std::byte>(c));
    put_u64(content, record.trust_serial);
    put_u64(content, record.seen.size());
    for (const SeenPackage& seen : record.seen) {
        content.insert(content.end(), seen.name_hash.begin(), seen.name_hash.end());
        content.insert(content.end(), seen.publisher_hash.begin(), seen.publisher_hash.end());
        put_u64(content, seen.version);
        content.insert(content.end(), seen.id.begin(), seen.id.end());
    }
    if (record.conversations) {
        for (const char c : kConversationsMagic) content.push_back(static_cast<std::byte>(c));
        content.insert(content.end(), record.conversations->begin(), record.conversations->end());
    }
    return content;
}

Result<TrustRecord> parse_record(crypto::Bytes content) {
    TrustRecord record;
    if (content.empty()) return record;
    const Error damaged =
        fail(ErrorCode::kCorrupt, "the device's rollback-proof store holds something unknown");
    if (content.size() < kHeadBytes || std::memcmp(content.data(), kMagic.data(), kMagic.size()) != 0)
        return damaged;
    record.trust_serial = get_u64(content.subspan(8));
    const std::uint64_t count = get_u64(content.subspan(16));
    // The store may hand back its whole area: what follows the last entry is not ours.
    if (count > kMaxSeenPackages || content.size() < kHeadBytes + count * kEntryBytes) return damaged;
    for (std::size_t i = 0; i < count; ++i) {
        const crypto::Bytes entry = content.subspan(kHeadBytes + i * kEntryBytes, kEntryBytes);
        SeenPackage seen;
        std::ranges::copy(entry.first(16), seen.name_hash.begin());
        std::ranges::copy(entry.subspan(16, 16), seen.publisher_hash.begin());
        seen.version = get_u64(entry.subspan(32));
        std::ranges::copy(entry.subspan(40, 16), seen.id.begin());
        record.seen.push_back(seen);
    }
    const crypto::Bytes rest = content.subspan(kHeadBytes + count * kEntryBytes);
    if (rest.size() >= kConversationsBytes &&
        std::memcmp(rest.data(), kConversationsMagic.data(), kConversationsMagic.size()) == 0) {
        std::ranges::copy(rest.subspan(8, 32), record.conversations.emplace().begin());
    }
    return record;
}

Result<bool> admit(const Manifest& manifest, const port::TrustList& list, TrustRecord& record) {
    if (list.serial < record.trust_serial) {
        return refuse("the device's list of publishers is older than one it has seen (" +
                      std::to_string(list.serial) + " after " + std::to_string(record.trust_serial) + ")");
    }
    if (std::ranges::find(list.publishers, manifest.publisher) == list.publishers.end()) {
        return refuse("the package is signed by a publisher this device does not trust (" +
                      crypto::hex(manifest.publisher).substr(0, 16) + "…)");
    }
    bool changed = list.serial > record.trust_serial;
    record.trust_serial = list.serial;

    SeenPackage now;
    FLEX_ASSIGN(now.name_hash, short_hash(crypto::bytes_of(manifest.name)));
    FLEX_ASSIGN(now.publisher_hash, short_hash(manifest.publisher));
    now.version = manifest.version;
    now.id = manifest.id;
    const auto before = std::ranges::find(record.seen, now.name_hash, &SeenPackage::name_hash);
    if (before == record.seen.end()) {
        if (record.seen.size() >= kMaxSeenPackages) {
            return fail(ErrorCode::kUnsupported, "the device remembers " + std::to_string(kMaxSeenPackages) +
                                                     " package names and cannot take another");
        }
        record.seen.push_back(now);
        return true;
    }
    if (before->publisher_hash != now.publisher_hash) {
        return refuse("the name " + manifest.name + " belongs to another publisher on this device");
    }
    if (now.version < before->version) {
        return refuse("version " + std::to_string(now.version) + " is older than version " +
                      std::to_string(before->version) + ", which this device has already seen");
    }
    if (now.version == before->version && now.id != before->id) {
        return refuse("this device has seen another package with the same version " +
                      std::to_string(now.version) + "; seal it with a higher --version");
    }
    if (now.version > before->version) {
        *before = now;
        changed = true;
    }
    return changed;
}

Status TrustStore::admit(const Manifest& manifest) {
    const std::lock_guard lock(mutex_);
    auto content = port::read_file(port_.store_folder() + "/" + port::kTrustFile, kTrustFileLimit);
    if (!content) {
        if (content.error().code != ErrorCode::kNotFound) return content.error();
        return fail(ErrorCode::kNotFound, "this device was never told which publishers to trust (no " +
                                              std::string(port::kTrustFile) +
                                              " in its store); provision it again");
    }
    FLEX_ASSIGN(const auto mac_key, port_.device_key(port::kTrustKeyLabel));
    FLEX_ASSIGN(const auto list, port::parse_trust(*content, mac_key));
    FLEX_ASSIGN(const auto stored, port_.read_secure_store());
    FLEX_ASSIGN(auto record, parse_record(stored));
    FLEX_ASSIGN(const bool changed, package::admit(manifest, list, record));
    return changed ? port_.write_secure_store(format_record(record)) : Status();
}

Result<crypto::Secret32> TrustStore::conversations_secret() {
    const std::lock_guard lock(mutex_);
    FLEX_ASSIGN(const auto stored, port_.read_secure_store());
    FLEX_ASSIGN(const auto record, parse_record(stored));
    if (!record.conversations) return fail(ErrorCode::kNotFound, "no conversation was ever stored");
    crypto::Secret32 secret;
    std::ranges::copy(*record.conversations, secret.bytes().begin());
    return secret;
}

Status TrustStore::replace_conversations_secret(const crypto::Secret32& secret) {
    const std::lock_guard lock(mutex_);
    FLEX_ASSIGN(const auto stored, port_.read_secure_store());
    FLEX_ASSIGN(auto record, parse_record(stored));
    std::ranges::copy(secret.bytes(), record.conversations.emplace().begin());
    return port_.write_secure_store(format_record(record));
}

} // namespace flex::package
