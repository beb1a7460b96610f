// flex-npu: uses the NPU through /dev/flexnpu as programs of the device's Linux do, for the system tests and
// `device bench`.
//   info                    what the NPU is and who has it
//   matmul ROUNDS           products of random matrices; each must have the bits of the engine's scalar
//   kernels nop COUNT [TIMEOUT_MS]  empty jobs, one after the other: how long each took wait US [TIMEOUT_MS]
//   a job that takes that long refused                 jobs that must fail, each in its way
// Exit code 0: all as it should be.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi/npu_linux.h"
#include "engine/kernels/exact.h"
#include "engine/kernels/kernels.h"
#include "engine/packing.h"

namespace {

using namespace flex::engine;

/// Memory that the NPU may reach.
class Region {
public:
    Region(int device, std::size_t bytes, bool huge) : device_(device), bytes_(bytes) {
        void* map = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) throw std::runtime_error("no memory");
        data_ = static_cast<std::byte*>(map);
        if (huge) ::madvise(data_, bytes, MADV_HUGEPAGE);
        flexnpu_map request{};
        request.address = reinterpret_cast<std::uintptr_t>(data_);
        request.bytes = bytes;
        if (::ioctl(device, FLEXNPU_IOC_MAP, &request) != 0)
            throw std::runtime_error(std::string("MAP: ") + std::strerror(errno));
        number_ = request.mapping;
    }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;
    ~Region() {
        ::ioctl(device_, FLEXNPU_IOC_UNMAP, &number_);
        ::munmap(data_, bytes_);
    }
    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] flex_npu_region abi() const { return {.table = number_, .bytes = bytes_}; }

private:
    int device_;
    std::size_t bytes_;
    std::byte* data_ = nullptr;
    flex_u32 number_ = 0;
};

class Npu {
public:
    Npu() : device_(::open("/dev/flexnpu", O_RDWR | O_CLOEXEC)) {
        if (device_ < 0) throw std::runtime_error(std::string("/dev/flexnpu: ") + std::strerror(errno));
    }
    Npu(const Npu&) = delete;
    Npu& operator=(const Npu&) = delete;
    ~Npu() { ::close(device_); }
    [[nodiscard]] int device() const { return device_; }

    [[nodiscard]] static std::vector<std::byte> job(const std::vector<flex_npu_region>& regions,
                                                    const std::vector<flex_npu_command>& commands) {
        flex_npu_job header{};
        header.magic = FLEX_NPU_JOB_MAGIC;
        header.version = FLEX_NPU_VERSION;
        header.regions = static_cast<flex_u32>(regions.size());
        header.commands = static_cast<flex_u32>(commands.size());
        header.cookie = 0x1234;
        std::vector<std::byte> text;
        const auto append = [&](const void* data, std::size_t bytes) {
            text.insert(text.end(), static_cast<const std::byte*>(data),
                        static_cast<const std::byte*>(data) + bytes);
        };
        append(&header, sizeof header);
        append(regions.data(), regions.size() * sizeof regions[0]);
        append(commands.data(), commands.size() * sizeof commands[0]);
        return text;
    }
    /// 0 or errno.
    int run(const std::vector<std::byte>& text, flex_npu_result& result, unsigned timeout_ms = 5000) const {
        flexnpu_submit request{};
        request.job = reinterpret_cast<std::uintptr_t>(text.data());
        request.job_bytes = static_cast<flex_u32>(text.size());
        request.timeout_ms = timeout_ms;
        if (::ioctl(device_, FLEXNPU_IOC_SUBMIT, &request) != 0) return errno;
        result = request.result;
        return 0;
    }

private:
    int device_;
};

flex_npu_command command(flex_u32 op) {
    flex_npu_command c{};
    c.op = op;
    return c;
}

int info(const Npu& npu) {
    flexnpu_info info{};
    if (::ioctl(npu.device(), FLEXNPU_IOC_INFO, &info) != 0) throw std::runtime_error("INFO");
    std::printf("version %u, state %u, %u cores, %u bytes of SRAM, %u MAC/us, %u bytes/us, launch %u ns\n",
                info.version, info.state, info.cores, info.sram_bytes, info.mac_per_us, info.bytes_per_us,
                info.launch_ns);
    return info.version == FLEX_NPU_VERSION ? 0 : 1;
}

