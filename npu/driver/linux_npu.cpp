#include "npu/driver/linux_npu.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace flex::npu {

namespace {

// Beside what the secure world may keep it for.
constexpr flex_u32 kPatienceMs = 5000;

Error failed(const std::string& what) {
    const ErrorCode code = errno == ENOMEM ? ErrorCode::kOutOfMemory : ErrorCode::kIo;
    return fail(code, "the NPU's driver: " + what + ": " + std::strerror(errno));
}

} // namespace

Result<std::unique_ptr<LinuxNpu>> LinuxNpu::create(port::Port& port) {
    FLEX_ASSIGN(const int file, port.open_npu());
    std::unique_ptr<LinuxNpu> npu(new LinuxNpu(port, file));
    FLEX_TRY(npu->begin());
    try {
        npu->worker_ = std::thread([raw = npu.get()] { raw->work(); });
    } catch (const std::system_error&) {
        return fail(ErrorCode::kOutOfMemory, "the system gives no thread for the NPU");
    }
    return npu;
}

LinuxNpu::~LinuxNpu() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
        changed_.notify_all();
    }
    if (worker_.joinable()) worker_.join();
    ::close(file_); // ends the mappings, too
}

Result<std::span<std::byte>> LinuxNpu::allocate(std::size_t bytes) {
    FLEX_ASSIGN(const auto block, port_.allocate(bytes));
    return std::span(block.data, block.bytes);
}

Status LinuxNpu::map_range(Mapping& mapping, const std::byte* begin, std::uint64_t bytes) {
    flexnpu_map request{reinterpret_cast<std::uintptr_t>(begin), bytes, 0, 0};
    if (::ioctl(file_, FLEXNPU_IOC_MAP, &request) != 0)
        return failed("cannot map " + std::to_string(bytes) + " bytes");
    if (mapping.number != 0) unmap_number(mapping.number);
    mapping.number = request.mapping;
    mapping.begin = begin;
    mapping.bytes = bytes;
    return {};
}

void LinuxNpu::unmap_number(std::uint32_t number) {
    flex_u32 argument = number;
    static_cast<void>(::ioctl(file_, FLEXNPU_IOC_UNMAP, &argument));
}

Result<Region> LinuxNpu::map(std::span<const std::byte> memory) {
    const std::lock_guard lock(mutex_);
    Mapping mapping;
    FLEX_TRY(map_range(mapping, memory.data(), memory.size()));
    const Region region{++next_};
    mappings_.emplace(region, mapping);
    return region;
}

Result<Region> LinuxNpu::map_slots(std::size_t slot_bytes, std::uint32_t slots) {
    const std::lock_guard lock(mutex_);
    const Region region{++next_};
    mappings_[region].slot_bytes = slot_bytes;
    mappings_[region].most = std::uint64_t{slot_bytes} * slots;
    return region;
}

/// Mapping pins memory: as much as is used, rounded up so that growing costs little.
Status LinuxNpu::place(Region region, std::uint32_t slot, std::span<const std::byte> memory) {
    const std::lock_guard lock(mutex_);
    const auto found = mappings_.find(region);
    if (found == mappings_.end() || found->second.slot_bytes != memory.size())
        return fail(ErrorCode::kInvalidArgument, "no such slot of the NPU's region");
    Mapping& mapping = found->second;
    const std::uint64_t end = (std::uint64_t{slot} + 1) * memory.size();
    const std::byte* begin = memory.data() - (end - memory.size());
    if (end > mapping.most || (mapping.begin != nullptr && mapping.begin != begin))
        return fail(ErrorCode::kInvalidArgument, "the KV cache's memory is not in one piece");
    if (end <= mapping.bytes) return {};
    return map_range(mapping, begin, std::min(mapping.most, std::max(end, 2 * mapping.bytes)));
}

void LinuxNpu::unmap(Region region) {
    const std::lock_guard lock(mutex_);
    const auto found = mappings_.find(region);
    if (found == mappings_.end()) return;
    if (found->second.number != 0) unmap_number(found->second.number);
    mappings_.erase(found);
}

Status LinuxNpu::begin() {
    flexnpu_info info{};
    if (::ioctl(file_, FLEXNPU_IOC_INFO, &info) != 0) return failed("cannot ask");
    if (info.version != FLEX_NPU_VERSION || info.state == FLEX_NPU_ABSENT)
        return fail(ErrorCode::kUnsupported, "there is no NPU of a kind that is known here");
    info_ = {info.sram_bytes, info.cores, info.mac_per_us, info.bytes_per_us, info.launch_ns};
    return {};
}

Status LinuxNpu::submit(const Job& job) {
    std::vector<std::byte> bytes(kJobBytes);
    std::unique_lock lock(mutex_);
    bytes.resize(job.write(bytes.data(), ++cookie_, [&](Region region) -> flex_npu_region {
        const auto found = mappings_.find(region);
        if (found == mappings_.end()) return {};
        return {found->second.number, found->second.bytes};
    }));
    if (bytes.empty() || under_way_ == kJobsInFlight) {
        lock.unlock();
        return drop(fail(ErrorCode::kInvalidArgument, "the job is beyond the NPU's limits"));
    }
    ++under_way_;
    jobs_.push_back(std::move(bytes));
    changed_.notify_all();
    return {};
}

void LinuxNpu::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
        if (stop_) return;
        const std::vector<std::byte> job = std::move(jobs_.front());
        jobs_.pop_front();
        running_ = true;
        lock.unlock();
        flexnpu_submit request{};
        request.job = reinterpret_cast<std::uintptr_t>(job.data());
        request.job_bytes = static_cast<flex_u32>(job.size());
        request.timeout_ms = kPatienceMs;
        Result<flex_npu_result> result = request.result;
        if (::ioctl(file_, FLEXNPU_IOC_SUBMIT, &request) != 0)
            result = failed("a job");
        else if (request.result.status != FLEX_NPU_OK)
            result = fail(ErrorCode::kIo, "the NPU ended a job with status " +
                                              std::to_string(request.result.status) + " at command " +
                                              std::to_string(request.result.command));
        else
            result = request.result;
        lock.lock();
        running_ = false;
        results_.push_back(std::move(result));
        changed_.notify_all();
    }
}

/// Jobs that wait are forgotten, the one that runs is waited for.
Error LinuxNpu::drop(Error error) {
    std::unique_lock lock(mutex_);
    jobs_.clear();
    changed_.wait(lock, [&] { return !running_; });
    results_.clear();
    under_way_ = 0;
    ++counters_.failures;
    return error;
}

Result<flex_npu_result> LinuxNpu::wait() {
    std::unique_lock lock(mutex_);
    if (under_way_ == 0) {
        lock.unlock();
        return drop(fail(ErrorCode::kIo, "no job is under way"));
    }
    changed_.wait(lock, [&] { return !results_.empty(); });
    Result<flex_npu_result> result = std::move(results_.front());
    results_.pop_front();
    if (!result.ok()) {
        lock.unlock();
        return drop(result.error());
    }
    --under_way_;
    ++counters_.jobs;
    counters_.busy_ns += result->cycles;
    return result;
}

Counters LinuxNpu::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

} // namespace flex::npu
