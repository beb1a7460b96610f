#include "npu/model/device.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>

#include "npu/model/execution.h"

namespace flex::npu::model {

static_assert(std::endian::native == std::endian::little, "what the bus carries is little-endian");

namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t nanoseconds_since(Clock::time_point start) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

} // namespace

std::uint64_t PerformanceModel::command_ns(std::uint64_t macs, std::uint64_t bytes) const {
    const std::uint64_t computing = mac_per_us == 0 ? 0 : macs * 1000 / mac_per_us;
    const std::uint64_t moving = bytes_per_us == 0 ? 0 : bytes * 1000 / bytes_per_us;
    return std::max(computing, moving); // double buffering hides the shorter one
}

Device::Device(BusMemory& memory, const engine::Kernels& kernels, const DeviceOptions& options)
    : memory_(memory), kernels_(kernels), options_(options), cores_(options.cores), sram_(cores_.threads()) {}

flex_npu_result Device::run(std::span<const std::byte> bytes, const std::atomic<bool>* cancelled) {
    Lock lock(mutex_);
    changed_.wait(lock, [&] { return !running_ && halts_ == 0; });
    flex_npu_result result{};
    Job job;
    const bool off = registers_.power == 0;
    if (off || (cancelled != nullptr && cancelled->load())) {
        result.status = off ? FLEX_NPU_OFF : FLEX_NPU_ABORTED;
        if (bytes.size() >= sizeof job.header) std::memcpy(&job.header, bytes.data(), sizeof job.header);
        result.cookie = job.header.cookie;
        return result;
    }
    running_ = true;
    sram_.will_be_written();
    stop_.store(false);
    lock.unlock();

    const auto start = Clock::now();
    cores_.stay_awake(true);
    Outcome outcome = job.parse(bytes, memory_);
    result.cookie = job.header.cookie;
    if (outcome.ok()) outcome = execute(job, result);
    cores_.stay_awake(false);
    if (!options_.performance.limits_commands()) result.cycles += nanoseconds_since(start);

    lock.lock();
    running_ = false;
    const bool aborted = outcome.status == FLEX_NPU_ABORTED;
    result.status = aborted && registers_.power == 0 ? FLEX_NPU_OFF : outcome.status;
    result.address = outcome.address;
    ++registers_.jobs;
    if (outcome.status == FLEX_NPU_FAULT) ++registers_.faults;
    registers_.cycles += result.cycles;
    changed_.notify_all();
    return result;
}

Outcome Device::execute(Job& job, flex_npu_result& result) {
    const Machine machine{memory_, kernels_, cores_,
                          sram_,   stop_,    [this](std::uint64_t nanoseconds) { pause(nanoseconds); }};
    Execution execution(machine, job);
    const PerformanceModel& model = options_.performance;
    // `due`: when the device that is modelled would be done. Short delays are made up for together: a sleep
    // is not exact.
    constexpr auto kWorthSleeping = std::chrono::microseconds(100);
    auto due = Clock::now() + std::chrono::nanoseconds(model.launch_ns);
    result.cycles = model.launch_ns;
    Outcome outcome;
    for (; outcome.ok() && result.command < job.commands.size(); ++result.command) {
        const flex_npu_command& command = job.commands[result.command];
        const bool fence = command.op == FLEX_NPU_SIGNAL || command.op == FLEX_NPU_WAIT;
        const auto now = Clock::now();
        if (due > now && (fence || due - now > kWorthSleeping))
            pause(static_cast<std::uint64_t>(std::chrono::nanoseconds(due - now).count()));
        if (stop_.load(std::memory_order_relaxed)) return {FLEX_NPU_ABORTED};
        outcome = execution.run(command);
        if (command.op == FLEX_NPU_WAIT) due = std::max(due, Clock::now());
        const std::uint64_t macs = execution.macs() - result.macs, bytes = execution.moved() - result.bytes;
        const std::uint64_t busy = model.command_ns(macs, bytes);
        result.macs += macs;
        result.bytes += bytes;
        result.cycles += busy;
        due += std::chrono::nanoseconds(busy);
        if (!outcome.ok()) return outcome;
    }
    const auto now = Clock::now();
    if (due > now) pause(static_cast<std::uint64_t>(std::chrono::nanoseconds(due - now).count()));
    return outcome;
}

/// Of a job, on the thread that runs it: the cores have nothing to do meanwhile.
void Device::pause(std::uint64_t nanoseconds) {
    cores_.stay_awake(false);
    {
        Lock lock(mutex_);
        changed_.wait_for(lock, std::chrono::nanoseconds(nanoseconds), [&] { return stop_.load(); });
    }
    cores_.stay_awake(true);
}

template <class Then> void Device::halt(const Then& then) {
    Lock lock(mutex_);
    ++halts_;
    stop_.store(true);
    memory_.interrupt(true);
    changed_.notify_all();
    changed_.wait(lock, [&] { return !running_; });
    then();
    memory_.interrupt(false);
    --halts_;
    changed_.notify_all();
}

void Device::abort() {
    halt([] {});
}

void Device::reset() {
    const std::lock_guard lock(access_mutex_);
    configuration_ = {};
    restart();
}

