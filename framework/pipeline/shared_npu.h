// One NPU for several models that compute at the same time.
#pragma once

#include <atomic>

#include "npu/driver/npu.h"

namespace flex::pipeline {

/// Between begin() and end() the NPU belongs to one pass; another pass that wants it meanwhile is told kBusy,
/// as when the normal world has it, and computes on the CPU. `below` is not owned.
class SharedNpu final : public npu::Npu {
public:
    explicit SharedNpu(npu::Npu& below) : below_(below) {}

    Result<std::span<std::byte>> allocate(std::size_t bytes) override { return below_.allocate(bytes); }
    void free(std::span<std::byte> memory) override { below_.free(memory); }
    Result<npu::Region> map(std::span<const std::byte> memory) override { return below_.map(memory); }
    Result<npu::Region> map_slots(std::size_t slot_bytes, std::uint32_t slots) override {
        return below_.map_slots(slot_bytes, slots);
    }
    Status place(npu::Region region, std::uint32_t slot, std::span<const std::byte> memory) override {
        return below_.place(region, slot, memory);
    }
    void unmap(npu::Region region) override { below_.unmap(region); }
    Status begin() override {
        if (taken_.exchange(true, std::memory_order_acquire))
            return fail(ErrorCode::kBusy, "another model computes on the NPU");
        Status begun = below_.begin();
        if (!begun.ok()) taken_.store(false, std::memory_order_release);
        return begun;
    }
    [[nodiscard]] bool wanted_back() override { return below_.wanted_back(); }
    void end(bool give_back) override {
        below_.end(give_back);
        taken_.store(false, std::memory_order_release);
    }
    Status submit(const npu::Job& job) override { return below_.submit(job); }
    Result<flex_npu_result> wait() override { return below_.wait(); }
    [[nodiscard]] npu::Info info() const override { return below_.info(); }
    [[nodiscard]] npu::Counters counters() const override { return below_.counters(); }

private:
    npu::Npu& below_;
    std::atomic<bool> taken_{false};
};

} // namespace flex::pipeline
