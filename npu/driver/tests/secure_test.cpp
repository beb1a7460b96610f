// The driver of the secure world against a device that a test can make misbehave, and a normal world that
// wants the NPU back at any time.
#include "npu/driver/secure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "engine/session.h"
#include "engine/tests/loaded_model.h"
#include "engine/thread_pool.h"
#include "framework/tests/fakes.h"
#include "framework/tests/temporary_folder.h"
#include "npu/driver/tests/local_npu.h"

namespace flex::npu {
namespace {

using namespace std::chrono_literals;
using port::NpuHold;

/// What can be wrong with a device.
enum class Fault {
    kNone,
    kHangs,
    kWrongId,
    kWrongLength,
    kWrongCookie,
    kAnswersTwice,
    kRefusesFeatures,
    kOtherDevice,
    kShortQueues
};

/// A virtio device over PCI (Virtio 1.2, 4.1.4) around the device model; bus addresses are pointers.
class FakeDevice {
public:
    static constexpr std::uint64_t kCommon = 0, kNotify = 0x1000, kDevice = 0x2000;
    static constexpr std::uint32_t kMultiplier = 4;
    static constexpr flex_npu_grant kGrant{0x10000, 0x4000,  kCommon,     kNotify,
                                           0x3000,  kDevice, kMultiplier, 0};

    FakeDevice() : device_(memory_, *engine::select_kernels(), {}), thread_([this] { work(); }) {}
    ~FakeDevice() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
            changed_.notify_all();
        }
        thread_.join();
    }

    std::uint32_t read(std::uint64_t offset, unsigned bytes) {
        const std::lock_guard lock(mutex_);
        if (taken) return 0;
        if (offset >= kDevice) {
            std::uint32_t value = 0;
            device_.read_configuration(static_cast<std::uint32_t>(offset - kDevice),
                                       std::as_writable_bytes(std::span(&value, 1)));
            if (fault == Fault::kOtherDevice && offset - kDevice == FLEX_NPU_CONFIG_VALUE) ++value;
            return value;
        }
        const bool short_queues = fault == Fault::kShortQueues;
        switch (offset) {
        case 4: // device_feature
            return feature_select_ == 1 ? 0x3 : 0x30000000;
        case 18:
            return 4;
        case 20:
            return status_;
        case 24:
            return short_queues ? 16 : queues_.at(queue_).size;
        case 30:
            return queue_ + 2; // notify offset
        default:
            ADD_FAILURE() << "read of " << offset << ", " << bytes;
            return 0;
        }
    }

    void write(std::uint64_t offset, std::uint32_t value, unsigned bytes) {
        std::unique_lock lock(mutex_);
        if (taken) return;
        if (offset >= kDevice) {
            device_.write_configuration(static_cast<std::uint32_t>(offset - kDevice),
                                        std::as_bytes(std::span(&value, 1)));
            return;
        }
        if (offset >= kNotify) {
            EXPECT_EQ(offset, kNotify + 2 * kMultiplier) << "queue 0";
            EXPECT_EQ(bytes, 2u);
            notified_ = true;
            changed_.notify_all();
            return;
        }
        switch (offset) {
        case 0:
            feature_select_ = value;
            return;
        case 8:
            driver_feature_select_ = value;
            return;
        case 12:
            EXPECT_EQ(value, driver_feature_select_ == 1 ? 0x3u : 0u) << "VERSION_1 and ACCESS_PLATFORM";
            return;
        case 20:
            return set_status(lock, value);
        case 22:
            queue_ = value;
            return;
        case 24:
            queues_.at(queue_).size = value;
            return;
        case 26:
            EXPECT_EQ(value, 0xffffu);
            return;
        case 28:
            queues_.at(queue_).enabled = value == 1;
            return;
        default:
            ASSERT_TRUE(offset >= 32 && offset < 56 && bytes == 4) << offset;
            std::uint64_t& address = queues_.at(queue_).address[(offset - 32) / 8];
            const unsigned shift = offset % 8 * 8;
            address = (address & ~(0xffffffffull << shift)) | std::uint64_t{value} << shift;
        }
    }

