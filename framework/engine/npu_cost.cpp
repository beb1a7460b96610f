#include "engine/npu_cost.h"

#include <algorithm>
#include <chrono>

#include "engine/kernels/exact.h"

namespace flex::engine {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kNewest = 0.25; // weight of the newest measurement in the moving average
// The slower side's estimate falls by this factor a pass, so that one bad measurement is not for ever: what
// is twice as slow is tried again after some 350 passes.
constexpr double kForget = 0.998;

// The first estimate of the CPU is of a matrix that stays in its cache and of nothing else that a pass does: a whole pass takes
// longer, by how much depends on the machine. Until it has been measured it is taken for four times as long: a wrong guess costs one
// pass on the other side, and the measurement follows.
constexpr double kUnmeasured = 4;

// A matrix that stays in a core's cache, as the panels of a layer do while many tokens pass.
constexpr std::size_t kRows = 8 * kPanelRows, kColumns = 1024, kTokens = 16;
constexpr int kRounds = 3; // the fastest counts: the others may have been interrupted

/// Nanoseconds that one thread takes to multiply the matrix with `tokens` tokens.
double time_matmul(const Kernels& kernels, std::size_t tokens) {
    const std::size_t bytes = packed_bytes(kRows, kColumns), blocks = kTokens * kColumns / kQ8Block;
    const auto weights = allocate<std::byte>(bytes);
    const auto input = allocate<Q8Block>(blocks);
    const auto output = allocate<float>(kTokens * kRows);
    if (weights == nullptr || input == nullptr || output == nullptr) return 0;
    std::fill_n(weights.get(), bytes, std::byte{1});
    std::fill_n(input.get(), blocks, Q8Block{});
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
        const auto start = Clock::now();
        kernels.matmul_q8_0(weights.get(), kRows, kColumns, input.get(), tokens, output.get(), kRows);
        const std::chrono::duration<double, std::nano> spent = Clock::now() - start;
        best = round == 0 ? spent.count() : std::min(best, spent.count());
    }
    return best;
}

} // namespace

NpuCost::NpuCost(BatchState& state) {
    const double threads = state.pool.threads();
    rates_[kCpu][0] = time_matmul(*state.kernels, kTokens) / (threads * kTokens * kRows * kColumns);
    rates_[kCpu][1] =
        time_matmul(*state.kernels, 1) / (threads * static_cast<double>(packed_bytes(kRows, kColumns)));
}

void NpuCost::advertise(const npu::Info& info) {
    constexpr double kNsPerUs = 1000;
    if (!measured_[kNpu][0] && info.mac_per_us != 0) rates_[kNpu][0] = kNsPerUs / info.mac_per_us;
    if (!measured_[kNpu][1] && info.bytes_per_us != 0) rates_[kNpu][1] = kNsPerUs / info.bytes_per_us;
}

bool NpuCost::npu_is_faster(const PassWork& work) {
    const std::size_t kind = work.few ? 1 : 0;
    const bool faster = rates_[kNpu][kind] <= rates_[kCpu][kind] * (measured_[kCpu][kind] ? 1 : kUnmeasured);
    rates_[faster ? kCpu : kNpu][kind] *= kForget;
    return faster;
}

void NpuCost::measured(Side side, const PassWork& work, std::uint64_t nanoseconds) {
    const std::size_t kind = work.few ? 1 : 0;
    const double now = static_cast<double>(nanoseconds) / std::max(units(work), 1.0);
    double& rate = rates_[side][kind];
    const bool first = !measured_[side][kind];
    // Much can make a pass slower (the first maps memory, others are interrupted), nothing makes it faster.
    rate = first || now < rate ? now : (1 - kNewest) * rate + kNewest * now;
    measured_[side][kind] = true;
}

} // namespace flex::engine
