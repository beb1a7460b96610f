#pragma once

#include "types.hpp"

namespace flex::monitor {

// Writes to PCI configuration space (ECAM, PCI Express Base Specification 7.2.2). A device answers wherever its
// base address registers (BARs) say, so the normal world could lay one device over another, or over addresses
// that are no PCI window at all. Invariant: of the functions whose decoding is on, no two answer at the same
// address, and all answer inside the bridge's windows. Therefore
// - BARs change only while their function's decoding is off (as Linux does when it sizes or moves them), and
// - decoding goes on only when all BARs lie well.
// One function can be held: then nothing of it changes, so nobody moves, resets or powers off a device that is not the
// normal world's, and by the invariant nobody's registers come to lie over its own.
//
// Config: u32 read(u32 offset) of an aligned word, void write(u32 offset, unsigned bytes, u32 value).
// Not synchronised: the caller holds a lock.
template <class Config> class PciFilter final {
public:
    static constexpr unsigned kMostFunctions = 64, kBars = 6;
    static constexpr u32 kFunctionBytes = 4096;

    // Finds the functions of `buses` buses, turns their decoding off and learns the sizes of their BARs. False:
    // more functions than fit.
    [[nodiscard]] bool init(Config& config, unsigned buses, Region memory_window, Region io_window) {
        windows_[kMemory] = memory_window;
        windows_[kIo] = io_window;
        count_ = 0;
        for (u32 at = 0; at < buses << 20; at += kFunctionBytes) {
            if ((config.read(at) & 0xffff) == 0xffff) continue; // nobody there
            if (count_ == kMostFunctions) return false;
            learn(config, at, functions_[count_++]);
        }
        return true;
    }

    // Carries out the write as far as it is harmless. True: a part of it was refused.
    bool write(Config& config, u32 offset, unsigned bytes, u64 value) {
#ifdef FLEX_WITHOUT_PCI_FILTER
        if (bytes <= 4 && offset % bytes == 0) config.write(offset, bytes, static_cast<u32>(value));
        return false;
#else
        Function* function = find(offset & ~(kFunctionBytes - 1));
        if (function != nullptr && function == held_) return true;
        if (function == nullptr || bytes > 4 || offset % bytes != 0) return true;
        const u32 reg = offset % kFunctionBytes;
        if (reg == kCommand) return write_command(config, *function, bytes, static_cast<u32>(value));
        if (reg >= kFirstBar && reg < kFirstBar + 4 * function->registers) {
            if ((command(config, *function) & kDecode) != 0) return true;
        } else if ((reg & ~3u) == function->rom && (reg & 3) == 0 && (value & 1) != 0) {
            config.write(offset, bytes, static_cast<u32>(value) & ~1u); // a ROM is one more window: stays off
            return true;
        }
        config.write(offset, bytes, static_cast<u32>(value));
        return false;
#endif
    }

    [[nodiscard]] unsigned functions() const { return count_; }

    // at: configuration space of a function. Every write to it is refused from now on.
    void hold(u32 at) { held_ = find(at); }
    void let_go() { held_ = nullptr; }

    // Size of a memory BAR by the number of its first register; 0: there is none.
    [[nodiscard]] u64 memory_bytes(u32 at, unsigned bar) {
        const Function* f = find(at);
        return f == nullptr || bar >= kBars || f->bars[bar].space != kMemory ? 0 : f->bars[bar].bytes;
    }

    struct Windows {
        Region bars[kBars] = {}; // by register; no bytes: not there
    };
    // Where a function answers now. False: not at all, not only in memory, not in whole frames (which another's
    // registers might share), or it cannot do DMA.
    [[nodiscard]] bool windows(Config& config, u32 at, Windows& out) {
        const Function* f = find(at);
        constexpr u32 kOn = kDecodeMemory | kMaster;
        out = {};
        if (f == nullptr || (command(config, *f) & kOn) != kOn || !lies_well(config, *f, kMemory)) return false;
        for (unsigned i = 0; i < f->registers; i++) {
            if (f->bars[i].bytes == 0) continue;
            if (f->bars[i].space != kMemory || f->bars[i].bytes % kFrameSize != 0) return false;
            out.bars[i] = place(config, *f, i);
            if (out.bars[i].base % kFrameSize != 0) return false;
        }
        return true;
    }

private:
    enum Space : unsigned { kMemory = 0, kIo = 1 };
    static constexpr u32 kCommand = 0x04, kHeader = 0x0c, kFirstBar = 0x10;
    static constexpr u32 kDecodeIo = 1, kDecodeMemory = 2, kDecode = kDecodeIo | kDecodeMemory;
    static constexpr u32 kMaster = 4;

    struct Bar {
        u64 bytes = 0; // 0: not there
        Space space = kMemory;
        bool wide = false; // 64 bit, with the next register
    };
    struct Function {
        u32 at = 0;
        u32 registers = 0; // BAR registers: 6, or 2 of a bridge
        u32 rom = 0;       // offset of the expansion ROM's register
        Bar bars[kBars];
    };

    static constexpr u64 mask_of(Space space) { return space == kIo ? ~u64{3} : ~u64{15}; }
    static u32 command(Config& config, const Function& f) { return config.read(f.at + kCommand); }

    void learn(Config& config, u32 at, Function& f) {
        const bool bridge = (config.read(at + kHeader) >> 16 & 0x7f) == 1;
        f = {};
        f.at = at;
        f.registers = bridge ? 2 : 6;
        f.rom = bridge ? 0x38 : 0x30;
        config.write(at + kCommand, 2, command(config, f) & 0xffff & ~kDecode);
        for (unsigned i = 0; i < f.registers; i++) {
            const u32 reg = at + kFirstBar + 4 * i;
            const u32 size = probe(config, reg);
            if (size == 0) continue;
            Bar& bar = f.bars[i];
            bar.space = (size & 1) != 0 ? kIo : kMemory;
            bar.wide = bar.space == kMemory && (size & 6) == 4 && i + 1 < f.registers;
            const u64 high = bar.wide ? u64{probe(config, reg + 4)} << 32 : bits(63, 32, 0xffffffff);
            bar.bytes = ~((high | size) & mask_of(bar.space)) + 1;
            if (bar.wide) i++;
        }
    }

    // What of the register can be written (PCI Local Bus Specification 3.0, 6.2.5.1).
    static u32 probe(Config& config, u32 reg) {
        const u32 old = config.read(reg);
        config.write(reg, 4, ~u32{0});
        const u32 size = config.read(reg);
        config.write(reg, 4, old);
        return size;
    }

    Function* find(u32 at) {
        for (unsigned i = 0; i < count_; i++)
            if (functions_[i].at == at) return &functions_[i];
        return nullptr;
    }

    Region place(Config& config, const Function& f, unsigned i) const {
        const u32 reg = f.at + kFirstBar + 4 * i;
        const u64 high = f.bars[i].wide ? u64{config.read(reg + 4)} << 32 : 0;
        return {(high | config.read(reg)) & mask_of(f.bars[i].space), f.bars[i].bytes};
    }

    // No BAR of the function in that space is outside the window or on another's that answers.
    bool lies_well(Config& config, const Function& f, Space space) const {
        for (unsigned i = 0; i < f.registers; i++) {
            if (f.bars[i].bytes == 0 || f.bars[i].space != space) continue;
            const Region mine = place(config, f, i);
            const Region window = windows_[space];
            if (mine.base < window.base || mine.bytes > window.bytes || mine.base - window.base > window.bytes - mine.bytes)
                return false;
            if (meets_another(config, f, space, mine)) return false;
        }
        return true;
    }

    bool meets_another(Config& config, const Function& f, Space space, Region mine) const {
        for (unsigned k = 0; k < count_; k++) {
            const Function& other = functions_[k];
            if (&other == &f || (command(config, other) & (space == kIo ? kDecodeIo : kDecodeMemory)) == 0) continue;
            for (unsigned i = 0; i < other.registers; i++) {
                if (other.bars[i].bytes == 0 || other.bars[i].space != space) continue;
                const Region theirs = place(config, other, i);
                if (mine.base < theirs.end() && theirs.base < mine.end()) return true;
            }
        }
        return false;
    }

    bool write_command(Config& config, const Function& f, unsigned bytes, u32 value) {
        const u32 before = command(config, f);
        u32 allowed = value;
        if ((value & ~before & kDecodeMemory) != 0 && !lies_well(config, f, kMemory)) allowed &= ~kDecodeMemory;
        if ((value & ~before & kDecodeIo) != 0 && !lies_well(config, f, kIo)) allowed &= ~kDecodeIo;
        config.write(f.at + kCommand, bytes, allowed);
        return allowed != value;
    }

    Region windows_[2];
    Function functions_[kMostFunctions];
    unsigned count_ = 0;
    const Function* held_ = nullptr;
};

} // namespace flex::monitor
