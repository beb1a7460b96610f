#include "memory/kv_index.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace flex::memory {
namespace {

constexpr std::string_view kMagic = "FLEXKVI1", kBlockMagic = "FLEXKVB1";
constexpr std::string_view kKeyInfo = "flexserve/kv-index/v1";
constexpr std::size_t kSaltBytes = 32, kHeadBytes = 8 + 4 + 4 + kSaltBytes, kTagBytes = 16;
constexpr std::size_t kMaxName = 64;
constexpr std::uint32_t kMaxDimension = 4096; // far from any overflow of a block's size

class Writer {
public:
    void bytes(crypto::Bytes from) { out_.insert(out_.end(), from.begin(), from.end()); }
    void text(std::string_view from) { bytes(crypto::bytes_of(from)); }
    void u32(std::uint32_t value) { number(value, 4); }
    void u64(std::uint64_t value) { number(value, 8); }
    void reserve(std::size_t size) { out_.reserve(size); }
    std::vector<std::byte> take() { return std::move(out_); }

private:
    void number(std::uint64_t value, int size) {
        for (int i = 0; i < size; ++i) out_.push_back(static_cast<std::byte>(value >> (8 * i)));
    }
    std::vector<std::byte> out_;
};

/// Gives zeros after the end and remembers that it was asked for more than there is.
class Reader {
public:
    explicit Reader(crypto::Bytes from) : from_(from) {}
    void bytes(crypto::MutableBytes to) {
        if (from_.size() < to.size()) {
            good_ = false;
            return;
        }
        std::ranges::copy(from_.first(to.size()), to.begin());
        from_ = from_.subspan(to.size());
    }
    std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
    std::uint64_t u64() { return number(8); }
    [[nodiscard]] std::size_t left() const { return from_.size(); }
    [[nodiscard]] bool good() const { return good_; }

private:
    std::uint64_t number(std::size_t size) {
        std::array<std::byte, 8> raw{};
        bytes(std::span(raw).first(size));
        std::uint64_t value = 0;
        for (std::size_t i = size; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(raw[i]);
        return value;
    }
    crypto::Bytes from_;
    bool good_ = true;
};

Error corrupt(const char* what) {
    return fail(ErrorCode::kCorrupt, std::string("the index of stored conversations has ") + what);
}

void write_layout(Writer& to, const engine::KvLayout& layout) {
    to.u32(static_cast<std::uint32_t>(layout.type));
    to.u32(layout.layers);
    to.u32(layout.kv_heads);
    to.u32(layout.head_size);
}

void write_session(Writer& to, const StoredSession& s) {
    to.bytes(s.id);
    to.bytes(s.key.bytes());
    to.bytes(s.binding.model);
    to.bytes(s.binding.scope);
    to.bytes(s.owner);
    to.u32(static_cast<std::uint32_t>(s.cipher));
    write_layout(to, s.binding.layout);
    to.u64(s.used);
    to.u64(s.saved_at);
    const std::string_view name = std::string_view(s.model).substr(0, kMaxName);
    to.u32(static_cast<std::uint32_t>(name.size()));
    to.text(name);
    to.u32(static_cast<std::uint32_t>(s.blocks.size()));
    for (const TokenId token : s.tokens) to.u32(token);
    for (const StoredBlock& block : s.blocks) {
        to.u64(block.counter);
        to.bytes(block.nonce);
        to.bytes(block.tag);
    }
}

constexpr std::size_t kSessionBytes = 16 + 4 * 32 + 5 * 4 + 2 * 8 + 2 * 4; // without name, tokens and blocks
constexpr std::size_t kBlockBytes = engine::kKvBlockTokens * 4 + 8 + 12 + 16;

std::size_t session_bytes(const StoredSession& s) {
    return kSessionBytes + std::min(s.model.size(), kMaxName) + s.blocks.size() * kBlockBytes;
}

Status read_head(Reader& from, StoredSession& s) {
    from.bytes(s.id);
    from.bytes(s.key.bytes());
    from.bytes(s.binding.model);
    from.bytes(s.binding.scope);
    from.bytes(s.owner);
    const std::uint32_t cipher = from.u32(), type = from.u32();
    engine::KvLayout& layout = s.binding.layout;
    layout.layers = from.u32();
    layout.kv_heads = from.u32();
    layout.head_size = from.u32();
    if (cipher != 1 && cipher != 2) return corrupt("an unknown cipher");
    if (type > static_cast<std::uint32_t>(engine::KvType::kQ8_0)) return corrupt("an unknown kind of cache");
    for (const std::uint32_t size : {layout.layers, layout.kv_heads, layout.head_size})
        if (size == 0 || size > kMaxDimension) return corrupt("impossible dimensions");
    s.cipher = static_cast<crypto::Cipher>(cipher);
    layout.type = static_cast<engine::KvType>(type);
    s.used = from.u64();
    s.saved_at = from.u64();
    return {};
}

Result<std::shared_ptr<StoredSession>> read_session(Reader& from) {
    auto session = std::make_shared<StoredSession>();
    StoredSession& s = *session;
    FLEX_TRY(read_head(from, s));
    const std::uint32_t name = from.u32();
    if (name > kMaxName || name > from.left()) return corrupt("a name that is too long");
    s.model.resize(name);
    from.bytes(std::as_writable_bytes(std::span(s.model)));
    const std::uint32_t blocks = from.u32();
    if (blocks > kMaxStoredTokens / engine::kKvBlockTokens || blocks > from.left() / kBlockBytes)
        return corrupt("more blocks than bytes");
    s.tokens.resize(std::size_t{blocks} * engine::kKvBlockTokens);
    for (TokenId& token : s.tokens) token = from.u32();
    s.blocks.resize(blocks);
    for (StoredBlock& block : s.blocks) {
        block.counter = from.u64();
        from.bytes(block.nonce);
        from.bytes(block.tag);
    }
    if (!from.good()) return corrupt("an early end");
    return session;
}

} // namespace

std::vector<std::byte> format_index(const KvIndex& index) {
    Writer to;
    std::size_t size = 24;
    for (const auto& session : index.sessions) size += session_bytes(*session);
    to.reserve(size); // so that no copy of a key is left behind by growing
    to.u64(index.writes);
    to.u64(index.counter);
    to.u32(static_cast<std::uint32_t>(index.sessions.size()));
    to.u32(0);
    for (const auto& session : index.sessions) write_session(to, *session);
    return to.take();
}

Result<KvIndex> parse_index(crypto::Bytes content) {
    Reader from(content);
    KvIndex index;
    index.writes = from.u64();
    index.counter = from.u64();
    const std::uint32_t count = from.u32();
    if (from.u32() != 0 || !from.good()) return corrupt("an unknown beginning");
    if (count > kMaxStoredSessions) return corrupt("too many conversations");
    std::set<SessionId> ids;
    for (std::uint32_t i = 0; i < count; ++i) {
        FLEX_ASSIGN(auto session, read_session(from));
        if (!ids.insert(session->id).second) return corrupt("a conversation twice");
        for (const StoredBlock& block : session->blocks)
            if (block.counter >= index.counter) return corrupt("a counter from the future");
        index.sessions.push_back(std::move(session));
    }
    if (from.left() != 0) return corrupt("bytes behind its end");
    return index;
}

namespace {

Result<crypto::Aead> index_cipher(crypto::Cipher cipher, const crypto::Secret32& device_key,
                                  const crypto::Secret32& secret, crypto::Bytes salt) {
    std::array<std::byte, 64> from;
    std::ranges::copy(device_key.bytes(), from.begin());
    std::ranges::copy(secret.bytes(), from.begin() + 32);
    crypto::Secret32 key;
    const Status derived = crypto::hkdf_sha256(from, salt, crypto::bytes_of(kKeyInfo), key.bytes());
    crypto::wipe(from);
    FLEX_TRY(derived);
    return crypto::Aead::create(cipher, key);
}

constexpr crypto::Nonce kOnlyNonce{}; // each key seals one text

} // namespace

Result<std::vector<std::byte>> seal_index(const KvIndex& index, const crypto::Secret32& device_key,
                                          const crypto::Secret32& secret, crypto::Cipher cipher) {
    std::vector<std::byte> text = format_index(index);
    if (text.size() > kMaxIndexBytes - kHeadBytes - kTagBytes) {
        crypto::wipe(text);
        return fail(ErrorCode::kUnsupported, "the index of stored conversations is too large");
    }
    std::array<std::byte, kSaltBytes> salt;
    Status sealed = crypto::random(salt);
    Writer head;
    head.text(kMagic);
    head.u32(static_cast<std::uint32_t>(cipher));
    head.u32(static_cast<std::uint32_t>(text.size()));
    head.bytes(salt);
    std::vector<std::byte> file = head.take();
    crypto::Tag tag;
    if (sealed) {
        auto aead = index_cipher(cipher, device_key, secret, salt);
        sealed = aead.ok() ? aead->seal(kOnlyNonce, file, text, text, tag) : Status(aead.error());
    }
    if (!sealed) {
        crypto::wipe(text);
        return sealed.error();
    }
    file.insert(file.end(), text.begin(), text.end());
    file.insert(file.end(), tag.begin(), tag.end());
    return file;
}

Result<KvIndex> open_index(crypto::Bytes file, const crypto::Secret32& device_key,
                           const crypto::Secret32& secret) {
    if (file.size() < kHeadBytes + kTagBytes || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0)
        return corrupt("another form");
    Reader head(file.subspan(kMagic.size()));
    const std::uint32_t cipher = head.u32();
    if (cipher != 1 && cipher != 2) return corrupt("an unknown cipher");
    if (head.u32() != file.size() - kHeadBytes - kTagBytes) return corrupt("another size than it says");
    std::vector<std::byte> text(file.size() - kHeadBytes - kTagBytes);
    crypto::Tag tag;
    std::ranges::copy(file.last(kTagBytes), tag.begin());
    FLEX_ASSIGN(auto aead, index_cipher(static_cast<crypto::Cipher>(cipher), device_key, secret,
                                        file.subspan(16, kSaltBytes)));
    FLEX_TRY(aead.open(kOnlyNonce, file.first(kHeadBytes), file.subspan(kHeadBytes, text.size()), text, tag));
    auto index = parse_index(text);
    crypto::wipe(text);
    return index;
}

std::vector<std::byte> block_associated_data(const StoredSession& session, std::uint64_t index,
                                             std::uint64_t counter) {
    Writer to;
    to.text(kBlockMagic);
    to.bytes(session.id);
    to.bytes(session.binding.model);
    to.bytes(session.binding.scope);
    write_layout(to, session.binding.layout);
    to.u64(index);
    to.u64(counter);
    return to.take();
}

} // namespace flex::memory
