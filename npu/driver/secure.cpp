#include "npu/driver/secure.h"

#include <algorithm>
#include <system_error>

namespace flex::npu {

namespace {

using port::NpuHold;
// Between looks at a job whose end no interrupt announces: whether one comes is up to the normal world.
// Longer than most jobs take, since a look wakes a processor.
constexpr std::chrono::microseconds kPause(50'000);
// When it wants the NPU back, waiting for the interrupt is waiting no more.
constexpr std::chrono::microseconds kShortPause(200);
constexpr std::chrono::milliseconds kKeeperPause(200);

std::uint64_t since(std::chrono::steady_clock::time_point start) {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count());
}

} // namespace

Result<std::span<std::byte>> PortBus::allocate(std::size_t bytes) {
    FLEX_ASSIGN(const auto block, port_.allocate(bytes));
    return std::span(block.data, block.bytes);
}

SecureNpu::SecureNpu(port::Port& port, Options options)
    : port_(port), options_(std::move(options)), bus_(port), regions_(bus_) {}

Result<std::unique_ptr<SecureNpu>> SecureNpu::create(port::Port& port, Options options) {
    std::unique_ptr<SecureNpu> npu(new SecureNpu(port, std::move(options)));
    FLEX_ASSIGN(npu->memory_, npu->bus_.allocate(Device::kPages * FLEX_NPU_PAGE));
    FLEX_TRY(npu->bus_.addresses(npu->memory_.data(), npu->pages_));
    try {
        npu->keeper_ = std::thread([raw = npu.get()] { raw->keep(); });
    } catch (const std::system_error&) {
        return fail(ErrorCode::kOutOfMemory, "the system gives no thread for the NPU");
    }
    return npu;
}

SecureNpu::~SecureNpu() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        changed_.notify_all();
    }
    if (keeper_.joinable()) keeper_.join();
    if (device_) release();
    if (!memory_.empty()) bus_.free(memory_);
}

/// Linux may have had frames moved while the NPU was not held.
Status SecureNpu::refresh_addresses(std::uint32_t moves) {
    if (moves == moves_) return {};
    FLEX_TRY(bus_.addresses(memory_.data(), pages_));
    FLEX_TRY(regions_.refresh());
    moves_ = moves;
    return {};
}

/// mutex_ is held, as for release().
Status SecureNpu::acquire() {
    const auto start = Clock::now();
    FLEX_ASSIGN(const flex_npu_grant grant, port_.acquire_npu(options_.patience));
    if (const Status refreshed = refresh_addresses(grant.moves); !refreshed) {
        port_.release_npu();
        return refreshed;
    }
    registers_ = options_.registers ? options_.registers(grant)
                                    : std::make_unique<MappedRegisters>(grant.registers, grant.bytes);
    device_.emplace(*registers_, grant, memory_, std::span<const std::uint64_t, Device::kPages>(pages_));
    Status started = device_->start();
    if (started && !info_) started = identify();
    ++counters_.switches;
    counters_.acquire_ns += since(start);
    if (!started) release();
    return started;
}

/// The function that the monitor passes on is the same for as long as the machine runs: it is asked once.
Status SecureNpu::identify() {
    FLEX_ASSIGN(info_, device_->identify());
    return {};
}

/// Its jobs end with that: the trusted OS resets it before this returns.
void SecureNpu::release() {
    const auto start = Clock::now();
    device_.reset();
    registers_.reset();
    port_.release_npu();
    wanted_ = false;
    counters_.release_ns += since(start);
}

Status SecureNpu::begin() {
    const std::lock_guard lock(mutex_);
    if (device_) {
        const NpuHold hold = port_.wait_npu(std::chrono::nanoseconds(0));
        if (hold != NpuHold::kHeld) release();
        if (hold == NpuHold::kWanted) return fail(ErrorCode::kBusy, "the normal world wants the NPU");
    }
    if (!device_) FLEX_TRY(acquire());
    in_use_ = true;
    if (keeper_sleeps_) changed_.notify_all();
    return {};
}

bool SecureNpu::wanted_back() {
    wanted_ = wanted_ || port_.wait_npu(std::chrono::nanoseconds(0)) != NpuHold::kHeld;
    return wanted_;
}

void SecureNpu::end(bool give_back) {
    const std::lock_guard lock(mutex_);
    in_use_ = false;
    last_use_ = Clock::now();
    if (device_ && (give_back || wanted_)) release();
    if (keeper_sleeps_) changed_.notify_all();
}

/// Whatever happened: no job is under way afterwards.
Error SecureNpu::give_up(const Error& why) {
    const std::lock_guard lock(mutex_);
    ++counters_.failures;
    if (device_) release();
    return why;
}

Status SecureNpu::submit(const Job& job) {
    if (!device_ || device_->under_way() == kJobsInFlight)
        return give_up(fail(ErrorCode::kIo, "the NPU takes no job now"));
    const std::size_t bytes =
        job.write(device_->job(), ++cookie_, [&](Region region) { return regions_.find(region); });
    if (bytes == 0) return give_up(fail(ErrorCode::kInvalidArgument, "the job is beyond the NPU's limits"));
    device_->submit(bytes, cookie_);
    return {};
}

Result<flex_npu_result> SecureNpu::wait() {
    if (!device_ || device_->under_way() == 0) return give_up(fail(ErrorCode::kIo, "no job is under way"));
    const auto give_up_at = Clock::now() + options_.job_limit;
    flex_npu_result result{};
    for (;;) {
        const auto ended = device_->poll(result);
        if (!ended) return give_up(ended.error());
        if (*ended) break;
        if (Clock::now() > give_up_at) return give_up(fail(ErrorCode::kIo, "a job of the NPU does not end"));
        // Until the interrupt, or so long. Where device and processor are emulated, they have the same cores.
        const NpuHold hold = port_.wait_npu(kPause);
        if (hold == NpuHold::kLost)
            return give_up(fail(ErrorCode::kIo, "the normal world took the NPU back"));
        if (hold == NpuHold::kHeld) continue;
        wanted_ = true; // from now on wait_npu() returns at once
        std::this_thread::sleep_for(kShortPause);
    }
    if (result.status != FLEX_NPU_OK) {
        return give_up(fail(ErrorCode::kIo, "the NPU ended a job with status " +
                                                std::to_string(result.status) + " at command " +
                                                std::to_string(result.command)));
    }
    const std::lock_guard lock(mutex_);
    ++counters_.jobs;
    counters_.busy_ns += result.cycles; // FLEX_NPU_CLOCK_HZ
    return result;
}

Counters SecureNpu::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

/// Between passes: back to the normal world when it asks, or when nobody has used it for a while. Passes do not
/// wake it: in the secure world each waking is a way to the normal world and back, for a core to run it.
void SecureNpu::keep() {
    std::unique_lock lock(mutex_);
    bool heard = false; // the normal world wants it, or has it, and the pass will see to that
    while (!stop_) {
        if (!device_ || (in_use_ && heard)) {
            keeper_sleeps_ = true;
            changed_.wait(lock);
            keeper_sleeps_ = false;
            heard = false;
            continue;
        }
        lock.unlock();
        const NpuHold hold = port_.wait_npu_recall(std::min<std::chrono::nanoseconds>(kKeeperPause, options_.keep));
        lock.lock();
        heard = hold != NpuHold::kHeld;
        const bool idle = Clock::now() - last_use_ >= options_.keep;
        if (device_ && !in_use_ && (heard || idle)) release();
    }
}

} // namespace flex::npu
