// Reading stored KV cache out of the untrusted store without waiting for it: the normal world may answer late
// or never, and whoever wants the blocks goes on without them.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bell.h"
#include "memory/kv_index.h"

namespace flex::memory {

/// Why a block had to be computed again.
enum class KvLoss : std::uint8_t {
    kLost,    ///< the file is gone or ends before it
    kRefused, ///< it is not what was written: changed, swapped, replayed
    kFailed,  ///< the store failed to read it
    kSlow,    ///< it did not come within the patience, or too many others have not
};
inline constexpr std::array kKvLosses{KvLoss::kLost, KvLoss::kRefused, KvLoss::kFailed, KvLoss::kSlow};
[[nodiscard]] const char* name_of(KvLoss loss);

/// A file of blocks. Every call, its end too, may take for ever.
class KvFile {
public:
    virtual ~KvFile() = default;
    virtual Result<std::uint64_t> size() = 0;
    /// All of `out`. Error: kIo.
    virtual Status read(std::uint64_t offset, std::span<std::byte> out) = 0;
};
/// Errors: kNotFound, kIo. Called in threads that may outlive whoever made the store.
using KvOpen = std::function<Result<std::unique_ptr<KvFile>>(const std::string& path)>;
/// Of the port's files.
Result<std::unique_ptr<KvFile>> open_kv_file(const std::string& path);

/// Where a block is to go.
struct KvPlace {
    std::size_t block = 0;
    std::span<std::byte> memory; ///< [block_bytes]
};

/// Blocks of one conversation that are being read, in a thread of its own. What that thread holds while it
/// waits for the normal world is its own too: the open file, and memory of the heap for one ciphertext. It
/// looks at the places and at the key only between two reads, and only as long as this object is there, so
/// neither a request nor a model nor the store has to stay for a read that never ends.
///
/// One thread at a time.
class KvReading {
public:
    struct Request {
        KvOpen open;
        std::string path;
        std::shared_ptr<StoredSession> session;
        std::vector<StoredBlock> blocks;                ///< of the conversation, as they are known
        std::vector<KvPlace> places;                    ///< valid until the reading is destroyed
        std::shared_ptr<std::atomic<unsigned>> threads; ///< raised while the thread lives
        std::shared_ptr<Bell> bell;                     ///< rung when done()
    };
    /// Null: the system gives no thread.
    static std::unique_ptr<KvReading> begin(Request request);
    /// Waits at most until one block is decrypted; afterwards nobody touches the places.
    ~KvReading();
    KvReading(const KvReading&) = delete;
    KvReading& operator=(const KvReading&) = delete;

    /// All blocks have come, or are known not to.
    [[nodiscard]] bool done() const;
    /// Ends the reading. By place: nothing, then the block is there as it was written, or why it is not; what
    /// the memory holds then is unspecified.
    std::vector<std::optional<KvLoss>> finish();
    /// Of reading and decrypting what came.
    [[nodiscard]] std::uint64_t nanoseconds() const;
    [[nodiscard]] StoredSession& session() const { return *session_; }

private:
    struct Shared;
    KvReading(std::shared_ptr<Shared> shared, std::shared_ptr<StoredSession> session)
        : shared_(std::move(shared)), session_(std::move(session)) {}
    static void work(Shared& shared);

    const std::shared_ptr<Shared> shared_;
    const std::shared_ptr<StoredSession> session_;
};

} // namespace flex::memory
