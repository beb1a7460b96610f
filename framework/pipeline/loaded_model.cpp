#include "pipeline/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <system_error>

namespace flex::pipeline {

using package::LoadTimes;

namespace {
/// Stages that may lie fetched but not yet decrypted: enough to overlap, little enough to fail early.
constexpr engine::Stage kFetchedAhead = 3;
/// Until Linux, which does not say when it has some, is asked again for memory.
constexpr std::chrono::milliseconds kMemoryPause(20);

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}
} // namespace

double StreamCounters::bandwidth() const {
    const std::uint64_t ns = std::max(fetch_ns, open_ns); // they overlap
    return ns == 0 ? 0 : static_cast<double>(bytes) * 1e9 / static_cast<double>(ns);
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::open(std::unique_ptr<WeightSource> source) {
    std::unique_ptr<LoadedModel> loaded(new LoadedModel(std::move(source)));
    auto status = loaded->load_metadata();
    if (!status) return fail(status.error().code, loaded->info().name + ": " + status.error().message);
    return loaded;
}

Status LoadedModel::load_metadata() {
    FLEX_ASSIGN(package::Metadata metadata, source_->metadata(times_));
    FLEX_ASSIGN(const auto gguf, engine::Gguf::parse(metadata.header, metadata.source_bytes));
    FLEX_ASSIGN(model_, engine::Model::plan(gguf));
    FLEX_ASSIGN(tokenizer_, tokenizer::Tokenizer::create(gguf));
    if (tokenizer_->size() != model_->shape().vocabulary) {
        return fail(ErrorCode::kCorrupt, "tokenizer and model disagree about the vocabulary's size");
    }
    FLEX_ASSIGN(chat_template_, tokenizer::ChatTemplate::create(*tokenizer_, metadata.chat_form));
    places_ = std::move(metadata.places);
    buffers_.resize(model_->stages());
    for (engine::Stage stage = 0; stage < model_->stages(); ++stage)
        stage_bytes_.push_back(source_->stage_bytes(stage));
    return {};
}

LoadedModel::~LoadedModel() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        handed_on_.notify_all();
    }
    for (Loader* loader : {&fetcher_, &opener_}) {
        if (loader->thread.joinable()) loader->thread.join();
    }
}

void LoadedModel::start_loading() { bring_in(model_->stages(), true); }

bool LoadedModel::prefetch(engine::Stage stages) {
    return bring_in(std::min(stages, model_->stages()), false);
}

bool LoadedModel::take_refusal() {
    const std::lock_guard lock(mutex_);
    return std::exchange(refused_, false);
}

bool LoadedModel::bring_in(engine::Stage stages, bool demanded) {
    const std::lock_guard lock(mutex_);
    if (error_ && error_->code == ErrorCode::kOutOfMemory) error_.reset(); // there may be more by now
    if (error_ || (stages <= goal_ && !demanded)) return false;
    goal_ = std::max(goal_, stages);
    if (demanded) demand_ = std::max(demand_, stages);
    try {
        if (fetched_ < goal_) start(fetcher_, &LoadedModel::fetch_all);
        if (fetcher_.running || loaded_ < fetched_) start(opener_, &LoadedModel::open_all);
    } catch (const std::system_error&) {
        error_ =
            fail(ErrorCode::kOutOfMemory, "the system gives no thread to load the model with; try again");
    }
    handed_on_.notify_all();
    arrived_.notify_all();
    return true;
}

/// mutex_ is held: by whoever has set running to false it is not needed any more.
void LoadedModel::start(Loader& loader, void (LoadedModel::*work)()) {
    if (loader.running) return;
    if (loader.thread.joinable()) loader.thread.join();
    loader.thread = std::thread([this, work] { (this->*work)(); });
    loader.running = true;
}

void LoadedModel::stop_prefetch() {
    const std::lock_guard lock(mutex_);
    goal_ = std::min(goal_, std::max(demand_, fetched_ + (fetcher_.at ? 1 : 0)));
}