    std::atomic<Fault> fault = Fault::kNone;
    std::atomic<bool> taken = false;    ///< nobody answers: as when the trusted OS took it from the program
    std::function<void()> on_interrupt; ///< set while no job is under way
    std::atomic<int> resets = 0;
    std::atomic<int> jobs = 0;

    /// As the trusted OS does it.
    void take() {
        std::unique_lock lock(mutex_);
        set_status(lock, 0);
        taken = true;
    }
    /// As any life before may have left it.
    void poison() {
        const std::lock_guard lock(mutex_);
        status_ = 0xf;
        for (Queue& queue : queues_) queue = {64, true, {1, 2, 3}};
        next_available_ = next_used_ = 77;
    }

private:
    struct Queue {
        std::uint32_t size = 64;
        bool enabled = false;
        std::uint64_t address[3] = {}; // descriptors, driver, device
    };
    struct Descriptor {
        std::uint64_t address;
        std::uint32_t bytes;
        std::uint16_t flags, next;
    };
    struct UsedElement {
        std::uint32_t id, bytes;
    };

    void set_status(std::unique_lock<std::mutex>& lock, std::uint32_t value) {
        if (value == 0) {
            lock.unlock();
            device_.reset(); // stops the job
            lock.lock();
            changed_.wait(lock, [&] { return !running_; });
            ++resets;
            queues_.assign(4, {});
            next_available_ = next_used_ = 0;
            notified_ = false;
        }
        if (value == 0xb && fault == Fault::kRefusesFeatures) value = 0x3;
        if ((value & 4) != 0) {
            EXPECT_TRUE(std::ranges::all_of(queues_, &Queue::enabled)) << "all queues before DRIVER_OK";
        }
        status_ = value;
    }

    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return stop_ || notified_; });
            if (stop_) return;
            notified_ = false;
            // A reset while the lock was free ended this life; what lies in the registers is another's.
            const int life = resets;
            while (life == resets && !taken && (status_ & 4) != 0 && run_one(lock)) {
            }
        }
    }

    template <class T> static T get(std::uint64_t address) {
        return reinterpret_cast<const volatile T&>(*reinterpret_cast<const std::byte*>(address));
    }

    bool run_one(std::unique_lock<std::mutex>& lock) {
        const Queue& queue = queues_[0];
        const auto index = std::atomic_ref(*reinterpret_cast<std::uint16_t*>(queue.address[1] + 2)).load();
        if (index == next_available_) return false;
        EXPECT_EQ(get<std::uint16_t>(queue.address[1]), 0u) << "with interrupts";
        const auto head = get<std::uint16_t>(queue.address[1] + 4 + 2 * (next_available_ % queue.size));
        ++next_available_;
        std::vector<std::byte> job;
        const auto* all = reinterpret_cast<const Descriptor*>(queue.address[0]);
        std::uint16_t at = head;
        for (; (all[at].flags & 1) != 0; at = all[at].next) {
            const auto* from = reinterpret_cast<const std::byte*>(all[at].address);
            job.insert(job.end(), from, from + all[at].bytes);
        }
        EXPECT_EQ(all[at].flags, 2u);
        EXPECT_EQ(all[at].bytes, sizeof(flex_npu_result));
        if (fault == Fault::kHangs) return true;
        running_ = true;
        lock.unlock();
        flex_npu_result result = device_.run(job);
        lock.lock();
        running_ = false;
        changed_.notify_all();
        if (taken || (status_ & 4) == 0) return false; // it was reset meanwhile: nothing is written
        ++jobs;
        if (fault == Fault::kWrongCookie) ++result.cookie;
        std::memcpy(reinterpret_cast<void*>(all[at].address), &result, sizeof result);
        UsedElement element{head, sizeof result};
        if (fault == Fault::kWrongId) element.id += 1;
        if (fault == Fault::kWrongLength) element.bytes -= 8;
        std::memcpy(reinterpret_cast<void*>(queue.address[2] + 4 + 8 * (next_used_ % queue.size)), &element,
                    sizeof element);
        next_used_ = static_cast<std::uint16_t>(next_used_ + (fault == Fault::kAnswersTwice ? 2 : 1));
        std::atomic_ref(*reinterpret_cast<std::uint16_t*>(queue.address[2] + 2)).store(next_used_);
        lock.unlock();
        if (on_interrupt) on_interrupt();
        lock.lock();
        return true;
    }

    model::LocalMemory memory_;
    model::Device device_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::uint32_t status_ = 0, feature_select_ = 0, driver_feature_select_ = 0, queue_ = 0;
    std::vector<Queue> queues_{4};
    std::uint16_t next_available_ = 0, next_used_ = 0;
    bool notified_ = false, running_ = false, stop_ = false;
    std::thread thread_;
};