void Device::restart() {
    halt([&] {
        memory_.forget();
        sram_.clear();
        registers_ = {};
    });
}

std::uint32_t Device::sram_word() {
    std::uint32_t word = 0;
    if (!running_ && registers_.sram_address + sizeof word <= sram_.all().size())
        std::memcpy(&word, sram_.all().data() + registers_.sram_address, sizeof word);
    return word;
}

std::uint32_t Device::read_locked(std::uint32_t reg) {
    const PerformanceModel& model = options_.performance;
    if (reg >= FLEX_NPU_REG_SCRATCH && reg < FLEX_NPU_REG_SCRATCH + FLEX_NPU_SCRATCH_REGISTERS)
        return registers_.scratch[reg - FLEX_NPU_REG_SCRATCH];
    switch (reg) {
    case FLEX_NPU_REG_ID:
        return FLEX_NPU_ID;
    case FLEX_NPU_REG_VERSION:
        return FLEX_NPU_VERSION;
    case FLEX_NPU_REG_STATUS:
        return running_ ? 1 : 0;
    case FLEX_NPU_REG_POWER:
        return registers_.power;
    case FLEX_NPU_REG_SRAM_BYTES:
        return static_cast<std::uint32_t>(sram_.all().size());
    case FLEX_NPU_REG_CORES:
        return cores_.threads();
    case FLEX_NPU_REG_MAC_PER_US:
        return model.mac_per_us;
    case FLEX_NPU_REG_BYTES_PER_US:
        return model.bytes_per_us;
    case FLEX_NPU_REG_LAUNCH_NS:
        return model.launch_ns;
    case FLEX_NPU_REG_JOBS:
        return registers_.jobs;
    case FLEX_NPU_REG_FAULTS:
        return registers_.faults;
    case FLEX_NPU_REG_CYCLES_LOW:
        return static_cast<std::uint32_t>(registers_.cycles);
    case FLEX_NPU_REG_CYCLES_HIGH:
        return static_cast<std::uint32_t>(registers_.cycles >> 32);
    case FLEX_NPU_REG_SRAM_ADDRESS:
        return registers_.sram_address;
    case FLEX_NPU_REG_SRAM_DATA: {
        const std::uint32_t word = sram_word();
        registers_.sram_address += sizeof word;
        return word;
    }
    default:
        return 0;
    }
}

std::uint32_t Device::read(std::uint32_t reg) {
    const Lock lock(mutex_);
    return read_locked(reg);
}

void Device::write(std::uint32_t reg, std::uint32_t value) {
    if (reg == FLEX_NPU_REG_POWER) {
        const bool on = (value & 1) != 0;
        if (on) {
            const Lock lock(mutex_);
            registers_.power = 1;
            return;
        }
        {
            const Lock lock(mutex_);
            registers_.power = 0; // before the job ends: it says why
        }
        return halt([&] {
            registers_.power = 0;
            sram_.clear();
        });
    }
    const Lock lock(mutex_);
    if (reg >= FLEX_NPU_REG_SCRATCH && reg < FLEX_NPU_REG_SCRATCH + FLEX_NPU_SCRATCH_REGISTERS) {
        registers_.scratch[reg - FLEX_NPU_REG_SCRATCH] = value;
    } else if (reg == FLEX_NPU_REG_SRAM_ADDRESS) {
        registers_.sram_address = value & ~3u;
    } else if (reg == FLEX_NPU_REG_SRAM_DATA) {
        if (!running_ && registers_.power != 0 &&
            registers_.sram_address + std::uint64_t{sizeof value} <= sram_.all().size()) {
            sram_.will_be_written();
            std::memcpy(sram_.all().data() + registers_.sram_address, &value, sizeof value);
        }
        registers_.sram_address += sizeof value;
    }
}

void Device::read_configuration(std::uint32_t offset, std::span<std::byte> out) {
    const std::lock_guard lock(access_mutex_);
    const auto bytes = std::as_bytes(std::span(configuration_));
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t at = offset + i;
        out[i] = at < bytes.size() ? bytes[at] : std::byte{0};
    }
}

/// An access happens when ACCESS changes; a reset whenever it is asked for, or who repeats what the other world
/// left there would not have one.
void Device::write_configuration(std::uint32_t offset, std::span<const std::byte> in) {
    const std::lock_guard lock(access_mutex_);
    auto& [access, data, value] = configuration_;
    const std::uint32_t before = access;
    const auto bytes = std::as_writable_bytes(std::span(configuration_).first(2)); // VALUE is read-only
    for (std::size_t i = 0; i < in.size(); ++i) {
        const std::size_t at = offset + i;
        if (at < bytes.size()) bytes[at] = in[i];
    }
    if ((access & FLEX_NPU_ACCESS_RESET) != 0) {
        configuration_ = {};
        return restart();
    }
    if (access == before) return;
    const std::uint32_t reg = access & 0xffffu;
    if ((access & FLEX_NPU_ACCESS_WRITE) == 0) {
        value = read(reg);
        return;
    }
    write(reg, data);
    value = reg == FLEX_NPU_REG_SRAM_DATA ? 0 : read(reg);
}

} // namespace flex::npu::model
