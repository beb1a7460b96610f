// What several tests of the framework put in the place of the real thing.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "engine/kernels/kernels.h"
#include "port/port.h"

namespace flex::test {

/// Hands everything on to the port below. For ports that differ in a call or two.
class ForwardingPort : public port::Port {
public:
    explicit ForwardingPort(std::unique_ptr<port::Port> below) : below_(std::move(below)) {}

    [[nodiscard]] bool is_protected() const override { return below_->is_protected(); }
    [[nodiscard]] const char* name() const override { return below_->name(); }
    Result<port::Block> allocate(std::size_t bytes) override { return below_->allocate(bytes); }
    void free(port::Block block) override { below_->free(block); }
    Result<port::LoadedBlock> load(int file, std::uint64_t offset, std::size_t bytes) override {
        return below_->load(file, offset, bytes);
    }
    Result<crypto::Secret32> device_key(std::string_view label) override { return below_->device_key(label); }
    Result<std::vector<std::byte>> read_secure_store() override { return below_->read_secure_store(); }
    Status write_secure_store(std::span<const std::byte> content) override {
        return below_->write_secure_store(content);
    }
    std::uint64_t wait_reclaim(std::chrono::milliseconds timeout) override {
        return below_->wait_reclaim(timeout);
    }
    port::MemoryInfo memory_info() override { return below_->memory_info(); }
    [[nodiscard]] const std::string& store_folder() const override { return below_->store_folder(); }
    [[nodiscard]] const std::string& data_folder() const override { return below_->data_folder(); }
    [[nodiscard]] port::Endpoint default_endpoint() const override { return below_->default_endpoint(); }

private:
    std::unique_ptr<port::Port> below_;
};

/// While not zero, every norm of slow_kernels() takes this many milliseconds.
inline std::atomic<int> slow_ms{0};

/// The best kernels of this CPU, which a test can make slow: so that requests meet, or a client leaves in time.
inline const engine::Kernels& slow_kernels() {
    static const engine::Kernels kernels = [] {
        engine::Kernels table = *engine::select_kernels();
        table.rms_norm = [](const float* x, const float* weight, std::size_t n, float epsilon, float* y) {
            if (slow_ms != 0) std::this_thread::sleep_for(std::chrono::milliseconds(slow_ms));
            engine::select_kernels()->rms_norm(x, weight, n, epsilon, y);
        };
        return table;
    }();
    return kernels;
}

} // namespace flex::test
