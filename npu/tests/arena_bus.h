// A small memory at made-up bus addresses, some pages of which are granted: what the device's tests and its
// fuzzer use.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "abi/npu.h"
#include "npu/model/bus_memory.h"

namespace flex::npu::model::testing {

class ArenaBus : public BusMemory {
public:
    static constexpr std::uint64_t kBase = 0x4000'0000;
    static constexpr std::uint8_t kNone = 0, kReadOnly = 1, kWriteOnly = 2, kBoth = 3;

    explicit ArenaBus(std::size_t pages) : bytes_(pages * FLEX_NPU_PAGE), grants_(pages, kBoth) {}

    void close() override {}

    void grant(std::uint64_t address, std::uint8_t access) {
        grants_[(address - kBase) / FLEX_NPU_PAGE] = access;
    }
    [[nodiscard]] std::byte* at(std::uint64_t address) { return bytes_.data() + (address - kBase); }
    [[nodiscard]] std::span<std::byte> all() { return bytes_; }

protected:
    Window open_window(std::uint64_t address, std::uint64_t bytes, Access access, const Ahead*) override {
        const std::uint8_t wanted = access == Access::kRead ? kReadOnly : kWriteOnly;
        std::uint64_t end = address;
        while (end - address < bytes && granted(end, wanted)) end = (end | (FLEX_NPU_PAGE - 1)) + 1;
        if (end == address) return {};
        const std::uint64_t some = end - address < bytes ? end - address : bytes;
        return {Window::Status::kOpen, at(address), static_cast<std::size_t>(some)};
    }

private:
    [[nodiscard]] bool granted(std::uint64_t address, std::uint8_t wanted) const {
        if (address < kBase || address - kBase >= bytes_.size()) return false;
        return (grants_[(address - kBase) / FLEX_NPU_PAGE] & wanted) != 0;
    }

    std::vector<std::byte> bytes_;
    std::vector<std::uint8_t> grants_;
};

/// Hands out pages of an arena, and puts regions together from them.
class Pages {
public:
    explicit Pages(ArenaBus& bus) : bus_(bus) {}

    std::uint64_t take(std::size_t pages = 1) {
        const std::uint64_t address = next_;
        next_ += pages * FLEX_NPU_PAGE;
        return address;
    }
    void skip(std::size_t pages) { next_ += pages * FLEX_NPU_PAGE; }
    ArenaBus& bus() { return bus_; }

private:
    ArenaBus& bus_;
    std::uint64_t next_ = ArenaBus::kBase + FLEX_NPU_PAGE;
};

/// A region and what is in it.
class TestRegion {
public:
    /// Of pages that lie apart and in falling order, or (`blocks`) of blocks of 2 MiB.
    TestRegion(Pages& pages, std::uint64_t bytes, bool blocks = false) : bus_(pages.bus()) {
        region_ = {pages.take(), bytes};
        for (std::uint64_t first = 0; first < bytes; first += FLEX_NPU_BLOCK) {
            if (blocks) {
                entry(region_.table, first / FLEX_NPU_BLOCK) =
                    pages.take(FLEX_NPU_ENTRIES) | FLEX_NPU_ENTRY_BLOCK;
                continue;
            }
            const std::uint64_t table = pages.take();
            entry(region_.table, first / FLEX_NPU_BLOCK) = table;
            const std::uint64_t left = bytes - first, some = left < FLEX_NPU_BLOCK ? left : FLEX_NPU_BLOCK;
            const std::size_t count = (some + FLEX_NPU_PAGE - 1) / FLEX_NPU_PAGE;
            for (std::size_t i = count; i-- > 0;) {
                pages.skip(i % 3 == 0);
                entry(table, i) = pages.take();
            }
        }
    }

    [[nodiscard]] const flex_npu_region& abi() const { return region_; }
    flex_npu_region& abi() { return region_; }
    std::uint64_t& entry(std::uint64_t table, std::size_t index) {
        return reinterpret_cast<std::uint64_t*>(bus_.at(table))[index];
    }
    [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) {
        const std::uint64_t block = entry(region_.table, offset / FLEX_NPU_BLOCK);
        const std::uint64_t within = offset % FLEX_NPU_BLOCK;
        if ((block & FLEX_NPU_ENTRY_BLOCK) != 0) return (block & ~FLEX_NPU_ENTRY_BLOCK) + within;
        return entry(block, within / FLEX_NPU_PAGE) + within % FLEX_NPU_PAGE;
    }
    void put(std::uint64_t offset, const void* from, std::size_t bytes) {
        for (std::size_t i = 0; i < bytes; ++i)
            *bus_.at(address_of(offset + i)) = static_cast<const std::byte*>(from)[i];
    }
    template <class T> void put(std::uint64_t offset, const std::vector<T>& from) {
        put(offset, from.data(), from.size() * sizeof(T));
    }
    template <class T> [[nodiscard]] std::vector<T> get(std::uint64_t offset, std::size_t count) {
        std::vector<T> out(count);
        auto* const to = reinterpret_cast<std::byte*>(out.data());
        for (std::size_t i = 0; i < count * sizeof(T); ++i) to[i] = *bus_.at(address_of(offset + i));
        return out;
    }

private:
    ArenaBus& bus_;
    flex_npu_region region_{};
};

struct TestJob {
    std::vector<flex_npu_region> regions;
    std::vector<flex_npu_command> commands;
    std::uint64_t cookie = 0x1122334455667788;

    [[nodiscard]] std::vector<std::byte> bytes() const {
        flex_npu_job header{};
        header.magic = FLEX_NPU_JOB_MAGIC;
        header.version = FLEX_NPU_VERSION;
        header.regions = static_cast<std::uint32_t>(regions.size());
        header.commands = static_cast<std::uint32_t>(commands.size());
        header.cookie = cookie;
        std::vector<std::byte> out;
        const auto add = [&](const void* from, std::size_t bytes) {
            const auto* first = static_cast<const std::byte*>(from);
            out.insert(out.end(), first, first + bytes);
        };
        add(&header, sizeof header);
        add(regions.data(), regions.size() * sizeof(flex_npu_region));
        add(commands.data(), commands.size() * sizeof(flex_npu_command));
        return out;
    }
};

} // namespace flex::npu::model::testing
