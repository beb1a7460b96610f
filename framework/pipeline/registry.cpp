#include "pipeline/registry.h"

#include <algorithm>

#include "memory/kv_arena.h"
#include "memory/kv_memory.h"

namespace flex::pipeline {

namespace {
constexpr std::string_view kSuffix = ".flex";
constexpr std::uint32_t kMaxDefaultContext = 4096;
constexpr std::uint32_t kMinDefaultContext = 256;
constexpr std::uint64_t kFrameBytes = 4096;
constexpr std::uint32_t kRowsPerPass = 256;    // as fast as more, in half the memory
constexpr std::uint64_t kContextsPerModel = 8; // of KV cache, where nothing says how much memory there is
constexpr std::uint64_t kExactKvBytes = 32u << 20;
using Clock = std::chrono::steady_clock;
} // namespace

std::uint32_t default_context(const engine::KvLayout& kv, std::uint32_t trained, std::uint64_t memory_bytes) {
    const std::uint32_t most = std::min(trained, kMaxDefaultContext);
    if (memory_bytes == 0) return most;
    const std::uint64_t fits = memory_bytes / 4 / kv.block_bytes() * engine::kKvBlockTokens;
    return std::min(
        most, std::max(static_cast<std::uint32_t>(std::min<std::uint64_t>(fits, most)), kMinDefaultContext));
}

engine::KvType default_kv(const engine::ModelShape& shape, std::uint32_t context) {
    const auto exact = engine::KvLayout::of(shape, engine::KvType::kF32);
    return exact && exact->bytes(context) <= kExactKvBytes ? engine::KvType::kF32 : engine::KvType::kF16;
}

Registry::Registry(port::Port& port, const RegistryOptions& options)
    : port_(port), options_(options), trust_(port), pool_(options.threads) {
    if (options_.npu != nullptr) npu_.emplace(*options_.npu);
    start_store();
}

Registry::~Registry() {
    saver_.reset();
    Taken all; // a loader at work may still look at the map, and finds it empty
    const std::lock_guard lock(mutex_);
    for (auto& [name, entry] : models_) all.models.push_back(std::move(entry.model));
    models_.clear();
}

Result<std::vector<std::string>> Registry::names() const {
    FLEX_ASSIGN(const auto files, port::list_folder(port_.store_folder()));
    std::vector<std::string> names;
    for (const std::string& file : files) {
        if (!file.ends_with(kSuffix)) continue;
        std::string name = file.substr(0, file.size() - kSuffix.size());
        // The listing comes from outside: what could not be opened as a package is not offered as one.
        if (package::is_valid_name(name)) names.push_back(std::move(name));
    }
    const std::lock_guard lock(mutex_);
    for (const auto& [name, file] : gguf_files_) names.push_back(name);
    std::ranges::sort(names);
    const auto repeated = std::ranges::unique(names);
    names.erase(repeated.begin(), repeated.end());
    return names;
}

Status Registry::add_gguf(const std::string& name, const std::string& path,
                          std::vector<std::byte> chat_form) {
    if (!package::is_valid_name(name))
        return fail(ErrorCode::kInvalidArgument, "\"" + name + "\" is not a model's name");
    if (auto source = open_gguf_source(port_, path, name); !source) return source.error();
    const std::lock_guard lock(mutex_);
    gguf_files_[name] = {path, std::move(chat_form)};
    return {};
}

Result<std::unique_ptr<WeightSource>> Registry::source(const std::string& name) {
    std::optional<GgufFile> plain;
    {
        const std::lock_guard lock(mutex_);
        if (const auto file = gguf_files_.find(name); file != gguf_files_.end()) plain = file->second;
    }
    if (plain) return open_gguf_source(port_, plain->path, name, std::move(plain->chat_form));
    return open_package_source(port_, trust_, name);
}

Result<std::shared_ptr<ServedModel>> Registry::open(const std::string& name) {
    FLEX_ASSIGN(auto weights_source, source(name));
    FLEX_ASSIGN(auto weights, LoadedModel::open(std::move(weights_source)));
    auto served = std::make_shared<ServedModel>();
    weights->set_make_room([this, owner = served.get()](std::uint64_t bytes, auto refused_for) {
        return make_room_for(*owner, bytes, refused_for);
    });
    served->weights = std::move(weights);
    {
        const std::lock_guard lock(mutex_);
        auto& use = uses_[name];
        if (!use) use = std::make_shared<ModelUse>(options_.policy);
        served->use = use;
    }
    const auto begin = Clock::now();
    FLEX_TRY(add_kv(*served));
    package::LoadTimes times;
    times.allocate_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count());
    served->weights->add_times(times);
    return served;
}

