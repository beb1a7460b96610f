// What an input of fuzz_npu is made of: the memory that the device finds, and bytes that change it and become
// commands.
#pragma once

#include <cstring>
#include <vector>

#include "npu/tests/arena_bus.h"

namespace flex::fuzz {

/// The first byte of an input, modulo their number.
enum class NpuMode : std::uint8_t {
    kCommands,  ///< u8 pokes, Poke[pokes], then flex_npu_command[]: the header is made for them
    kJob,       ///< a job as it stands
    kRegisters, ///< bytes written to the configuration space, 12 at a time
    kRing,      ///< the memory of a virtqueue
};
inline constexpr std::uint8_t kNpuModes = 4;

/// Changes an entry of a table: page number, index, what is put there (page numbers from kPages on: special
/// values).
struct Poke {
    std::uint8_t page, index, value;
};

/// Two regions of 32 pages: in the first the last page is missing, one may only be read, one only be written,
/// and one is not granted at all. Everything else is granted.
inline constexpr std::uint8_t kPages = 80;
inline constexpr std::uint64_t kRegionPages = 32;
inline constexpr std::uint64_t kRegionBytes = kRegionPages * FLEX_NPU_PAGE;

struct NpuMemory {
    static constexpr std::uint64_t page(std::uint64_t number) {
        return npu::model::testing::ArenaBus::kBase + number * FLEX_NPU_PAGE;
    }
    /// Pages 1 and 2: the regions' first tables; 3 and 4: their second ones; from 8 on what is in them.
    static std::uint64_t table(std::uint64_t region) { return page(1 + region); }

    static void fill(npu::model::testing::ArenaBus& bus) {
        using npu::model::testing::ArenaBus;
        // Small numbers as f32, as f16 and as bytes.
        std::uint32_t word = 0;
        for (std::uint64_t at = page(8); at < page(kPages); at += 4) {
            word = word * 1664525 + 1013904223;
            const std::uint32_t value = 0x3c00'3c00 | (word >> 9 & 0x007f'03ff);
            std::memcpy(bus.at(at), &value, 4);
        }
        for (std::uint64_t region = 0; region < 2; ++region) {
            const std::uint64_t second = page(3 + region);
            std::memcpy(bus.at(table(region)), &second, 8);
            for (std::uint64_t i = 0; i < kRegionPages; ++i) {
                const std::uint64_t address = page(8 + region * kRegionPages + i);
                std::memcpy(bus.at(second + 8 * i), &address, 8);
            }
        }
        std::memset(bus.at(page(3) + 8 * 31), 0, 8);
        bus.grant(page(8 + 30), ArenaBus::kNone);
        bus.grant(page(8 + 29), ArenaBus::kReadOnly);
        bus.grant(page(8 + 28), ArenaBus::kWriteOnly);
        // Page 20 of the first region: ids, rows of the cache, lists: all small.
        std::memset(bus.at(page(8 + 20)), 0, FLEX_NPU_PAGE);
    }
};

} // namespace flex::fuzz