std::uint64_t LoadedModel::drop(engine::Stage keep, std::vector<memory::FlexBuffer>& taken) {
    const std::lock_guard lock(mutex_);
    goal_ = std::min(goal_, keep);
    demand_ = std::min(demand_, keep);
    for (Loader* loader : {&fetcher_, &opener_}) loader->discard |= loader->at && *loader->at >= keep;
    std::uint64_t freed = 0;
    while (fetched_ > keep) {
        const engine::Stage last = --fetched_;
        if (last < loaded_) {
            model_->unbind(last);
            loaded_ = last;
        }
        freed += buffers_[last].bytes().size();
        taken.push_back(std::move(buffers_[last]));
    }
    bytes_ -= freed;
    handed_on_.notify_all();
    return freed;
}

bool LoadedModel::failed() const {
    const std::lock_guard lock(mutex_);
    return error_.has_value();
}

bool LoadedModel::damaged() const {
    const std::lock_guard lock(mutex_);
    return error_ && error_->code != ErrorCode::kOutOfMemory;
}

bool LoadedModel::settled() const {
    const std::lock_guard lock(mutex_);
    return error_.has_value() || loaded_ == model_->stages();
}

bool LoadedModel::quiet() const {
    const std::lock_guard lock(mutex_);
    return !fetcher_.running && !opener_.running;
}

engine::Stage LoadedModel::stages_loaded() const {
    const std::lock_guard lock(mutex_);
    return loaded_;
}

engine::Stage LoadedModel::stages_held() const {
    const std::lock_guard lock(mutex_);
    return fetched_;
}

StreamCounters LoadedModel::streamed() const {
    const std::lock_guard lock(mutex_);
    return streamed_;
}

LoadTimes LoadedModel::take_times() {
    const std::lock_guard lock(mutex_);
    return std::exchange(times_, LoadTimes());
}

void LoadedModel::add_times(const LoadTimes& times) {
    const std::lock_guard lock(mutex_);
    times_ += times;
}

/// mutex_ is held.
void LoadedModel::fail_with(const Error& error) {
    if (!error_) error_ = error;
    arrived_.notify_all();
    handed_on_.notify_all();
}

/// The first thread: brings in stage after stage, at most kFetchedAhead before the second.
void LoadedModel::fetch_all() {
    std::unique_lock lock(mutex_);
    while (fetch_next(lock)) {
    }
    fetcher_.running = false;
    handed_on_.notify_all();
}

/// False when there is nothing left to do.
bool LoadedModel::fetch_next(std::unique_lock<std::mutex>& lock) {
    handed_on_.wait(
        lock, [&] { return fetched_ < loaded_ + kFetchedAhead || fetched_ >= goal_ || error_ || stop_; });
    if (fetched_ >= goal_ || error_ || stop_) return false;
    const engine::Stage stage = fetched_;
    fetcher_.at = stage;
    lock.unlock();
    const std::uint64_t begin = now_ns();
    LoadTimes times;
    auto buffer = source_->fetch(stage, times);
    const std::uint64_t took = now_ns() - begin;
    lock.lock();
    times_ += times;
    const bool unwanted = fetcher_.let_go();
    if (buffer) refused_since_.reset();
    if (buffer && !unwanted) {
        bytes_ += buffer->bytes().size();
        streamed_.fetch_ns += took;
        buffers_[stage] = std::move(*buffer);
        fetched_ = stage + 1;
        handed_on_.notify_all();
        return true;
    }
    if (buffer || unwanted) {
        lock.unlock();
        buffer = fail(ErrorCode::kCancelled, "dropped"); // frees it, without the lock
        lock.lock();
        return true;
    }
    if (buffer.error().code == ErrorCode::kOutOfMemory) {
        if (stage >= demand_) { // of a prefetch
            goal_ = std::min(goal_, stage);
            refused_ = true;
            return false;
        }
        const auto now = std::chrono::steady_clock::now();
        if (!refused_since_) refused_since_ = now;
        const auto refused_for = now - *refused_since_;
        lock.unlock();
        const Room room = make_room_ ? make_room_(stage_bytes_[stage], refused_for) : Room::kNone;
        lock.lock();
        if (room == Room::kLater)
            handed_on_.wait_for(lock, kMemoryPause, [&] { return stop_ || goal_ <= stage; });
        if (room != Room::kNone) return true;
    }
    refused_since_.reset();
    fail_with(buffer.error());
    return false;
}