class FakeRegisters final : public Registers {
public:
    explicit FakeRegisters(FakeDevice& device) : device_(device) {}
    std::uint32_t read(std::uint64_t offset, unsigned bytes) override { return device_.read(offset, bytes); }
    void write(std::uint64_t offset, std::uint32_t value, unsigned bytes) override {
        device_.write(offset, value, bytes);
    }

private:
    FakeDevice& device_;
};

/// A normal world and a trusted OS, as far as the NPU goes.
class FakePort final : public test::ForwardingPort {
public:
    explicit FakePort(const std::string& folder) : ForwardingPort(port::make_native_port(folder).value()) {
        device.on_interrupt = [this] { ring(); };
    }

    Result<flex_npu_grant> acquire_npu(std::chrono::milliseconds) override {
        const std::lock_guard lock(mutex_);
        EXPECT_FALSE(acquired) << "held already";
        if (!exists) return fail(ErrorCode::kUnsupported, "none");
        if (busy) return fail(ErrorCode::kBusy, "not now");
        acquired = true;
        hold_ = NpuHold::kHeld;
        device.taken = false;
        device.poison();
        ++acquisitions;
        flex_npu_grant grant = FakeDevice::kGrant;
        grant.moves = moves;
        return grant;
    }
    void release_npu() override {
        const std::lock_guard lock(mutex_);
        EXPECT_TRUE(acquired);
        device.take();
        acquired = false;
        hold_ = NpuHold::kLost;
        changed_.notify_all();
    }
    NpuHold wait_npu(std::chrono::nanoseconds timeout) override {
        std::unique_lock lock(mutex_);
        const bool waits = timeout.count() > 0;
        changed_.wait_for(lock, timeout, [&] { return hold_ != NpuHold::kHeld || (waits && rang_); });
        if (waits) interrupts += std::exchange(rang_, false);
        return hold_;
    }
    NpuHold wait_npu_recall(std::chrono::nanoseconds timeout) override {
        std::unique_lock lock(mutex_);
        ++recall_waits;
        changed_.wait_for(lock, timeout, [&] { return hold_ != NpuHold::kHeld; });
        return hold_;
    }
    /// Linux passes the device's interrupt on, or it does not.
    void ring() {
        const std::lock_guard lock(mutex_);
        if (deaf) return;
        rang_ = true;
        changed_.notify_all();
    }
    Status bus_addresses(const std::byte* from, std::span<std::uint64_t> pages) override {
        ++addresses_asked;
        return bus_.addresses(from, pages);
    }
    /// The normal world asks for it; or it did, and its patience is over.
    void want() {
        const std::lock_guard lock(mutex_);
        if (!acquired || hold_ == NpuHold::kLost) return;
        hold_ = NpuHold::kWanted;
        changed_.notify_all();
    }
    void take() {
        const std::lock_guard lock(mutex_);
        if (!acquired) return;
        device.take();
        hold_ = NpuHold::kLost;
        changed_.notify_all();
    }
    /// Whether it goes back within the time a test has.
    bool returned() {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, 20s, [&] { return !acquired; });
    }

    FakeDevice device;
    bool exists = true, busy = false;
    bool acquired = false;
    int acquisitions = 0;
    std::atomic<bool> deaf = false;
    std::atomic<int> interrupts = 0;   ///< that a wait heard of
    std::atomic<int> recall_waits = 0; ///< that began
    std::uint32_t moves = 0;
    std::atomic<int> addresses_asked = 0;

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    NpuHold hold_ = NpuHold::kLost;
    bool rang_ = false;
    testing::LocalBus bus_;
};