/// All that computes with served.weights.
Status Registry::add_kv(ServedModel& served) {
    const engine::ModelShape& shape = served.weights->model().shape();
    const std::uint32_t wanted =
        options_.context != 0 ? options_.context : std::min(shape.context, kMaxDefaultContext);
    FLEX_ASSIGN(const engine::KvLayout layout,
                engine::KvLayout::of(shape, options_.kv.value_or(default_kv(shape, wanted))));
    std::uint64_t frames = 0;
    for (const std::uint64_t count : port_.memory_info().frames) frames += count;
    const std::uint64_t memory = frames * kFrameBytes;
    served.context =
        options_.context != 0 ? options_.context : default_context(layout, shape.context, memory);
    served.gate = std::make_unique<SharedGate>(*served.weights, share_);
    engine::BatchOptions options{kRowsPerPass,     served.context,          served.gate.get(),
                                 options_.kernels, npu_ ? &*npu_ : nullptr, options_.npu_use};
    FLEX_ASSIGN(served.batch, engine::Batch::create(served.weights->model(), pool_, options));
    // Where memory is known, all sessions of a model together take no more than one alone might.
    const std::uint64_t one = layout.bytes(served.context);
    const std::uint64_t limit = memory == 0 ? kContextsPerModel * one : std::max(memory / 4, one);
    const std::uint64_t blocks = limit / layout.block_bytes();
    if (options_.npu != nullptr && !port_.is_protected()) {
        FLEX_ASSIGN(served.kv_memory, memory::KvArena::create(layout.block_bytes(), blocks));
    } else {
        served.kv_memory = std::make_unique<memory::FlexKvMemory>(
            port_, [this](std::uint64_t bytes) { return make_room(bytes); });
    }
    served.kv = std::make_shared<engine::KvPool>(layout, blocks, *served.kv_memory);
    served.conversations = std::make_unique<Conversations>(served.batch, served.kv, served.context,
                                                           conversation_store(served.weights->info()));
    return {};
}

namespace {

/// The registry's lock is held.
std::shared_ptr<ServedModel> pinned(std::shared_ptr<ServedModel> model) {
    ServedModel* raw = model.get();
    raw->users.fetch_add(1, std::memory_order_relaxed);
    return {raw, [model = std::move(model)](ServedModel* served) mutable {
                served->users.fetch_sub(1, std::memory_order_release);
                model.reset();
            }};
}

} // namespace

/// open_mutex_ is held. What it returns is pinned.
Result<std::shared_ptr<ServedModel>> Registry::get_or_open(const std::string& name) {
    std::shared_ptr<ServedModel> model;
    {
        const std::lock_guard lock(mutex_);
        if (const auto found = models_.find(name); found != models_.end())
            model = pinned(found->second.model);
    }
    const bool damaged = model && model->weights->damaged(); // the file may have been mended since
    if (model && !damaged && !model->weights->may_be_outdated()) return model;
    auto opened = open(name);
    // What is in memory was checked; it serves on when the file only claims to be newer.
    if (!opened && model && !damaged) return model;
    Taken taken;
    const std::lock_guard lock(mutex_);
    if (const auto old = models_.find(name); old != models_.end()) {
        forget(old->second, taken);
        models_.erase(old);
    }
    if (!opened) return opened;
    models_[name].model = *opened;
    return pinned(*opened);
}

Result<std::shared_ptr<ServedModel>> Registry::get(const std::string& name) {
    const std::lock_guard one_at_a_time(open_mutex_);
    for (;;) {
        auto model = get_or_open(name);
        if (!model && model.error().code == ErrorCode::kOutOfMemory && make_room(1) > 0) continue;
        if (!model) return model;
        const std::lock_guard lock(mutex_);
        for (auto& [other, entry] : models_) {
            if (other != name && !entry.expected) entry.model->weights->stop_prefetch();
        }
        Entry& entry = models_.at(name); // stays: `model` holds it
        entry.last_use = Clock::now();
        entry.expected = false;
        count(name, *(*model)->weights);
        (*model)->weights->start_loading();
        return model;
    }
}

/// mutex_ is held.
void Registry::count(const std::string& name, const LoadedModel& weights) {
    double recent = 0, recent_of_last = 0;
    for (const auto& [other, use] : uses_) {
        const double of_this = use->snapshot().recent;
        recent += of_this;
        if (other == last_) recent_of_last = of_this;
    }
    if (recent > 0) repetition_.note(name == last_, recent_of_last / recent);
    last_ = name;
    const engine::Stage loaded = weights.stages_loaded();
    ++(loaded == 0                         ? counters_.misses
       : loaded < weights.model().stages() ? counters_.partial_hits
                                           : counters_.hits);
}

/// mutex_ is held.
void Registry::forget(Entry& entry, Taken& taken) {
    const StreamCounters streamed = entry.model->weights->streamed();
    counters_.stages_streamed += streamed.stages;
    counters_.bytes_streamed += streamed.bytes;
    taken.models.push_back(std::move(entry.model));
}

} // namespace flex::pipeline
