#include "memory/kv_reading.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "port/files.h"

namespace flex::memory {
namespace {

using Clock = std::chrono::steady_clock;

class PortFile final : public KvFile {
public:
    explicit PortFile(port::File file) : file_(std::move(file)) {}
    Result<std::uint64_t> size() override { return file_.size(); }
    Status read(std::uint64_t offset, std::span<std::byte> out) override { return file_.read(offset, out); }

private:
    const port::File file_;
};

/// What was read, decrypted to where it belongs.
std::optional<KvLoss> open_block(const StoredSession& session, const StoredBlock& block, const KvPlace& place,
                                 crypto::Bytes sealed) {
#ifdef FLEX_WITHOUT_KV_SEAL
    static_cast<void>(session);
    static_cast<void>(block);
    std::ranges::copy(sealed, place.memory.begin());
#else
    // It lies in our memory now: what is checked is what is used.
    auto aead = crypto::Aead::create(session.cipher, session.key);
    if (!aead || !aead->open(block.nonce, block_associated_data(session, place.block, block.counter), sealed,
                             place.memory, block.tag))
        return KvLoss::kRefused;
#endif
    return {};
}

} // namespace

const char* name_of(KvLoss loss) {
    switch (loss) {
    case KvLoss::kLost:
        return "lost";
    case KvLoss::kRefused:
        return "refused";
    case KvLoss::kFailed:
        return "failed";
    case KvLoss::kSlow:
        return "slow";
    }
    return "?";
}

Result<std::unique_ptr<KvFile>> open_kv_file(const std::string& path) {
    FLEX_ASSIGN(auto file, port::File::open(path));
    return std::unique_ptr<KvFile>(std::make_unique<PortFile>(std::move(file)));
}

/// Between the thread and whoever began it.
struct KvReading::Shared {
    explicit Shared(Request r) : request(std::move(r)), losses(request.places.size()) {
        for (const KvPlace& place : request.places) indices.push_back(place.block);
        block_bytes = request.session->binding.layout.block_bytes();
        known = request.blocks.size();
    }

    Request request;                  // session, blocks and places: guarded by mutex, and gone once abandoned
    std::vector<std::size_t> indices; // of the places' blocks
    std::size_t block_bytes = 0, known = 0;
    std::mutex mutex;
    std::condition_variable decrypted;
    bool abandoned = false, decrypting = false;
    std::size_t done = 0;                      // places
    std::vector<std::optional<KvLoss>> losses; // of those
    std::uint64_t nanoseconds = 0;

    [[nodiscard]] bool wanted() {
        const std::lock_guard lock(mutex);
        return !abandoned;
    }
    /// The next place has come to an end.
    void settle(std::optional<KvLoss> loss, Clock::time_point begin) {
        const auto ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count());
        const std::lock_guard lock(mutex);
        decrypting = false;
        decrypted.notify_all();
        if (abandoned) return;
        losses[done++] = loss;
        if (!loss) nanoseconds += ns;
        if (done == losses.size()) request.bell->ring();
    }
    /// All that have not.
    void settle_rest(KvLoss loss) {
        const std::lock_guard lock(mutex);
        decrypting = false;
        decrypted.notify_all();
        if (abandoned) return;
        while (done < losses.size()) losses[done++] = loss;
        request.bell->ring();
    }
    /// The next place gets its content, which was read.
    std::optional<KvLoss> decrypt(crypto::Bytes sealed) {
        std::shared_ptr<StoredSession> session;
        StoredBlock block;
        KvPlace place;
        {
            const std::lock_guard lock(mutex);
            if (abandoned) return {};
            decrypting = true; // abandon() waits for settle()
            session = request.session;
            block = request.blocks[indices[done]];
            place = request.places[done];
        }
        return open_block(*session, block, place, sealed);
    }
    /// From now on the places and the key are nobody's any more.
    void abandon() {
        std::unique_lock lock(mutex);
        abandoned = true;
        decrypted.wait(lock, [&] { return !decrypting; });
        request.session.reset();
        request.blocks.clear();
        request.places.clear();
    }
    void read_all();
};

/// What is in the thread's hands while it waits for the store are locals of this function.
void KvReading::Shared::read_all() {
    const auto file = request.open(request.path);
    if (!file)
        return settle_rest(file.error().code == ErrorCode::kNotFound ? KvLoss::kLost : KvLoss::kFailed);
    const auto size = (*file)->size();
    if (!size) return settle_rest(KvLoss::kFailed);
    std::vector<std::byte> sealed(block_bytes);
    for (const std::size_t index : indices) {
        if (!wanted()) return;
        const auto begin = Clock::now();
        std::optional<KvLoss> loss;
        if (index >= known || *size / block_bytes <= index)
            loss = KvLoss::kLost;
        else if (!(*file)->read(index * block_bytes, sealed))
            loss = KvLoss::kFailed;
        else
            loss = decrypt(sealed);
        settle(loss, begin);
    }
}

std::unique_ptr<KvReading> KvReading::begin(Request request) {
    auto session = request.session;
    auto shared = std::make_shared<Shared>(std::move(request));
    const auto threads = shared->request.threads;
    ++*threads;
    try {
        std::thread([shared, threads]() mutable {
            work(*shared);
            shared.reset(); // the file is closed, the memory is free
            --*threads;
        }).detach();
    } catch (const std::exception&) { // no thread, or no memory for one
        --*threads;
        return nullptr;
    }
    return std::unique_ptr<KvReading>(new KvReading(std::move(shared), std::move(session)));
}

KvReading::~KvReading() { shared_->abandon(); }

void KvReading::work(Shared& shared) {
    try {
        shared.read_all();
    } catch (const std::bad_alloc&) {
        shared.settle_rest(KvLoss::kFailed);
    }
}

bool KvReading::done() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->done == shared_->losses.size();
}

std::vector<std::optional<KvLoss>> KvReading::finish() {
    shared_->abandon();
    const std::lock_guard lock(shared_->mutex);
    std::fill(shared_->losses.begin() + static_cast<std::ptrdiff_t>(shared_->done), shared_->losses.end(),
              KvLoss::kSlow);
    shared_->done = shared_->losses.size();
    return shared_->losses;
}

std::uint64_t KvReading::nanoseconds() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->nanoseconds;
}

} // namespace flex::memory
