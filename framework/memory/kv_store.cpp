#include "memory/kv_store.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace flex::memory {
namespace {

constexpr std::string_view kDeviceKeyLabel = "flexserve/kv-index/v1";
constexpr const char* kIndexFile = "/kv-index";
constexpr const char* kNextIndexFile = "/kv-index.next"; // while a deletion changes the secret
constexpr std::string_view kPrefix = "kv-", kSuffix = ".blocks";
constexpr unsigned kMode = 0600;
constexpr std::size_t kBlock = engine::kKvBlockTokens;

// What this machine is fast at; a conversation says which one it has.
constexpr crypto::Cipher kCipher =
#if defined(__aarch64__)
    crypto::Cipher::kChaCha20Poly1305;
#else
    crypto::Cipher::kAes256Gcm;
#endif

std::size_t in_common(std::span<const TokenId> a, std::span<const TokenId> b) {
    return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

std::uint64_t bytes_of(const StoredSession& session) {
    return session.blocks.size() * session.binding.layout.block_bytes();
}

std::string file_name(const SessionId& id) {
    return std::string(kPrefix) + crypto::hex(id) + std::string(kSuffix);
}

} // namespace

KvStore::KvStore(port::Port& port, package::TrustStore& trust, std::uint64_t limit, KvOpen open)
    : port_(port), trust_(trust), folder_(port.data_folder()), limit_(limit), open_(std::move(open)) {
    counts_.limit = limit;
    load();
}

std::string KvStore::path_of(const SessionId& id) const { return folder_ + "/" + file_name(id); }

// ---- Starting ----

Result<KvIndex> KvStore::read_index(const crypto::Secret32& device_key) {
    Result<KvIndex> index = fail(ErrorCode::kNotFound, "no index");
    // A deletion that was cut off between its two steps leaves the new index under the second name.
    for (const char* name : {kIndexFile, kNextIndexFile}) {
        const auto file = port::read_file(folder_ + name, kMaxIndexBytes);
        if (!file) continue;
        index = open_index(*file, device_key, *secret_);
        if (index) break;
    }
    return index;
}

void KvStore::load() {
    auto secret = trust_.conversations_secret();
    if (!secret) return; // nothing was ever stored, or what was is lost with the secret
    secret_.emplace(std::move(*secret));
    lapsed_ = true; // who knows what the index of an earlier run held
    const auto device_key = port_.device_key(kDeviceKeyLabel);
    if (!device_key) return;
    auto index = read_index(*device_key);
    if (!index) {
        ++counts_.indexes_refused;
        return;
    }
    writes_ = index->writes + 1;
    counter_ = index->counter;
    for (auto& session : index->sessions) sessions_.emplace(session->id, std::move(session));
    remove_orphans();
}

/// Files of conversations that are in no index. The list comes from outside: only names of our own form go.
void KvStore::remove_orphans() {
    const auto names = port::list_folder(folder_);
    if (!names) return;
    for (const std::string& name : *names) {
        SessionId id{};
        if (name.size() != file_name(id).size() || !name.starts_with(kPrefix) || !name.ends_with(kSuffix) ||
            !crypto::from_hex(std::string_view(name).substr(kPrefix.size(), 2 * id.size()), id))
            continue;
        if (!sessions_.contains(id)) remove_files({id});
    }
}

void KvStore::remove_files(const std::vector<SessionId>& ids) {
    // Where the store keeps it, it is ciphertext without a key.
    for (const SessionId& id : ids) static_cast<void>(port::remove_file(path_of(id)));
}

// ---- Saving ----

std::uint64_t KvStore::bytes_locked() const {
    std::uint64_t bytes = 0;
    for (const auto& [id, session] : sessions_) bytes += bytes_of(*session);
    return bytes;
}

Result<std::shared_ptr<StoredSession>> KvStore::begin(const SessionId& id, const KvBinding& binding,
                                                      const crypto::Public32& owner,
                                                      const std::string& model) {
    auto session = std::make_shared<StoredSession>();
    session->id = id;
    FLEX_ASSIGN(session->key, crypto::random_secret());
    session->cipher = kCipher;
    session->binding = binding;
    session->owner = owner;
    session->model = model;
    std::vector<SessionId> gone;
    {
        const std::lock_guard lock(mutex_);
        if (sessions_.contains(id)) return fail(ErrorCode::kInvalidArgument, "stored already");
        session->used = writes_;
        if (sessions_.size() >= kMaxStoredSessions) {
            const auto oldest =
                std::ranges::min_element(sessions_, {}, [](const auto& entry) { return entry.second->used; });
            gone.push_back(oldest->first);
            sessions_.erase(oldest);
            ++counts_.evicted;
            lapsed_ = true;
        }
        sessions_.emplace(id, session);
    }
    remove_files(gone);
    return session;
}

/// The oldest others go until a block of this one fits. mutex_ is held.
std::vector<SessionId> KvStore::make_room_locked(const StoredSession& session) {
    std::vector<SessionId> gone;
    while (bytes_locked() + session.binding.layout.block_bytes() > limit_) {
        auto oldest = sessions_.end();
        for (auto entry = sessions_.begin(); entry != sessions_.end(); ++entry) {
            if (entry->second.get() == &session) continue;
            if (oldest == sessions_.end() || entry->second->used < oldest->second->used) oldest = entry;
        }
        if (oldest == sessions_.end()) break;
        gone.push_back(oldest->first);
        sessions_.erase(oldest);
        ++counts_.evicted;
        lapsed_ = true;
    }
    return gone;
}

Status KvStore::append(StoredSession& session, std::size_t blocks, std::span<const TokenId> tokens,
                       crypto::Bytes content) {
    const std::size_t block_bytes = session.binding.layout.block_bytes();
    if (tokens.size() != kBlock || content.size() != block_bytes)
        return fail(ErrorCode::kInvalidArgument, "not a block of this conversation");
    const auto is_next = [&] { // mutex_ is held
        const auto found = sessions_.find(session.id);
        return found != sessions_.end() && found->second.get() == &session &&
               session.blocks.size() == blocks && blocks < kMaxStoredTokens / kBlock;
    };
    StoredBlock block;
    std::vector<SessionId> gone;
    {
        const std::lock_guard lock(mutex_);
        if (!is_next()) return fail(ErrorCode::kNotFound, "it was deleted, or goes on otherwise");
        gone = make_room_locked(session);
        if (bytes_locked() + block_bytes > limit_)
            return fail(ErrorCode::kUnsupported, "the conversation is larger than the store may be");
        block.counter = counter_++;
    }
    remove_files(gone);
    FLEX_TRY(crypto::random(block.nonce));
    FLEX_ASSIGN(const port::Block memory, port_.allocate(block_bytes));
    const FlexBuffer buffer(port_, memory); // of the ciphertext
    const auto sealed = buffer.bytes().first(block_bytes);
#ifdef FLEX_WITHOUT_KV_SEAL
    std::ranges::copy(content, sealed.begin());
#else
    FLEX_ASSIGN(auto aead, crypto::Aead::create(session.cipher, session.key));
    FLEX_TRY(aead.seal(block.nonce, block_associated_data(session, blocks, block.counter), content, sealed,
                       block.tag));
#endif
    const auto file = port::File::open_to_write(path_of(session.id), kMode);
    if (!file) return fail(ErrorCode::kIo, file.error().message); // "not found" means something else here
    FLEX_TRY(file->write(blocks * block_bytes, sealed));
    const std::lock_guard lock(mutex_);
    if (!is_next()) { // deleted meanwhile: what was just written has no key
        remove_files({session.id});
        return fail(ErrorCode::kNotFound, "it was deleted");
    }
    session.blocks.push_back(block);
    session.tokens.insert(session.tokens.end(), tokens.begin(), tokens.end());
    ++counts_.saved_blocks;
    counts_.saved_bytes += block_bytes;
    return {};
}

Status KvStore::commit(const StoredSession& session, bool failed) {
    std::vector<SessionId> gone;
    {
        const std::lock_guard lock(mutex_);
        if (failed) ++counts_.save_failures;
        const auto self = sessions_.find(session.id);
        if (self == sessions_.end()) return {}; // deleted
        self->second->used = writes_;
        const std::time_t now = std::time(nullptr);
        self->second->saved_at = now > 0 ? static_cast<std::uint64_t>(now) : 0;
        std::erase_if(sessions_, [&](const auto& entry) {
            const StoredSession& other = *entry.second;
            const bool contained = other.id != session.id && other.binding == session.binding &&
                                   in_common(other.tokens, session.tokens) == other.tokens.size();
            const bool goes = contained || (other.id == session.id && other.blocks.empty());
            if (goes) gone.push_back(other.id);
            lapsed_ = lapsed_ || goes;
            return goes;
        });
    }
    // First what the index speaks of, then the index. A file that is not there holds no block, either.
    if (const auto file = port::File::open_to_write(path_of(session.id), kMode)) {
        FLEX_TRY(file->sync());
    }
    const std::lock_guard lock(index_mutex_);
    FLEX_TRY(write_index(false));
    remove_files(gone);
    return {};
}

/// index_mutex_ is held. With a new secret nothing that was sealed before can be opened again.
Status KvStore::write_index(bool new_secret) {
    FLEX_ASSIGN(const auto device_key, port_.device_key(kDeviceKeyLabel));
    new_secret = new_secret || secret_due_ || !secret_;
    crypto::Secret32 fresh;
    if (new_secret) {
        FLEX_ASSIGN(fresh, crypto::random_secret());
    }
    const auto sealed = [&] {
        const std::lock_guard lock(mutex_);
        KvIndex index;
        index.writes = writes_++;
        index.counter = counter_;
        for (const auto& [id, session] : sessions_) {
            if (!session->blocks.empty()) index.sessions.push_back(session);
        }
        return seal_index(index, device_key, new_secret ? fresh : *secret_, kCipher);
    }();
    if (!sealed) return sealed.error();
    if (new_secret) {
        secret_due_ = true; // also where it fails half-way: then the next writing tries again
        // The change of the secret is the moment at which a deletion happens; whichever side of it a crash
        // is on, one of the two files opens.
        FLEX_TRY(port::write_file(folder_ + kNextIndexFile, *sealed, kMode));
        FLEX_TRY(trust_.replace_conversations_secret(fresh));
        secret_.emplace(std::move(fresh));
        secret_due_ = false;
    }
    FLEX_TRY(port::write_file(folder_ + kIndexFile, *sealed, kMode));
    return port::remove_file(folder_ + kNextIndexFile);
}

// ---- Using ----

KvFound KvStore::find(const KvBinding& binding, std::span<const TokenId> prompt) {
    const std::lock_guard lock(mutex_);
    KvFound best;
    for (const auto& [id, session] : sessions_) {
        if (session->binding != binding) continue;
        const std::size_t common = in_common(session->tokens, prompt);
        if (common > best.tokens) best = {session, common, common == session->tokens.size()};
    }
    if (best.session) best.session->used = writes_;
    return best;
}

std::unique_ptr<KvReading> KvStore::read(const KvFound& found, std::vector<KvPlace> places,
                                         std::shared_ptr<Bell> bell) {
    const std::vector<std::optional<KvLoss>> nothing(places.size(), KvLoss::kSlow);
    std::unique_ptr<KvReading> reading;
    if (*readings_ < kMaxReadings) {
        KvReading::Request request{.open = open_,
                                   .path = path_of(found.session->id),
                                   .session = found.session,
                                   .blocks = {},
                                   .places = std::move(places),
                                   .threads = readings_,
                                   .bell = std::move(bell)};
        {
            const std::lock_guard lock(mutex_);
            request.blocks = found.session->blocks;
        }
        reading = KvReading::begin(std::move(request));
    }
    if (!reading) note_losses(*found.session, nothing);
    return reading;
}

std::vector<std::optional<KvLoss>> KvStore::finish(KvReading& reading) {
    auto losses = reading.finish();
    note_losses(reading.session(), losses);
    const auto came =
        static_cast<std::uint64_t>(std::ranges::count_if(losses, [](const auto& loss) { return !loss; }));
    const std::lock_guard lock(mutex_);
    counts_.restored_blocks += came;
    counts_.restored_bytes += came * reading.session().binding.layout.block_bytes();
    read_ns_ += reading.nanoseconds();
    return losses;
}

/// Said once a conversation: a store that damages everything must not fill the log. The id is the normal
/// world's, too.
void KvStore::note_losses(StoredSession& session, std::span<const std::optional<KvLoss>> losses) {
    std::optional<KvLoss> told;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& loss : losses) {
            if (!loss) continue;
            ++counts_.recomputed[static_cast<std::size_t>(*loss)];
            if (!std::exchange(session.loss_told, true)) told = loss;
        }
    }
    if (told) {
        std::fprintf(stderr, "flexserved: stored conversation %s: %s block computed again\n",
                     crypto::hex(session.id).c_str(), name_of(*told));
    }
}

