#include "pipeline/loaded_model.h"

#include <system_error>

namespace flex::pipeline {

using package::LoadTimes;

namespace {
/// Stages that may lie fetched but not yet decrypted: enough to overlap, little enough to fail early.
constexpr engine::Stage kFetchedAhead = 3;
} // namespace

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
    return {};
}

LoadedModel::~LoadedModel() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        handed_on_.notify_all();
    }
    if (fetcher_.joinable()) fetcher_.join();
    if (opener_.joinable()) opener_.join();
}

void LoadedModel::start_loading() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(started_, true)) return;
    try {
        opener_ = std::thread([this] { open_all(); });
        fetcher_ = std::thread([this] { fetch_all(); });
        fetching_ = true;
    } catch (const std::system_error&) {
        error_ =
            fail(ErrorCode::kOutOfMemory, "the system gives no thread to load the model with; try again");
        handed_on_.notify_all();
    }
}

bool LoadedModel::failed() const {
    const std::lock_guard lock(mutex_);
    return error_.has_value();
}

bool LoadedModel::settled() const {
    const std::lock_guard lock(mutex_);
    return !fetching_ && (error_.has_value() || loaded_ == model_->stages());
}

engine::Stage LoadedModel::stages_loaded() const {
    const std::lock_guard lock(mutex_);
    return loaded_;
}

LoadTimes LoadedModel::take_times() {
    const std::lock_guard lock(mutex_);
    return std::exchange(times_, LoadTimes());
}

void LoadedModel::add_times(const LoadTimes& times) {
    const std::lock_guard lock(mutex_);
    times_ += times;
}

void LoadedModel::fail_with(const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = error;
    arrived_.notify_all();
    handed_on_.notify_all();
}

/// The first thread: brings in stage after stage, at most kFetchedAhead before the second.
void LoadedModel::fetch_all() {
    for (engine::Stage stage = 0; stage < model_->stages(); ++stage) {
        {
            std::unique_lock lock(mutex_);
            handed_on_.wait(lock, [&] { return stage < loaded_ + kFetchedAhead || error_ || stop_; });
            if (error_ || stop_) break;
        }
        auto buffer = fetch(stage);
        if (!buffer) {
            fail_with(buffer.error());
            break;
        }
        const std::lock_guard lock(mutex_);
        bytes_ += buffer->bytes().size();
        buffers_[stage] = std::move(*buffer);
        fetched_ = stage + 1;
        handed_on_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    fetching_ = false;
}

/// The stage as stored, after others have made room if they must. No lock is held: making room waits for
/// threads.
Result<memory::FlexBuffer> LoadedModel::fetch(engine::Stage stage) {
    for (;;) {
        LoadTimes times;
        auto buffer = source_->fetch(stage, times);
        add_times(times);
        if (buffer || buffer.error().code != ErrorCode::kOutOfMemory || !make_room_ || stop_) return buffer;
        if (make_room_(1) == 0) return buffer;
    }
}

/// The second thread: decrypts and binds what the first has brought.
void LoadedModel::open_all() {
    for (engine::Stage stage = 0; stage < model_->stages(); ++stage) {
        memory::FlexBuffer* buffer = nullptr;
        {
            std::unique_lock lock(mutex_);
            handed_on_.wait(lock, [&] { return fetched_ > stage || error_ || stop_; });
            if (fetched_ <= stage || stop_) return;
            buffer = &buffers_[stage]; // this thread's until it is bound
        }
        if (const Status status = open_stage(stage, *buffer); !status) return fail_with(status.error());
        const std::lock_guard lock(mutex_);
        loaded_ = stage + 1;
        arrived_.notify_all();
        handed_on_.notify_all();
    }
}

Status LoadedModel::open_stage(engine::Stage stage, memory::FlexBuffer& buffer) {
    LoadTimes times;
    FLEX_TRY(source_->open(stage, buffer, times));
    add_times(times);
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

void LoadedModel::release(engine::Stage) {} // what is in memory stays there

} // namespace flex::pipeline
