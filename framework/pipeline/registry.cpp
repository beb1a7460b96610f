#include "pipeline/registry.h"

#include <algorithm>

namespace flex::pipeline {

namespace {
constexpr std::string_view kSuffix = ".flex";
using Clock = std::chrono::steady_clock;
} // namespace

Registry::Registry(port::Port& port, const RegistryOptions& options)
    : port_(port), options_(options), trust_(port), pool_(options.threads) {}

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
    for (const auto& [name, path] : gguf_files_) names.push_back(name);
    std::ranges::sort(names);
    const auto repeated = std::ranges::unique(names);
    names.erase(repeated.begin(), repeated.end());
    return names;
}

Status Registry::add_gguf(const std::string& name, const std::string& path) {
    if (!package::is_valid_name(name)) return fail(ErrorCode::kInvalidArgument, "\"" + name + "\" is not a model's name");
    if (auto source = open_gguf_source(port_, path, name); !source) return source.error();
    const std::lock_guard lock(mutex_);
    gguf_files_[name] = path;
    return {};
}

Result<std::unique_ptr<WeightSource>> Registry::source(const std::string& name) {
    if (const auto file = gguf_files_.find(name); file != gguf_files_.end()) {
        return open_gguf_source(port_, file->second, name);
    }
    return open_package_source(port_, trust_, name);
}

Result<std::shared_ptr<ServedModel>> Registry::open(const std::string& name) {
    FLEX_ASSIGN(auto weights_source, source(name));
    FLEX_ASSIGN(auto weights, LoadedModel::open(std::move(weights_source)));
    auto served = std::make_shared<ServedModel>();
    engine::SessionOptions options;
    options.context = options_.context;
    options.gate = weights.get();
    FLEX_ASSIGN(served->session, engine::Session::create(weights->model(), pool_, options));
    served->weights = std::move(weights);
    return served;
}

Result<std::shared_ptr<ServedModel>> Registry::get(const std::string& name) {
    const std::lock_guard lock(mutex_);
    auto found = models_.find(name);
    if (found != models_.end() && found->second.model->weights->failed()) {
        models_.erase(found); // a damaged file may have been mended since
        found = models_.end();
    }
    if (found == models_.end()) {
        auto opened = open(name);
        while (!opened && opened.error().code == ErrorCode::kOutOfMemory && drop_idle(1) > 0) opened = open(name);
        if (!opened) return opened.error();
        found = models_.emplace(name, Entry{std::move(*opened), {}}).first;
    }
    found->second.last_use = Clock::now();
    found->second.model->weights->start_loading();
    return found->second.model;
}

std::uint64_t Registry::drop_idle(std::uint64_t bytes) {
    std::uint64_t freed = 0;
    while (freed < bytes) {
        auto victim = models_.end();
        for (auto entry = models_.begin(); entry != models_.end(); ++entry) {
            const bool idle = entry->second.model.use_count() == 1;
            if (idle && (victim == models_.end() || entry->second.last_use < victim->second.last_use)) victim = entry;
        }
        if (victim == models_.end()) break;
        freed += std::max<std::uint64_t>(victim->second.model->weights->bytes_loaded(), 1);
        models_.erase(victim);
    }
    return freed;
}

std::uint64_t Registry::give_back(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    return drop_idle(bytes);
}

std::vector<ModelStatus> Registry::status() const {
    const std::lock_guard lock(mutex_);
    std::vector<ModelStatus> all;
    for (const auto& [name, entry] : models_) {
        const LoadedModel& weights = *entry.model->weights;
        const std::chrono::duration<double> idle = Clock::now() - entry.last_use;
        all.push_back({name, weights.info().kind, weights.info().version, weights.info().bytes, weights.bytes_loaded(),
                       entry.model->session->context(), entry.model.use_count() > 1, idle.count()});
    }
    return all;
}

} // namespace flex::pipeline