// ---- Owners ----

std::vector<StoredSessionInfo> KvStore::list(const crypto::Public32& owner) const {
    const std::lock_guard lock(mutex_);
    std::vector<StoredSessionInfo> list;
    for (const auto& [id, session] : sessions_) {
        if (session->owner != owner || session->blocks.empty()) continue;
        list.push_back({id, session->model, session->tokens.size(), bytes_of(*session), session->saved_at});
    }
    return list;
}

Result<std::size_t> KvStore::remove(const crypto::Public32& owner, const std::optional<SessionId>& id) {
    const std::lock_guard index_lock(index_mutex_);
    std::vector<SessionId> gone;
    bool lapsed = false; // an older index may hold conversations of this owner that are in no newer one
    {
        const std::lock_guard lock(mutex_);
        if (!id) lapsed = std::exchange(lapsed_, false);
        std::erase_if(sessions_, [&](const auto& entry) {
            const bool goes = entry.second->owner == owner && (!id || entry.first == *id);
            if (goes) gone.push_back(entry.first);
            return goes;
        });
        counts_.deleted += gone.size();
    }
    if (gone.empty() && !lapsed && !secret_due_) return std::size_t{0};
    const Status written = write_index(true);
    remove_files(gone);
    FLEX_TRY(written);
    return gone.size();
}

KvStoreStatus KvStore::status() const {
    const std::lock_guard lock(mutex_);
    KvStoreStatus status = counts_;
    status.sessions = sessions_.size();
    status.bytes = bytes_locked();
    if (read_ns_ > 0)
        status.read_bandwidth =
            static_cast<double>(counts_.restored_bytes) * 1e9 / static_cast<double>(read_ns_);
    return status;
}

} // namespace flex::memory