/// The second thread: decrypts and binds what the first has brought.
void LoadedModel::open_all() {
    std::unique_lock lock(mutex_);
    while (open_next(lock)) {
    }
    opener_.running = false;
}

/// False when there is nothing left to do.
bool LoadedModel::open_next(std::unique_lock<std::mutex>& lock) {
    handed_on_.wait(lock, [&] { return fetched_ > loaded_ || !fetcher_.running || error_ || stop_; });
    if (fetched_ <= loaded_ || error_ || stop_) return false;
    const engine::Stage stage = loaded_;
    memory::FlexBuffer buffer = std::move(buffers_[stage]);
    opener_.at = stage;
    lock.unlock();
    const std::uint64_t begin = now_ns();
    LoadTimes times;
    Status status = source_->open(stage, buffer, times);
    if (status) status = bind_stage(stage, buffer);
    const std::uint64_t took = now_ns() - begin;
    lock.lock();
    times_ += times;
    if (opener_.let_go()) {
        model_->unbind(stage);
        bytes_ -= buffer.bytes().size();
        lock.unlock();
        buffer = memory::FlexBuffer(); // without the lock
        lock.lock();
        return true;
    }
    if (!status) {
        model_->unbind(stage);
        buffers_[stage] = std::move(buffer);
        fail_with(status.error());
        return false;
    }
    streamed_.open_ns += took;
    streamed_.bytes += buffer.bytes().size();
    ++streamed_.stages;
    buffers_[stage] = std::move(buffer);
    loaded_ = stage + 1;
    arrived_.notify_all();
    handed_on_.notify_all();
    return true;
}

Status LoadedModel::bind_stage(engine::Stage stage, const memory::FlexBuffer& buffer) {
    for (const package::TensorPlace& place : places_) {
        if (place.stage != stage) continue;
        if (place.offset % package::kTensorAlignment != 0 || place.offset > buffer.bytes().size() ||
            place.bytes > buffer.bytes().size() - place.offset) {
            return fail(ErrorCode::kCorrupt,
                        info().name + ": tensor " + place.name + " lies outside its stage");
        }
        FLEX_TRY(model_->bind(place.name, buffer.bytes().subspan(place.offset, place.bytes)));
    }
    if (!model_->bound(stage)) {
        return fail(ErrorCode::kCorrupt,
                    info().name + ": stage " + std::to_string(stage) + " lacks a tensor");
    }
    return {};
}

void LoadedModel::give_way() {
    const std::lock_guard lock(mutex_);
    give_way_ = true;
    arrived_.notify_all();
}

void LoadedModel::wait_again() {
    const std::lock_guard lock(mutex_);
    give_way_ = false;
}

Status LoadedModel::acquire(engine::Stage stage) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return loaded_ > stage || error_.has_value() || give_way_; });
    if (loaded_ > stage) return {};
    if (error_) return *error_;
    return fail(ErrorCode::kBusy, info().name + " is still being loaded");
}

bool LoadedModel::ready(engine::Stage stage) const {
    const std::lock_guard lock(mutex_);
    return loaded_ > stage || error_.has_value() || give_way_;
}

void LoadedModel::release(engine::Stage) {} // what a request needs stays until it ends: see drop()

} // namespace flex::pipeline