class SecureNpuTest : public ::testing::Test {
protected:
    void make(SecureNpu::Options options = {}) {
        options.registers = [this](const flex_npu_grant&) {
            return std::make_unique<FakeRegisters>(port.device);
        };
        npu = SecureNpu::create(port, options).value();
        memory = npu->allocate(16 << 10).value();
        region = npu->map(memory).value();
        std::fill_n(reinterpret_cast<float*>(memory.data()), 256, 2.0F);
    }
    void TearDown() override {
        if (npu == nullptr) return;
        npu->unmap(region);
        npu->free(memory);
        npu.reset();
        EXPECT_FALSE(port.acquired) << "goes back at the end";
    }
    /// y = norm(x) with weights 2, so that a result is there to see: x is 2 everywhere, y is 2.
    Job job(std::uint32_t rows = 1) const {
        Job out;
        for (std::uint32_t i = 0; i < rows; ++i)
            out.rms_norm({region, 0}, {region, 512}, 1, 64, 0, {region, 8192});
        return out;
    }
    [[nodiscard]] float y() const { return reinterpret_cast<const float*>(memory.data() + 8192)[63]; }

    test::TemporaryFolder folder;
    FakePort port{folder.path()};
    std::unique_ptr<SecureNpu> npu;
    std::span<std::byte> memory;
    Region region{};
};

TEST_F(SecureNpuTest, runs_jobs_in_order_two_at_a_time) {
    make();
    ASSERT_TRUE(npu->begin().ok());
    EXPECT_GT(npu->info().sram_bytes, 0u);
    for (std::uint32_t round = 0; round < 200; ++round) { // around the rings, more than once
        ASSERT_TRUE(npu->submit(job(1)).ok());
        ASSERT_TRUE(npu->submit(job(1 + round % kJobCommands)).ok());
        const auto first = npu->wait(), second = npu->wait();
        ASSERT_TRUE(first.ok() && second.ok()) << (first.ok() ? second : first).error().message;
        EXPECT_EQ(first->command, 1u);
        EXPECT_EQ(second->command, 1 + round % kJobCommands);
        EXPECT_EQ(second->cookie, first->cookie + 1);
    }
    EXPECT_EQ(y(), 2.0F);
    npu->end(false);
    EXPECT_EQ(npu->counters().jobs, 400u);
    EXPECT_EQ(npu->counters().switches, 1u);
}

TEST_F(SecureNpuTest, the_devices_interrupt_ends_the_wait_for_a_job) {
    make({.keep = 3600s});
    ASSERT_TRUE(npu->begin().ok());
    // Whether a job ends before the wait begins is up to the machine: until one does not.
    for (int i = 0; i < 10'000 && port.interrupts == 0; ++i) {
        ASSERT_TRUE(npu->submit(job(kJobCommands)).ok());
        ASSERT_TRUE(npu->wait().ok());
    }
    EXPECT_GT(port.interrupts, 0);
    npu->end(true);
}

TEST_F(SecureNpuTest, a_job_whose_interrupt_the_normal_world_keeps_to_itself_is_found_ended_all_the_same) {
    make();
    port.deaf = true;
    ASSERT_TRUE(npu->begin().ok());
    for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(npu->submit(job()).ok());
        EXPECT_TRUE(npu->wait().ok());
    }
    EXPECT_EQ(port.interrupts, 0);
    npu->end(true);
}

TEST_F(SecureNpuTest, is_kept_over_passes_and_goes_back_when_idle) {
    make({.keep = 300ms});
    for (int pass = 0; pass < 5; ++pass) {
        ASSERT_TRUE(npu->begin().ok());
        npu->end(false);
    }
    EXPECT_EQ(port.acquisitions, 1);
    EXPECT_TRUE(port.returned());
    ASSERT_TRUE(npu->begin().ok());
    EXPECT_EQ(port.acquisitions, 2);
    npu->end(true);
    EXPECT_FALSE(port.acquired) << "goes back at once when asked to";
}

TEST_F(SecureNpuTest, a_pass_wakes_nobody_but_who_computes) {
    make();
    ASSERT_TRUE(npu->begin().ok());
    npu->end(false);
    // The keeper's first look; the next one comes when its time is over.
    while (port.recall_waits == 0) std::this_thread::sleep_for(1ms);
    const int before = port.recall_waits;
    const auto start = std::chrono::steady_clock::now();
    int passes = 0;
    for (; std::chrono::steady_clock::now() - start < 50ms; ++passes) {
        ASSERT_TRUE(npu->begin().ok());
        npu->end(false);
    }
    const auto slices = (std::chrono::steady_clock::now() - start) / 10ms + 2;
    EXPECT_GT(passes, 4 * slices) << "nothing was tested";
    EXPECT_LE(port.recall_waits - before, slices);
}

