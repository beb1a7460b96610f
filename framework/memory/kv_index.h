// What is known of the conversations whose KV cache lies in the untrusted store: the content of the file
// kv-index, sealed. docs/kv-store.md has both formats byte by byte. No I/O.
//
// Everything that decides whether stored bytes may be used is in here, under one authentication; the files
// of the blocks hold ciphertext and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/crypto.h"
#include "base/result.h"
#include "base/token.h"
#include "engine/kv_cache.h"

namespace flex::memory {

using SessionId = std::array<std::byte, 16>; ///< random; the normal world sees it in file names

/// What has to be alike for stored KV cache to be what would be computed. Digests: SHA-256.
struct KvBinding {
    crypto::Public32 model{}; ///< of the package and of how this program computes
    crypto::Public32 scope{}; ///< of those who may share it (pipeline/conversations.h)
    engine::KvLayout layout;
    friend bool operator==(const KvBinding& a, const KvBinding& b) {
        return a.model == b.model && a.scope == b.scope && a.layout.type == b.layout.type &&
               a.layout.layers == b.layout.layers && a.layout.kv_heads == b.layout.kv_heads &&
               a.layout.head_size == b.layout.head_size;
    }
};

/// One block of one conversation, as it was written: no other bytes open under it.
struct StoredBlock {
    std::uint64_t counter = 0; ///< of all blocks ever written by this device, as far as it knows
    crypto::Nonce nonce{};     ///< random
    crypto::Tag tag{};
};

struct StoredSession {
    SessionId id{};
    crypto::Secret32 key; ///< of its blocks, and of nothing else; where it is forgotten they are worthless
    crypto::Cipher cipher = crypto::Cipher::kChaCha20Poly1305;
    KvBinding binding;
    crypto::Public32 owner{};    ///< SHA-256 of who may list and delete it
    std::string model;           ///< for people
    std::uint64_t used = 0;      ///< KvIndex::writes when it was last used: the oldest go first
    std::uint64_t saved_at = 0;  ///< seconds since 1970, for people: the normal world's clock decides nothing
    std::vector<TokenId> tokens; ///< whole blocks of them
    std::vector<StoredBlock> blocks;
    bool loss_told = false; ///< in the log; not in the index
};

struct KvIndex {
    std::uint64_t writes = 0;  ///< of the index
    std::uint64_t counter = 0; ///< the next StoredBlock::counter
    std::vector<std::shared_ptr<StoredSession>> sessions;
};

inline constexpr std::size_t kMaxStoredSessions = 64;
inline constexpr std::size_t kMaxStoredTokens = 1u << 20; ///< of a conversation
inline constexpr std::size_t kMaxIndexBytes = 16u << 20;

/// The clear text. Holds keys: to be wiped.
[[nodiscard]] std::vector<std::byte> format_index(const KvIndex& index);
/// Error: kCorrupt.
Result<KvIndex> parse_index(crypto::Bytes content);

/// The file, under a key of its own that follows from `device_key`, from `secret` and from a random part.
Result<std::vector<std::byte>> seal_index(const KvIndex& index, const crypto::Secret32& device_key,
                                          const crypto::Secret32& secret, crypto::Cipher cipher);
/// Errors: kCorrupt (not such a file), kAuthentication (changed, or of another secret or device).
Result<KvIndex> open_index(crypto::Bytes file, const crypto::Secret32& device_key,
                           const crypto::Secret32& secret);

/// What a block is encrypted with besides its key: whose it is and which one.
[[nodiscard]] std::vector<std::byte> block_associated_data(const StoredSession& session, std::uint64_t index,
                                                           std::uint64_t counter);

} // namespace flex::memory
