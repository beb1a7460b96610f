// KV cache of idle conversations in the untrusted store (Port::data_folder), block by block: encrypted, bound
// to its conversation, place and writing, and believed only when it is exactly what was written last. What
// does not come back as it was is recomputed from the tokens by whoever asked. docs/kv-store.md.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/flex_buffer.h"
#include "memory/kv_index.h"
#include "memory/kv_reading.h"
#include "package/trust.h"
#include "port/files.h"

namespace flex::memory {

struct KvStoreStatus {
    std::size_t sessions = 0;
    std::uint64_t bytes = 0, limit = 0;
    std::uint64_t saved_blocks = 0, saved_bytes = 0;
    std::uint64_t restored_blocks = 0, restored_bytes = 0;
    std::array<std::uint64_t, kKvLosses.size()> recomputed{}; ///< blocks, by KvLoss
    std::uint64_t save_failures = 0;   ///< conversations that could not be written further
    std::uint64_t evicted = 0;         ///< conversations that went because the store was full
    std::uint64_t deleted = 0;         ///< by their owners
    std::uint64_t indexes_refused = 0; ///< at a start: missing, changed, or older than a deletion
    double read_bandwidth = 0;         ///< bytes/s, decrypted; 0: nothing was read yet
};

/// What a stored conversation has in common with a prompt.
struct KvFound {
    std::shared_ptr<StoredSession> session; ///< null: nothing
    std::size_t tokens = 0;                 ///< in common
    bool whole = false;                     ///< all that is stored
};

/// For people and for their owner.
struct StoredSessionInfo {
    SessionId id{};
    std::string model;
    std::size_t tokens = 0;
    std::uint64_t bytes = 0;
    std::uint64_t saved_at = 0;
};

/// Any thread. Those that wait for the store say so; none holds a lock while it reads or writes blocks.
class KvStore {
public:
    /// Takes up what an earlier run left, as far as it can be believed. `port` and `trust` must outlive it.
    /// `limit`: bytes of blocks. `open`: how files of blocks are read.
    KvStore(port::Port& port, package::TrustStore& trust, std::uint64_t limit, KvOpen open = open_kv_file);

    /// At the same time. Each that hangs costs a thread and the memory of a block, so when this many hang
    /// nothing is read any more until the store answers one of them.
    static constexpr unsigned kMaxReadings = 8;

    // ---- Saving: one thread at a time; waits for the store ----

    /// A new conversation without blocks.
    Result<std::shared_ptr<StoredSession>> begin(const SessionId& id, const KvBinding& binding,
                                                 const crypto::Public32& owner, const std::string& model);
    /// Writes the next block. `blocks` are stored before it, `tokens` (a block of them) are in it. The oldest
    /// conversations go when there is no room. Errors: kNotFound (it was deleted, or goes on otherwise than
    /// the caller thinks: begin anew), kUnsupported (larger than the store), kOutOfMemory, kIo.
    Status append(StoredSession& session, std::size_t blocks, std::span<const TokenId> tokens,
                  crypto::Bytes content);
    /// What was appended survives a restart from here on. Those that hold nothing but a beginning of this one
    /// go. `failed`: it could not be written further. Error: kIo.
    Status commit(const StoredSession& session, bool failed);

    // ---- Using ----

    /// The one that has most in common with `prompt` (whole blocks); it counts as used now.
    KvFound find(const KvBinding& binding, std::span<const TokenId> prompt);
    /// Begins to read blocks of one conversation; `bell` is rung when all have come to an end. Returns at
    /// once. Null: it is not even tried, and the loss is counted.
    std::unique_ptr<KvReading> read(const KvFound& found, std::vector<KvPlace> places,
                                    std::shared_ptr<Bell> bell);
    /// Ends it (KvReading::finish) and counts what came of it.
    std::vector<std::optional<KvLoss>> finish(KvReading& reading);

    // ---- Owners ----

    [[nodiscard]] std::vector<StoredSessionInfo> list(const crypto::Public32& owner) const;
    /// Destroys the keys of this owner's conversations (of one, or of all): when this returns without error
    /// neither a restart nor an older copy of the store brings them back. Returns how many there were. Error:
    /// kIo (they are gone from this run, but an older copy of the store may bring them back). Waits for the
    /// store.
    Result<std::size_t> remove(const crypto::Public32& owner, const std::optional<SessionId>& id);

    [[nodiscard]] KvStoreStatus status() const;

private:
    using Sessions = std::map<SessionId, std::shared_ptr<StoredSession>>;
    void load();
    Result<KvIndex> read_index(const crypto::Secret32& device_key);
    void remove_orphans();
    Status write_index(bool new_secret);
    [[nodiscard]] std::string path_of(const SessionId& id) const;
    [[nodiscard]] std::uint64_t bytes_locked() const;
    std::vector<SessionId> make_room_locked(const StoredSession& session);
    void note_losses(StoredSession& session, std::span<const std::optional<KvLoss>> losses);
    void remove_files(const std::vector<SessionId>& ids);

    port::Port& port_;
    package::TrustStore& trust_;
    const std::string folder_;
    const std::uint64_t limit_;
    const KvOpen open_;
    const std::shared_ptr<std::atomic<unsigned>> readings_ = std::make_shared<std::atomic<unsigned>>(0U);
    std::mutex index_mutex_;                 // one writer of the index; taken before mutex_
    std::optional<crypto::Secret32> secret_; // guarded by index_mutex_
    bool secret_due_ = false;                // too: what was deleted still hangs on the old one
    mutable std::mutex mutex_;
    Sessions sessions_;
    std::uint64_t writes_ = 1, counter_ = 1;
    bool lapsed_ = false; // conversations went that nobody deleted, since the secret was changed
    KvStoreStatus counts_;
    std::uint64_t read_ns_ = 0;
};

} // namespace flex::memory