TEST_F(SecureNpuTest, asks_for_addresses_again_when_frames_were_moved_while_it_was_not_held) {
    make();
    const auto use = [&] {
        ASSERT_TRUE(npu->begin().ok());
        ASSERT_TRUE(npu->submit(job()).ok());
        ASSERT_TRUE(npu->wait().ok());
        npu->end(true);
    };
    const int before = port.addresses_asked;
    use();
    EXPECT_EQ(port.addresses_asked, before) << "nothing was moved";
    port.moves = 7;
    use();
    const int after = port.addresses_asked;
    EXPECT_GT(after, before);
    use();
    EXPECT_EQ(port.addresses_asked, after) << "not moved since";
}

TEST_F(SecureNpuTest, goes_back_between_passes_as_soon_as_it_is_wanted) {
    make({.keep = 3600s});
    ASSERT_TRUE(npu->begin().ok());
    EXPECT_FALSE(npu->wanted_back());
    npu->end(false);
    port.want();
    EXPECT_TRUE(port.returned());
}

TEST_F(SecureNpuTest, a_pass_learns_that_it_is_wanted_and_may_end_its_jobs) {
    make({.keep = 3600s});
    ASSERT_TRUE(npu->begin().ok());
    ASSERT_TRUE(npu->submit(job()).ok());
    port.want();
    EXPECT_TRUE(npu->wanted_back());
    EXPECT_TRUE(npu->wait().ok());
    EXPECT_TRUE(port.acquired) << "until the pass says so";
    npu->end(false);
    EXPECT_FALSE(port.acquired);
    ASSERT_TRUE(npu->begin().ok());
    EXPECT_FALSE(npu->wanted_back()) << "that was the last time";
    npu->end(true);
}

TEST_F(SecureNpuTest, one_that_is_taken_is_noticed_and_can_be_had_again) {
    make({.keep = 3600s});
    ASSERT_TRUE(npu->begin().ok());
    port.device.fault = Fault::kHangs;
    ASSERT_TRUE(npu->submit(job()).ok());
    port.take();
    EXPECT_FALSE(npu->wait().ok());
    EXPECT_FALSE(port.acquired);
    npu->end(false);
    port.device.fault = Fault::kNone;
    ASSERT_TRUE(npu->begin().ok());
    npu->end(false);
    port.take(); // between passes
    ASSERT_TRUE(npu->begin().ok());
    ASSERT_TRUE(npu->submit(job()).ok());
    EXPECT_TRUE(npu->wait().ok());
    port.want();
    EXPECT_TRUE(npu->wanted_back());
    port.device.fault = Fault::kHangs;
    ASSERT_TRUE(npu->submit(job()).ok());
    port.take(); // after it was heard to be wanted
    EXPECT_FALSE(npu->wait().ok());
    npu->end(false);
}

TEST_F(SecureNpuTest, a_job_that_does_not_end_is_given_up_and_the_device_reset) {
    make({.job_limit = 50ms});
    ASSERT_TRUE(npu->begin().ok());
    port.device.fault = Fault::kHangs;
    ASSERT_TRUE(npu->submit(job()).ok());
    const int resets = port.device.resets;
    EXPECT_FALSE(npu->wait().ok());
    EXPECT_GT(port.device.resets, resets);
    EXPECT_FALSE(port.acquired);
    EXPECT_EQ(npu->counters().failures, 1u);
    npu->end(false);
}

TEST_F(SecureNpuTest, a_job_that_fails_is_an_error_and_the_next_pass_works) {
    make();
    ASSERT_TRUE(npu->begin().ok());
    Job bad;
    bad.rms_norm({region, 1 << 20}, {region, 0}, 1, 64, 0, {region, 0}); // outside its region
    ASSERT_TRUE(npu->submit(bad).ok());
    ASSERT_TRUE(npu->submit(job()).ok());
    const auto result = npu->wait();
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().message.find("status 3"), std::string::npos) << result.error().message;
    EXPECT_FALSE(npu->wait().ok()) << "the one behind it is gone, too";
    npu->end(false);
    ASSERT_TRUE(npu->begin().ok());
    ASSERT_TRUE(npu->submit(job()).ok());
    EXPECT_TRUE(npu->wait().ok());
    npu->end(false);
}

