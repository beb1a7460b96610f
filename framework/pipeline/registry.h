// The models this program serves: what is in the store, what is in memory.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/batch.h"
#include "engine/thread_pool.h"
#include "memory/policy.h"
#include "memory/pressure.h"
#include "package/trust.h"
#include "pipeline/conversations.h"
#include "pipeline/fair_share.h"
#include "pipeline/kv_saver.h"
#include "pipeline/loaded_model.h"
#include "pipeline/model_use.h"
#include "pipeline/shared_npu.h"

namespace flex::pipeline {

/// Tokens for a session where nobody said: what the model was trained for, at most 4096, and with a KV cache
/// of at most a quarter of the machine's memory (0: unknown, no limit).
[[nodiscard]] std::uint32_t default_context(const engine::KvLayout& kv, std::uint32_t trained,
                                            std::uint64_t memory_bytes);

/// kF32, which is exact, where a session of `context` tokens takes no more than 32 MiB of it; else kF16.
[[nodiscard]] engine::KvType default_kv(const engine::ModelShape& shape, std::uint32_t context);

/// A model in memory with all that computes with it. Members in the order of their dependence.
struct ServedModel {
    std::unique_ptr<LoadedModel> weights;
    std::unique_ptr<SharedGate>
        gate; ///< what the batch computes with: the weights, in turns with other models
    std::unique_ptr<engine::KvMemory> kv_memory;
    std::shared_ptr<engine::KvPool> kv;
    std::shared_ptr<engine::Batch> batch;
    std::unique_ptr<Conversations> conversations;
    std::shared_ptr<ModelUse> use; ///< whoever computes a prompt notes it here
    std::uint32_t context = 0;     ///< tokens per session
    /// Pointers that Registry::get() gave and that are still held. Raised only under the registry's lock, so
    /// who sees 0 under it has the model to itself.
    std::atomic<std::uint32_t> users{0};
    [[nodiscard]] bool in_use() const { return users.load(std::memory_order_acquire) != 0; }
};

struct RegistryOptions {
    unsigned threads = 1;                     ///< that compute
    std::uint32_t context = 0;                ///< tokens per session; 0: see default_context
    std::optional<engine::KvType> kv{};       ///< how KV caches are stored; nothing: see default_kv
    const engine::Kernels* kernels = nullptr; ///< null: the best this CPU has (engine/kernels/kernels.h)
    npu::Npu* npu = nullptr;                  ///< not owned; null: none
    engine::NpuUse npu_use = engine::NpuUse::kAuto;
    memory::PolicyOptions policy{}; ///< what stays in memory
    /// A request whose weights find no memory waits that long for what other requests and Linux let go.
    std::chrono::milliseconds memory_patience{5000};
    /// Weights and conversations kept while no request runs; 0: all there is memory for.
    std::uint64_t cache_bytes = 0;
    std::uint64_t stored_kv_bytes = 0;                 ///< of idle conversations in the store; 0: none
    std::chrono::milliseconds save_after{1000};        ///< of idleness, a conversation is written out
    std::chrono::milliseconds restore_patience{3000};  ///< see ConversationStore::patience
    memory::KvOpen open_stored = memory::open_kv_file; ///< see KvStore
};

/// A conversation of somebody, for him.
struct SessionInfo {
    memory::SessionId id{};
    std::string model;
    const char* state = "stored"; ///< "running", "idle" (in memory), "stored" (only in the store)
    std::size_t tokens = 0, stored_tokens = 0;
};

struct ModelStatus {
    std::string name;
    std::string kind;
    std::uint64_t version = 0;
    std::uint64_t bytes = 0, bytes_loaded = 0;
    std::uint32_t context = 0;
    bool in_use = false;
    double idle_seconds = 0;
    std::uint32_t stages = 0, stages_loaded = 0; ///< of them in memory, the first ones
    bool hot = false;                            ///< as the memory policy sees it
    std::size_t idle_conversations = 0;
    ConversationsStatus conversations{};
    std::uint64_t kv_block_bytes = 0;
};

/// Since the registry was made.
struct CacheCounters {
    // Requests that found all, some or none of their model's stages in memory:
    std::uint64_t hits = 0, partial_hits = 0, misses = 0;
    std::uint64_t stages_streamed = 0, bytes_streamed = 0; ///< brought in, prefetched ones included
    std::uint64_t prefetches = 0;                          ///< stages asked for before a request did
    std::uint64_t asks = 0, bytes_asked = 0;               ///< by the normal world
    std::uint64_t bytes_given_back = 0;                    ///< to it, to other models, or to keep a limit
};

/// Any thread.
class Registry {
public:
    /// `port` must outlive it.
    Registry(port::Port& port, const RegistryOptions& options);
    ~Registry();

