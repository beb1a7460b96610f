// The registry's conversations: where they are stored, and what their owners may ask.
#include <algorithm>

#include "pipeline/registry.h"

namespace flex::pipeline {

namespace {

crypto::Public32 digest_of(const std::string& text) {
    const auto digest = crypto::sha256(crypto::bytes_of(text));
    return digest ? *digest : crypto::Public32{};
}

} // namespace

void Registry::start_store() {
    if (options_.stored_kv_bytes == 0) return;
    kv_store_ =
        std::make_unique<memory::KvStore>(port_, trust_, options_.stored_kv_bytes, options_.open_stored);
    saver_ = std::make_unique<KvSaver>([this] { return open_models(); }, options_.save_after);
}

std::vector<std::shared_ptr<ServedModel>> Registry::open_models() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<ServedModel>> models;
    for (const auto& [name, entry] : models_) models.push_back(entry.model);
    return models;
}

/// KV cache is that of one package, as this program computes it. A plain file has no identity that would
/// hold until it is opened again.
ConversationStore Registry::conversation_store(const SourceInfo& info) const {
    ConversationStore store;
    if (!kv_store_ || info.id == package::PackageId{}) return store;
    store.store = kv_store_.get();
    store.model = info.name;
    store.model_digest =
        digest_of("flexserve kv " + std::to_string(engine::kKvRevision) + " " + crypto::hex(info.id) + " " +
                  std::to_string(info.version) + " " + info.name);
    store.patience = options_.restore_patience;
    return store;
}

std::vector<SessionInfo> Registry::sessions(const std::string& owner) const {
    std::vector<SessionInfo> all;
    if (owner.empty()) return all;
    for (const auto& model : open_models()) {
        for (const ConversationInfo& c : model->conversations->list(owner))
            all.push_back({c.name, model->weights->info().name, c.running ? "running" : "idle", c.tokens,
                           c.saved_tokens});
    }
    if (!kv_store_) return all;
    for (const memory::StoredSessionInfo& stored : kv_store_->list(digest_of(owner))) {
        const auto same = std::ranges::find(all, stored.id, &SessionInfo::id);
        if (same == all.end())
            all.push_back({stored.id, stored.model, "stored", stored.tokens, stored.tokens});
        else
            same->stored_tokens = stored.tokens;
    }
    return all;
}

Result<std::size_t> Registry::delete_sessions(const std::string& owner,
                                              const std::optional<memory::SessionId>& id) {
    std::vector<memory::SessionId> gone;
    if (owner.empty()) return gone.size();
    // First in memory, so that nothing is written out again.
    for (const auto& model : open_models()) {
        for (const memory::SessionId& name : model->conversations->forget(owner, id ? &*id : nullptr))
            gone.push_back(name);
    }
    if (!kv_store_) return gone.size();
    for (const memory::StoredSessionInfo& stored : kv_store_->list(digest_of(owner))) {
        if (!id || stored.id == *id) gone.push_back(stored.id);
    }
    FLEX_TRY(kv_store_->remove(digest_of(owner), id));
    std::ranges::sort(gone);
    const auto repeated = std::ranges::unique(gone);
    gone.erase(repeated.begin(), repeated.end());
    return gone.size();
}

std::optional<memory::KvStoreStatus> Registry::store_status() const {
    if (!kv_store_) return {};
    return kv_store_->status();
}

} // namespace flex::pipeline