TEST_F(SecureNpuTest, jobs_beyond_the_limits_are_refused) {
    make();
    ASSERT_TRUE(npu->begin().ok());
    EXPECT_FALSE(npu->submit(Job()).ok());
    npu->end(false);
    ASSERT_TRUE(npu->begin().ok());
    Job elsewhere;
    elsewhere.rms_norm({Region{4711}, 0}, {region, 0}, 1, 64, 0, {region, 0});
    EXPECT_FALSE(npu->submit(elsewhere).ok());
    npu->end(false);
    ASSERT_TRUE(npu->begin().ok());
    ASSERT_TRUE(npu->submit(job()).ok());
    ASSERT_TRUE(npu->submit(job()).ok());
    EXPECT_FALSE(npu->submit(job()).ok()) << "more than two";
    EXPECT_FALSE(npu->wait().ok());
    npu->end(false);
}

TEST_F(SecureNpuTest, answers_that_answer_nothing_are_not_believed) {
    make();
    for (const Fault fault :
         {Fault::kWrongId, Fault::kWrongLength, Fault::kWrongCookie, Fault::kAnswersTwice}) {
        port.device.fault = Fault::kNone;
        ASSERT_TRUE(npu->begin().ok());
        port.device.fault = fault;
        ASSERT_TRUE(npu->submit(job()).ok());
        EXPECT_FALSE(npu->wait().ok()) << static_cast<int>(fault);
        EXPECT_FALSE(port.acquired);
        npu->end(false);
    }
}

TEST_F(SecureNpuTest, a_device_that_is_not_what_it_should_be_is_not_begun_with) {
    make();
    for (const Fault fault : {Fault::kRefusesFeatures, Fault::kOtherDevice, Fault::kShortQueues}) {
        port.device.fault = fault;
        const Status begun = npu->begin();
        ASSERT_FALSE(begun.ok()) << static_cast<int>(fault);
        EXPECT_EQ(begun.error().code, ErrorCode::kIo);
        EXPECT_FALSE(port.acquired);
    }
}

TEST_F(SecureNpuTest, says_whether_there_is_none_or_only_not_now) {
    make();
    port.busy = true;
    EXPECT_EQ(npu->begin().error().code, ErrorCode::kBusy);
    port.exists = false;
    EXPECT_EQ(npu->begin().error().code, ErrorCode::kUnsupported);
}

TEST_F(SecureNpuTest, the_engine_gets_the_cpu_s_bits_while_the_normal_world_comes_and_goes) {
    make({.keep = 1ms});
    const auto loaded = engine::testing::load({.layers = 6});
    engine::ThreadPool pool(2);
    engine::SessionOptions options;
    options.npu = npu.get();
    options.npu_use = engine::NpuUse::kOn;
    const auto tokens = engine::testing::prompt(40);
    const auto cpu = engine::Session::create(loaded->model, pool).value();
    const auto prefilled = engine::testing::copy(cpu->prefill(tokens));
    const auto decoded = engine::testing::copy(cpu->decode(3));
    std::atomic<bool> stop = false;
    std::thread normal_world([&] {
        for (int i = 0; !stop; ++i) {
            std::this_thread::sleep_for(std::chrono::microseconds(500 + 700 * (i % 5)));
            if (i % 4 == 0)
                port.take();
            else
                port.want();
        }
    });
    std::uint64_t passes = 0;
    for (int round = 0; round < 150; ++round) { // each with a session that has had no trouble yet
        const auto here = engine::Session::create(loaded->model, pool, options).value();
        ASSERT_TRUE(engine::testing::same_bits(prefilled, engine::testing::copy(here->prefill(tokens))));
        ASSERT_TRUE(engine::testing::same_bits(decoded, engine::testing::copy(here->decode(3))));
        passes += here->batch_timings().npu_passes;
    }
    stop = true;
    normal_world.join();
    EXPECT_GT(passes, 0u);
    EXPECT_GT(npu->counters().switches, 1u);
}

} // namespace
} // namespace flex::npu
