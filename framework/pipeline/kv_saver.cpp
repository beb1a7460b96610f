#include "pipeline/kv_saver.h"

#include <new>

#include "pipeline/registry.h"

namespace flex::pipeline {

KvSaver::KvSaver(std::function<std::vector<std::shared_ptr<ServedModel>>()> models,
                 std::chrono::milliseconds age)
    : models_(std::move(models)), age_(age), thread_([this] { work(); }) {}

KvSaver::~KvSaver() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
    const auto end = std::chrono::steady_clock::now() + kLastPatience;
    save(std::chrono::milliseconds(0), [end] { return std::chrono::steady_clock::now() > end; });
}

void KvSaver::save(std::chrono::milliseconds age, const std::function<bool()>& stop) {
    for (const auto& model : models_()) {
        try {
            model->conversations->save_idle(age, stop);
        } catch (const std::bad_alloc&) {
            // Another time: what is not written is computed again.
        }
    }
}

void KvSaver::work() {
    while (!stop_) {
        save(age_, [this] { return stop_.load(); });
        std::unique_lock lock(mutex_);
        wake_.wait_for(lock, kInterval, [this] { return stop_.load(); });
    }
}

} // namespace flex::pipeline
