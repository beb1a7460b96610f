// The device model in this process, as an Npu: a bus address is a pointer. For tests.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/kernels/kernels.h"
#include "npu/driver/npu.h"
#include "npu/driver/region.h"
#include "npu/model/device.h"
#include "npu/model/local_memory.h"

namespace flex::npu::testing {

class LocalBus final : public Bus {
public:
    Result<std::span<std::byte>> allocate(std::size_t bytes) override {
        const std::size_t whole = (bytes + FLEX_NPU_PAGE - 1) / FLEX_NPU_PAGE * FLEX_NPU_PAGE;
        auto* data = static_cast<std::byte*>(std::aligned_alloc(FLEX_NPU_PAGE, whole));
        if (data == nullptr) return fail(ErrorCode::kOutOfMemory, "no memory");
        std::memset(data, 0, whole);
        const std::lock_guard lock(mutex_);
        allocated_ += whole;
        return std::span(data, whole);
    }
    void free(std::span<std::byte> memory) override {
        std::free(memory.data());
        const std::lock_guard lock(mutex_);
        allocated_ -= memory.size();
    }
    Status addresses(const std::byte* from, std::span<std::uint64_t> pages) override {
        for (std::uint64_t& page : pages) {
            page = reinterpret_cast<std::uintptr_t>(from);
            from += FLEX_NPU_PAGE;
        }
        return {};
    }
    [[nodiscard]] std::size_t allocated() const { return allocated_; }

private:
    std::mutex mutex_;
    std::size_t allocated_ = 0;
};

/// Jobs run in the order they come, on a thread of their own. Tests make it fail in every way an NPU can.
class LocalNpu final : public Npu {
public:
    explicit LocalNpu(model::DeviceOptions options = {})
        : device_(memory_, *engine::select_kernels(), options), thread_([this] { work(); }) {}
    ~LocalNpu() override {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
            changed_.notify_all();
        }
        thread_.join();
    }

    Result<std::span<std::byte>> allocate(std::size_t bytes) override { return bus_.allocate(bytes); }
    void free(std::span<std::byte> memory) override { bus_.free(memory); }
    Result<Region> map(std::span<const std::byte> memory) override { return count(regions_.map(memory)); }
    Result<Region> map_slots(std::size_t slot_bytes, std::uint32_t slots) override {
        return count(regions_.map_slots(slot_bytes, slots));
    }
    Status place(Region region, std::uint32_t slot, std::span<const std::byte> memory) override {
        ++placed;
        return regions_.place(region, slot, memory);
    }
    void unmap(Region region) override {
        --mapped;
        regions_.unmap(region);
    }

    Status begin() override {
        ++begins;
        if (refuse) return fail(ErrorCode::kBusy, "the normal world keeps the NPU");
        held = true;
        return {};
    }
    [[nodiscard]] bool wanted_back() override { return want_back_after == 0 || want_back_after-- == 0; }
    void end(bool give_back) override {
        EXPECT_TRUE(under_way_.empty()) << "jobs under way when the pass ended";
        held = false;
        if (give_back) ++given_back;
    }

    Status submit(const Job& job) override {
        EXPECT_TRUE(held);
        EXPECT_LT(under_way_.size(), kJobsInFlight);
        std::vector<std::byte> bytes(kJobBytes);
        bytes.resize(
            job.write(bytes.data(), ++cookie_, [&](Region region) { return regions_.find(region); }));
        if (bytes.empty()) return lose(fail(ErrorCode::kInvalidArgument, "the job is not a good one"));
        ++submitted;
        if (submitted == fail_submit) return lose(fail(ErrorCode::kIo, "submitting fails, as told"));
        const std::lock_guard lock(mutex_);
        if (submitted == corrupt) bytes[0] = std::byte{0};
        queue_.push_back(std::move(bytes));
        under_way_.push_back(cookie_);
        changed_.notify_all();
        return {};
    }

    Result<flex_npu_result> wait() override {
        flex_npu_result result;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return !results_.empty(); });
            result = results_.front();
            results_.pop_front();
        }
        const bool last_one = ++waited == revoke;
        const std::uint64_t cookie = under_way_.front();
        under_way_.pop_front();
        if (last_one) return lose(fail(ErrorCode::kIo, "the NPU was taken away, as told"));
        if (result.status != FLEX_NPU_OK) {
            return lose(fail(ErrorCode::kIo, "status " + std::to_string(result.status) + " of command " +
                                                 std::to_string(result.command)));
        }
        EXPECT_EQ(result.cookie, cookie);
        ++counters_.jobs;
        return result;
    }

    [[nodiscard]] Info info() const override { return info_; }
    [[nodiscard]] Counters counters() const override { return counters_; }

    // What a test does to it, and sees of it. Jobs count from 1; 0: none.
    bool refuse = false;
    std::uint64_t fail_submit = 0, corrupt = 0, revoke = 0;
    std::uint64_t want_back_after = ~std::uint64_t{0}; ///< times that wanted_back() says no
    std::uint64_t begins = 0, submitted = 0, waited = 0, given_back = 0, placed = 0;
    std::int64_t mapped = 0;
    bool held = false;
    Info info_;
    [[nodiscard]] std::size_t allocated() const { return bus_.allocated(); }

private:
    Result<Region> count(Result<Region> region) {
        if (region.ok()) ++mapped;
        return region;
    }
    /// All jobs end, as the interface promises; what they wrote is spoilt.
    Error lose(Error error) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return results_.size() == under_way_.size(); });
        results_.clear();
        under_way_.clear();
        ++counters_.failures;
        return error;
    }
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
            if (stop_) return;
            const auto job = std::move(queue_.front());
            queue_.pop_front();
            lock.unlock();
            const flex_npu_result result = device_.run(job);
            lock.lock();
            results_.push_back(result);
            changed_.notify_all();
        }
    }

    model::LocalMemory memory_;
    model::Device device_;
    LocalBus bus_;
    Regions regions_{bus_};
    Counters counters_;
    std::uint64_t cookie_ = 0;
    std::deque<std::uint64_t> under_way_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::vector<std::byte>> queue_;
    std::deque<flex_npu_result> results_;
    bool stop_ = false;
    std::thread thread_;
};

} // namespace flex::npu::testing
