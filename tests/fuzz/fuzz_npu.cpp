// Commands, whole jobs, register accesses and rings, as a hostile driver could hand them to the NPU. The
// arena is the only memory that it may touch (AddressSanitizer sees the rest), and of that only what is
// granted.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "npu/model/device.h"
#include "npu/vhost_user/ring.h"
#include "tests/fuzz/npu_input.h"

using namespace flex;
using fuzz::NpuMemory;
using fuzz::NpuMode;
using npu::model::testing::ArenaBus;

namespace {

/// An arena that knows which of its pages were written, so that restoring it is cheap.
class FuzzBus final : public ArenaBus {
public:
    FuzzBus() : ArenaBus(fuzz::kPages), dirty_(fuzz::kPages) {
        NpuMemory::fill(*this);
        pristine_.assign(all().begin(), all().end());
    }
    void put(std::uint64_t address, std::span<const std::byte> bytes) {
        mark(address, bytes.size());
        std::memcpy(at(address), bytes.data(), bytes.size());
    }
    [[nodiscard]] bool written() const { return std::ranges::find(dirty_, true) != dirty_.end(); }
    void restore() {
        for (std::size_t i = 0; i < dirty_.size(); ++i) {
            if (!dirty_[i]) continue;
            std::memcpy(all().data() + i * FLEX_NPU_PAGE, pristine_.data() + i * FLEX_NPU_PAGE,
                        FLEX_NPU_PAGE);
            dirty_[i] = false;
        }
    }

private:
    npu::model::Window open_window(std::uint64_t address, std::uint64_t bytes, npu::model::Access access,
                                   const npu::model::Ahead* ahead) override {
        std::array<std::uint64_t, 8> pages;
        if (ahead != nullptr && ahead->pages(pages) > pages.size()) std::abort();
        const npu::model::Window window = ArenaBus::open_window(address, bytes, access, ahead);
        if (window.status == npu::model::Window::Status::kOpen && access == npu::model::Access::kWrite)
            mark(address, window.bytes);
        return window;
    }
    void mark(std::uint64_t address, std::uint64_t bytes) {
        const std::uint64_t last = (address + bytes - 1 - kBase) / FLEX_NPU_PAGE;
        for (std::uint64_t i = (address - kBase) / FLEX_NPU_PAGE; i <= last; ++i) dirty_[i] = true;
    }
    std::vector<std::byte> pristine_;
    std::vector<bool> dirty_;
};

void must(bool promise) {
    if (!promise) std::abort();
}

/// A wait is no work: it would only make the fuzzer slow.
void hurry(std::span<std::byte> commands) {
    for (std::size_t at = 0; at + sizeof(flex_npu_command) <= commands.size();
         at += sizeof(flex_npu_command)) {
        flex_npu_command c;
        std::memcpy(&c, commands.data() + at, sizeof c);
        if (c.op != FLEX_NPU_WAIT || c.count > FLEX_NPU_WAIT_US_MAX) continue;
        c.count %= 3;
        std::memcpy(commands.data() + at, &c, sizeof c);
    }
}

void run(npu::model::Device& device, FuzzBus& bus, std::vector<std::byte>& job) {
    flex_npu_job header{};
    if (job.size() >= sizeof header) std::memcpy(&header, job.data(), sizeof header);
    const std::size_t before =
        sizeof header + std::min<std::size_t>(header.regions, 64) * sizeof(flex_npu_region);
    if (job.size() > before) hurry(std::span(job).subspan(before));
    bus.restore();
    const flex_npu_result result = device.run(job);
    must(result.status <= FLEX_NPU_OFF && result.status != FLEX_NPU_ABORTED);
    must(result.cookie == header.cookie || job.size() < sizeof header);
    must(result.status != FLEX_NPU_OK || result.command == header.commands);
    must(result.status == FLEX_NPU_FAULT || result.address == 0);
    if (result.status == FLEX_NPU_BAD_JOB || result.status == FLEX_NPU_OFF) must(!bus.written());
    if (result.status == FLEX_NPU_BAD_COMMAND && result.command == 0) must(!bus.written());
    if (result.status == FLEX_NPU_BAD_OPERAND && result.command == 0) must(!bus.written());
}

void run_commands(npu::model::Device& device, FuzzBus& bus, std::span<const std::byte> input) {
    if (input.empty()) return;
    const auto pokes = static_cast<std::size_t>(input[0]) % 8;
    input = input.subspan(1);
    if (input.size() < pokes * sizeof(fuzz::Poke) + sizeof(flex_npu_command)) return;
    const auto poke_bytes = input.first(pokes * sizeof(fuzz::Poke));
    input = input.subspan(poke_bytes.size());

    flex_npu_job header{};
    header.magic = FLEX_NPU_JOB_MAGIC;
    header.version = FLEX_NPU_VERSION;
    header.regions = 2;
    header.commands = static_cast<std::uint32_t>(input.size() / sizeof(flex_npu_command));
    const flex_npu_region regions[2] = {{NpuMemory::table(0), fuzz::kRegionBytes - 100},
                                        {NpuMemory::table(1), fuzz::kRegionBytes}};
    std::vector<std::byte> job(sizeof header + sizeof regions + header.commands * sizeof(flex_npu_command));
    std::memcpy(job.data(), &header, sizeof header);
    std::memcpy(job.data() + sizeof header, regions, sizeof regions);
    std::memcpy(job.data() + sizeof header + sizeof regions, input.data(),
                header.commands * sizeof(flex_npu_command));

    std::uint64_t saved[8] = {}, places[8] = {};
    for (std::size_t i = 0; i < pokes; ++i) {
        fuzz::Poke poke;
        std::memcpy(&poke, poke_bytes.data() + i * sizeof poke, sizeof poke);
        constexpr std::uint64_t kSpecial[] = {
            0, 1, ~std::uint64_t{0}, ArenaBus::kBase | 1, ArenaBus::kBase | 8, std::uint64_t{1} << 63};
        const std::uint64_t value = poke.value < fuzz::kPages ? NpuMemory::page(poke.value)
                                                              : kSpecial[poke.value % std::size(kSpecial)];
        places[i] = NpuMemory::page(1 + poke.page % 4) + std::uint64_t{poke.index} * 8;
        std::memcpy(&saved[i], bus.at(places[i]), 8);
        std::memcpy(bus.at(places[i]), &value, 8);
    }
    run(device, bus, job);
    bus.restore();
    for (std::size_t i = pokes; i-- > 0;) std::memcpy(bus.at(places[i]), &saved[i], 8);
}

void access_registers(npu::model::Device& device, std::span<const std::byte> input) {
    constexpr std::size_t kWords = 12;
    for (; input.size() >= kWords; input = input.subspan(kWords)) {
        device.write_configuration(static_cast<std::uint32_t>(input[11]) % 16, input.first(kWords));
        std::byte out[16];
        device.read_configuration(static_cast<std::uint32_t>(input[10]), out);
    }
    device.write(FLEX_NPU_REG_POWER, 1);
    must(device.read(FLEX_NPU_REG_ID) == FLEX_NPU_ID && device.read(FLEX_NPU_REG_STATUS) == 0);
}

void serve_ring(FuzzBus& bus, std::span<const std::byte> input) {
    using npu::vhost_user::Chain;
    using npu::vhost_user::Ring;
    if (input.size() < 4) return;
    // 16 descriptors, then the rings: all on one page that ends where nothing is granted.
    constexpr std::uint32_t kNumber = 16;
    const std::uint64_t page = NpuMemory::page(8 + 27);
    bus.put(page, input.first(std::min<std::size_t>(input.size(), FLEX_NPU_PAGE)));
    Ring ring;
    const std::uint64_t available = page + 256 + static_cast<std::uint64_t>(input[0]) % 2;
    const bool good = ring.set_number(kNumber) && ring.set_address({0, 0, page, page + 512, available, 0});
    must(good == (available % 2 == 0));
    ring.set_base(static_cast<std::uint16_t>(input[1]));
    Chain chain;
    for (std::uint32_t i = 0; i <= 0x20000; ++i) {
        must(i < 0x20000); // an index that counts 16 bits has an end
        const Ring::Status status = ring.next(bus, chain);
        if (status != Ring::Status::kChain && status != Ring::Status::kBadChain) break;
        must(chain.head < kNumber && chain.in.size() + chain.out.size() <= kNumber);
        bool notify = false;
        if (ring.complete(bus, chain.head, 64, notify) != Ring::Status::kEmpty) break;
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    static FuzzBus bus;
    static npu::model::Device device(bus, engine::scalar_kernels(), {.cores = 1});
    const std::span input(reinterpret_cast<const std::byte*>(data), size);
    if (input.empty()) return 0;
    const auto rest = input.subspan(1);
    switch (static_cast<NpuMode>(data[0] % fuzz::kNpuModes)) {
    case NpuMode::kCommands:
        run_commands(device, bus, rest);
        break;
    case NpuMode::kJob: {
        std::vector<std::byte> job(rest.begin(), rest.end());
        run(device, bus, job);
        break;
    }
    case NpuMode::kRegisters:
        access_registers(device, rest);
        break;
    case NpuMode::kRing:
        serve_ring(bus, rest);
        break;
    }
    bus.restore();
    return 0;
}