/// One product of a shape and place that `random` chooses. Whether it came out right.
bool multiply(const Npu& npu, std::mt19937& random) {
    const auto below = [&](std::size_t n) { return random() % n; };
    std::uniform_real_distribution<float> unit(-1, 1);
    const std::size_t tokens = 1 + below(9), rows = 1 + below(300), columns = 32 * (1 + below(40));
    Region region(npu.device(), (4u << 20) + below(3) * 4096, below(2) == 0);
    const std::size_t weights_at = below(1000) * 64, x_at = (2u << 20) + below(1000) * 4,
                      y_at = (3u << 20) + below(1000) * 4;

    std::vector<std::byte> stored;
    for (std::size_t block = 0; block < rows * columns / 32; ++block) {
        const std::uint16_t scale = f32_to_f16(0.05F * unit(random));
        stored.push_back(static_cast<std::byte>(scale & 0xff));
        stored.push_back(static_cast<std::byte>(scale >> 8));
        for (int i = 0; i < 32; ++i) stored.push_back(static_cast<std::byte>(random()));
    }
    std::byte* const weights = region.data() + weights_at;
    for (std::size_t r = 0; r < rows; r += kPanelRows)
        pack_panel(stored.data() + r * (columns / 32 * 34), std::min(kPanelRows, rows - r), columns,
                   weights + r / kPanelRows * panel_bytes(columns));
    auto* const x = reinterpret_cast<float*>(region.data() + x_at);
    for (std::size_t i = 0; i < tokens * columns; ++i) x[i] = 4 * unit(random);
    std::vector<Q8Block> activations(tokens * columns / 32);
    std::vector<float> expected(tokens * rows);
    scalar_kernels().quantize(x, tokens * columns, activations.data());
    scalar_kernels().matmul_q8_0(weights, rows, columns, activations.data(), tokens, expected.data(), rows);

    flex_npu_command c = command(FLEX_NPU_MATMUL);
    c.count = static_cast<flex_u32>(tokens);
    c.rows = static_cast<flex_u32>(rows);
    c.columns = static_cast<flex_u32>(columns);
    c.w = {.region = 0, .stride = 0, .offset = weights_at};
    c.x = {.region = 0, .stride = 0, .offset = x_at};
    c.y = {.region = 0, .stride = 0, .offset = y_at};
    flex_npu_result result{};
    const int error = npu.run(Npu::job({region.abi()}, {c}), result);
    if (error == 0 && result.status == FLEX_NPU_OK && result.cookie == 0x1234 &&
        std::memcmp(region.data() + y_at, expected.data(), expected.size() * sizeof(float)) == 0)
        return true;
    std::printf("%zu x %zu, %zu tokens: error %d, status %u\n", rows, columns, tokens, error, result.status);
    return false;
}

int matmul(const Npu& npu, int rounds) {
    std::mt19937 random(static_cast<unsigned>(::getpid()));
    int wrong = 0;
    for (int i = 0; i < rounds; ++i) wrong += multiply(npu, random) ? 0 : 1;
    std::printf("%d products, %d wrong\n", rounds, wrong);
    return wrong != 0;
}

int nop(const Npu& npu, int count, unsigned timeout_ms) {
    const Region region(npu.device(), 4096, false);
    const auto text = Npu::job({region.abi()}, {command(FLEX_NPU_NOP)});
    std::vector<long long> times;
    int failed = 0, last = 0;
    for (int i = 0; i < count; ++i) {
        flex_npu_result result{};
        const auto start = std::chrono::steady_clock::now();
        const int error = npu.run(text, result, timeout_ms);
        times.push_back(
            std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
                .count());
        if (error != 0 || result.status != FLEX_NPU_OK) {
            ++failed;
            last = error;
        }
    }
    std::sort(times.begin(), times.end());
    std::printf("%d jobs, median_ns %lld, longest_ns %lld, failed %d%s%s\n", count, times[times.size() / 2],
                times.back(), failed, failed != 0 ? ": " : "", failed != 0 ? std::strerror(last) : "");
    return failed != 0;
}

