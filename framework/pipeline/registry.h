// The models this program serves: what is in the store, what is in memory.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/batch.h"
#include "engine/thread_pool.h"
#include "package/trust.h"
#include "pipeline/conversations.h"
#include "pipeline/loaded_model.h"

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
    std::unique_ptr<engine::KvMemory> kv_memory;
    std::shared_ptr<engine::KvPool> kv;
    std::shared_ptr<engine::Batch> batch;
    std::unique_ptr<Conversations> conversations;
    std::uint32_t context = 0; ///< tokens per session
};

struct RegistryOptions {
    unsigned threads = 1;                     ///< that compute
    std::uint32_t context = 0;                ///< tokens per session; 0: see default_context
    std::optional<engine::KvType> kv{};       ///< how KV caches are stored; nothing: see default_kv
    const engine::Kernels* kernels = nullptr; ///< null: the best this CPU has (engine/kernels/kernels.h)
};

struct ModelStatus {
    std::string name;
    std::string kind;
    std::uint64_t version = 0;
    std::uint64_t bytes = 0, bytes_loaded = 0;
    std::uint32_t context = 0;
    bool in_use = false;
    double idle_seconds = 0;
};

/// Any thread.
class Registry {
public:
    /// `port` must outlive it.
    Registry(port::Port& port, const RegistryOptions& options);

    /// Names in the store, sorted, and those added with add_gguf. Error: kIo.
    Result<std::vector<std::string>> names() const;

    /// The model, ready to tokenize; its weights begin to come in. Opened at most once; other models that
    /// nobody uses are dropped when memory is short. The model stays while the pointer is held. Errors: as
    /// Package::open and LoadedModel::open, kOutOfMemory.
    Result<std::shared_ptr<ServedModel>> get(const std::string& name);

    /// Serves a plain GGUF file as `name`, instead of a package, with this chat form (package::Metadata).
    /// Natively only.
    Status add_gguf(const std::string& name, const std::string& path, std::vector<std::byte> chat_form = {});

    /// Drops models that nobody uses, the least recently used first, then conversations that wait for their
    /// next turn, until `bytes` are free. Returns what was freed.
    std::uint64_t give_back(std::uint64_t bytes);

    [[nodiscard]] std::vector<ModelStatus> status() const;

private:
    struct Entry {
        std::shared_ptr<ServedModel> model;
        std::chrono::steady_clock::time_point last_use;
    };
    using Models = std::vector<std::shared_ptr<ServedModel>>;
    Result<std::shared_ptr<ServedModel>> open(const std::string& name);
    Status add_kv(ServedModel& served);
    Result<std::unique_ptr<WeightSource>> source(const std::string& name);
    Result<std::shared_ptr<ServedModel>> get_or_open(const std::string& name, Models& dropped);
    std::uint64_t take_idle(std::uint64_t bytes, Models& taken, bool settled_only = false);
    std::uint64_t make_room(std::uint64_t bytes);

    port::Port& port_;
    RegistryOptions options_;
    package::TrustStore trust_;
    engine::ThreadPool pool_;
    mutable std::mutex mutex_;
    std::map<std::string, Entry> models_;
    struct GgufFile {
        std::string path;
        std::vector<std::byte> chat_form;
    };
    std::map<std::string, GgufFile> gguf_files_;
};

} // namespace flex::pipeline