    /// Names in the store, sorted, and those added with add_gguf. Error: kIo.
    Result<std::vector<std::string>> names() const;

    /// The model, ready to tokenize; its missing weights begin to come in. Opened at most once; when memory
    /// is short the memory policy decides what of others goes. The model stays while the pointer is held.
    /// Errors: as Package::open and LoadedModel::open, kOutOfMemory.
    Result<std::shared_ptr<ServedModel>> get(const std::string& name);

    /// A workflow will call this model next: its weights begin to come in as far as there is memory, and it
    /// counts as the hottest until get() or until told otherwise. Errors: those of get().
    Status expect(const std::string& name, bool expected = true);

    /// Serves a plain GGUF file as `name`, instead of a package, with this chat form (package::Metadata).
    /// Natively only.
    Status add_gguf(const std::string& name, const std::string& path, std::vector<std::byte> chat_form = {});

    /// The normal world wants memory: frees at least `bytes`, if that much may go, in the order of the memory
    /// policy (memory/policy.h). Nothing that a request uses goes. Returns what was freed. Reads nothing.
    std::uint64_t give_back(std::uint64_t bytes);
    /// To be called now and then: keeps RegistryOptions::cache_bytes, and brings hot models back when nobody
    /// asked for memory for a while. Quick.
    void tend();

    [[nodiscard]] std::vector<ModelStatus> status() const;
    [[nodiscard]] CacheCounters counters() const;

    /// What is kept of this owner's conversations (Ownership::owner), in memory and in the store.
    [[nodiscard]] std::vector<SessionInfo> sessions(const std::string& owner) const;
    /// Deletes them, or only one: their memory goes, their keys are destroyed. What runs goes when it ends.
    /// Returns how many there were. Error: kIo, when the deletion could not be made lasting (then try again).
    Result<std::size_t> delete_sessions(const std::string& owner,
                                        const std::optional<memory::SessionId>& id = {});
    /// Nothing: there is no store.
    [[nodiscard]] std::optional<memory::KvStoreStatus> store_status() const;

private:
    struct Entry {
        std::shared_ptr<ServedModel> model;
        std::chrono::steady_clock::time_point last_use;
        bool expected = false; // see expect()
    };
    /// What goes. Destroyed after mutex_ is let go: giving frames back takes time, and the end of a model
    /// waits for its loaders, which may be waiting for mutex_.
    struct Taken {
        std::vector<memory::FlexBuffer> buffers;
        std::vector<std::shared_ptr<ServedModel>> models;
    };
    struct Snapshot;

    Result<std::shared_ptr<ServedModel>> open(const std::string& name);
    Status add_kv(ServedModel& served);
    Result<std::unique_ptr<WeightSource>> source(const std::string& name);
    Result<std::shared_ptr<ServedModel>> get_or_open(const std::string& name);
    void count(const std::string& name, const LoadedModel& weights);
    void forget(Entry& entry, Taken& taken);

    // registry_sessions.cpp
    void start_store();
    [[nodiscard]] ConversationStore conversation_store(const SourceInfo& info) const;
    [[nodiscard]] std::vector<std::shared_ptr<ServedModel>> open_models() const;

    // registry_memory.cpp
    [[nodiscard]] Snapshot snapshot() const;
    std::uint64_t apply(const Snapshot& from, std::span<const memory::Step> drops, Taken& taken);
    std::uint64_t release(std::uint64_t bytes, Taken& taken);
    std::uint64_t close_idle(Taken& taken);
    std::uint64_t make_room(std::uint64_t bytes);
    Room make_room_for(const ServedModel& served, std::uint64_t bytes, std::chrono::nanoseconds refused_for);
    void begin_loads(const Snapshot& from, std::span<const memory::Step> loads, bool expected_only);

    port::Port& port_;
    RegistryOptions options_;
    package::TrustStore trust_;
    engine::ThreadPool pool_;
    std::mutex open_mutex_; // one get() at a time; taken before mutex_, and never by loaders
    FairShare share_;       // of the pool
    std::optional<SharedNpu> npu_;
    mutable std::mutex mutex_;
    std::map<std::string, Entry> models_;
    std::map<std::string, std::shared_ptr<ModelUse>> uses_; // also of models that are not open now
    memory::Pressure pressure_;
    memory::Repetition repetition_;
    std::string last_;       // whose request came last
    CacheCounters counters_; // streams: of models that are not open any more
    struct GgufFile {
        std::string path;
        std::vector<std::byte> chat_form;
    };
    std::map<std::string, GgufFile> gguf_files_;
    std::unique_ptr<memory::KvStore> kv_store_; // null: conversations are not written out
    std::unique_ptr<KvSaver> saver_;
};

} // namespace flex::pipeline
