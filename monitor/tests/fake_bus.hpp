// Functions on a PCI bus, for what reads and writes configuration space.
#pragma once

#include "types.hpp"

#include <gtest/gtest.h>

#include <map>

namespace flex::monitor::test {

constexpr u32 kCommand = 0x04, kBar0 = 0x10, kBar1 = 0x14, kBar2 = 0x18, kRom = 0x30;

struct FakeBar {
    u32 size_mask = 0; // writable bits
    u32 flags = 0;
};

class FakeBus {
public:
    void add(u32 at, std::map<u32, FakeBar> bars) {
        bars_[at] = std::move(bars);
        words_[at] = 0x12341af4;
        words_[at + kCommand] = 0x00100003; // decoding on, as firmware may leave it
        for (const auto& [reg, bar] : bars_[at]) words_[at + reg] = bar.flags;
    }
    u32 read(u32 offset) const {
        EXPECT_EQ(offset % 4, 0u);
        if (!bars_.contains(offset & ~0xfffu)) return ~u32{0};
        const auto word = words_.find(offset);
        return word == words_.end() ? 0 : word->second;
    }
    void write(u32 offset, unsigned bytes, u32 value) {
        const u32 at = offset & ~0xfffu, reg = offset & 0xffc, shift = offset % 4 * 8;
        const u32 mask = (bytes == 4 ? ~u32{0} : (1u << 8 * bytes) - 1) << shift;
        const u32 merged = (words_[at + reg] & ~mask) | (value << shift & mask);
        if (reg >= kBar0 && reg <= kRom) {
            const auto bar = bars_[at].find(reg);
            words_[at + reg] =
                bar == bars_[at].end() ? 0 : (merged & bar->second.size_mask) | bar->second.flags;
        } else {
            words_[at + reg] = merged;
        }
    }

    /// Past what a driver may write.
    void set(u32 offset, u32 value) { words_[offset] = value; }

private:
    std::map<u32, std::map<u32, FakeBar>> bars_;
    std::map<u32, u32> words_;
};

} // namespace flex::monitor::test
