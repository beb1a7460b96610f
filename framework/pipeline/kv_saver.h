// The thread that writes idle conversations out (Conversations::save_idle), so that nobody who computes or
// wants memory waits for the store.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace flex::pipeline {

struct ServedModel;

class KvSaver {
public:
    /// `models`: those that are open, asked again and again. What is idle for `age` is written out.
    KvSaver(std::function<std::vector<std::shared_ptr<ServedModel>>()> models, std::chrono::milliseconds age);
    /// Writes out what is idle, as far as that takes no longer than kLastPatience and a block.
    ~KvSaver();

    static constexpr std::chrono::milliseconds kInterval{250}, kLastPatience{2000};

private:
    void work();
    void save(std::chrono::milliseconds age, const std::function<bool()>& stop);

    const std::function<std::vector<std::shared_ptr<ServedModel>>()> models_;
    const std::chrono::milliseconds age_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

} // namespace flex::pipeline
