#include "pipeline/loaded_model.h"

#include <system_error>

namespace flex::pipeline {

using package::LoadTimes;

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
    chat_template_ = tokenizer::ChatTemplate::recognise(*tokenizer_);
    places_ = std::move(metadata.places);
    buffers_.resize(model_->stages());
    return {};
}

LoadedModel::~LoadedModel() {
    stop_ = true;
    if (loader_.joinable()) loader_.join();
}

void LoadedModel::start_loading() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(started_, true)) return;
    try {
        loader_ = std::thread([this] { load_all(); });
    } catch (const std::system_error&) {
        error_ = fail(ErrorCode::kOutOfMemory, "the system gives no thread to load the model with; try again");
    }
}

bool LoadedModel::failed() const {
    const std::lock_guard lock(mutex_);
    return error_.has_value();
}

bool LoadedModel::settled() const {
    const std::lock_guard lock(mutex_);
    return error_.has_value() || loaded_ == model_->stages();
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

void LoadedModel::load_all() {
    for (engine::Stage stage = 0; stage < model_->stages() && !stop_; ++stage) {
        const Status status = load_stage(stage);
        const std::lock_guard lock(mutex_);
        if (status) {
            loaded_ = stage + 1;
        } else {
            error_ = status.error();
        }
        arrived_.notify_all();
        if (!status) return;
    }
}

/// The stage's weights, after others have made room if they must. No lock is held here: making room waits for threads.
Result<memory::FlexBuffer> LoadedModel::fetch(engine::Stage stage, LoadTimes& times) {
    for (;;) {
        auto buffer = source_->stage(stage, times);
        if (buffer || buffer.error().code != ErrorCode::kOutOfMemory || !make_room_ || stop_) return buffer;
        if (make_room_(1) == 0) return buffer;
    }
}

Status LoadedModel::load_stage(engine::Stage stage) {
    LoadTimes times;
    FLEX_ASSIGN(auto buffer, fetch(stage, times));
    for (const package::TensorPlace& place : places_) {
        if (place.stage != stage) continue;
        if (place.offset % package::kTensorAlignment != 0 || place.offset > buffer.bytes().size() ||
            place.bytes > buffer.bytes().size() - place.offset) {
            return fail(ErrorCode::kCorrupt, info().name + ": tensor " + place.name + " lies outside its stage");
        }
        FLEX_TRY(model_->bind(place.name, buffer.bytes().subspan(place.offset, place.bytes)));
    }
    if (!model_->bound(stage)) {
        return fail(ErrorCode::kCorrupt, info().name + ": stage " + std::to_string(stage) + " lacks a tensor");
    }
    const std::lock_guard lock(mutex_);
    times_ += times;
    bytes_ += buffer.bytes().size();
    buffers_[stage] = std::move(buffer);
    return {};
}

Status LoadedModel::acquire(engine::Stage stage) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return loaded_ > stage || error_.has_value(); });
    if (loaded_ > stage) return {};
    return *error_;
}

void LoadedModel::release(engine::Stage) {} // what is in memory stays there

} // namespace flex::pipeline