int wait(const Npu& npu, unsigned us, unsigned timeout_ms) {
    const Region region(npu.device(), 4096, false);
    flex_npu_command c = command(FLEX_NPU_WAIT);
    c.count = us;
    c.u.fence.scalar64 = 1; // the word is 0 and stays so
    flex_npu_result result{};
    const int error = npu.run(Npu::job({region.abi()}, {c}), result, timeout_ms);
    std::printf("%s, status %u\n", error != 0 ? std::strerror(error) : "ran", result.status);
    return error != 0 || result.status != FLEX_NPU_TIMEOUT;
}

int refused(const Npu& npu) {
    const Region region(npu.device(), 8192, false);
    const std::vector<flex_npu_command> one = {command(FLEX_NPU_NOP)};
    int wrong = 0;
    const auto expect = [&](const char* what, const std::vector<std::byte>& text, int error,
                            flex_u32 status = FLEX_NPU_OK) {
        flex_npu_result result{};
        const int got = npu.run(text, result);
        if (got == error && result.status == status) return;
        ++wrong;
        std::printf("%s: error %d, status %u\n", what, got, result.status);
    };
    const auto good = Npu::job({region.abi()}, one);
    const auto changed = [&](std::size_t offset, flex_u64 value, std::size_t bytes) {
        auto text = good;
        std::memcpy(text.data() + offset, &value, bytes);
        return text;
    };
    expect("magic", changed(offsetof(flex_npu_job, magic), 1, 4), EINVAL);
    expect("version", changed(offsetof(flex_npu_job, version), 2, 4), EINVAL);
    expect("more regions than there are", changed(offsetof(flex_npu_job, regions), 2, 4), EINVAL);
    expect("no regions", changed(offsetof(flex_npu_job, regions), 0, 4), EINVAL);
    expect("too many commands", changed(offsetof(flex_npu_job, commands), FLEX_NPU_COMMANDS_MAX + 1, 4),
           EINVAL);
    expect("reserved field", changed(offsetof(flex_npu_job, reserved), 1, 8), EINVAL);
    expect("a mapping that is not there", changed(sizeof(flex_npu_job), 77, 8), ENOENT);
    expect("an address for a mapping", changed(sizeof(flex_npu_job), 0x40000000, 8), ENOENT);
    expect("more than the mapping has", changed(sizeof(flex_npu_job) + 8, 12288, 8), EINVAL);
    expect("no bytes of the mapping", changed(sizeof(flex_npu_job) + 8, 0, 8), EINVAL);
    flex_npu_command far = command(FLEX_NPU_SIGNAL);
    far.y.offset = 8192;
    expect("behind the region", Npu::job({region.abi()}, {far}), 0, FLEX_NPU_BAD_OPERAND);
    expect("no such operation", Npu::job({region.abi()}, {command(99)}), 0, FLEX_NPU_BAD_COMMAND);
    expect("a good one afterwards", good, 0);
    flexnpu_map map{};
    map.address = reinterpret_cast<std::uintptr_t>(region.data()) + 8;
    map.bytes = 4096;
    if (::ioctl(npu.device(), FLEXNPU_IOC_MAP, &map) == 0 || errno != EINVAL)
        ++wrong, std::printf("misaligned memory was mapped\n");
    map.address = 0x1000;
    if (::ioctl(npu.device(), FLEXNPU_IOC_MAP, &map) == 0 || errno != EFAULT)
        ++wrong, std::printf("memory that is not there was mapped\n");
    std::printf("%d wrong\n", wrong);
    return wrong != 0;
}

} // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    const auto number = [&](int i, unsigned otherwise) {
        return argc > i ? static_cast<unsigned>(std::strtoul(argv[i], nullptr, 10)) : otherwise;
    };
    try {
        const Npu npu;
        if (what == "info") return info(npu);
        if (what == "matmul") return matmul(npu, static_cast<int>(number(2, 20)));
        if (what == "nop") return nop(npu, static_cast<int>(std::max(1u, number(2, 1))), number(3, 5000));
        if (what == "wait") return wait(npu, number(2, 1000), number(3, 5000));
        if (what == "refused") return refused(npu);
        std::fprintf(
            stderr,
            "flex-npu info | matmul ROUNDS | nop COUNT [TIMEOUT_MS] | wait US [TIMEOUT_MS] | refused\n");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "flex-npu: %s\n", error.what());
    }
    return 2;
}
