#pragma once

#include "arch.hpp"
#include "board.h"
#include "page_tree.hpp"
#include "smmu.hpp"
#include "types.hpp"

namespace flex::monitor {

// PCI configuration space as the host bridge shows it (ECAM).
class EcamConfig final {
public:
    explicit EcamConfig(u64 base) : base_(base) {}
    [[nodiscard]] u32 read(u32 offset) const { return arch::read32(base_ + offset); }
    void write(u32 offset, unsigned bytes, u32 value) const {
        if (bytes == 1) arch::write8(base_ + offset, value);
        if (bytes == 2) arch::write16(base_ + offset, value);
        if (bytes == 4) arch::write32(base_ + offset, value);
        arch::dsb();
    }

private:
    u64 base_;
};

// The Machine of PageTree and FlexMemory on the real core.
class Hardware final {
public:
    Smmu& smmu() { return smmu_; }

    static u64 load(const u64* slot) { return __atomic_load_n(slot, __ATOMIC_RELAXED); }
    static void store(u64* slot, u64 value) {
        __atomic_store_n(slot, value, __ATOMIC_RELEASE);
        arch::dsb_ishst(); // walkers see entries in program order (Arm ARM B2.3.12)
    }

    // ID_AA64MMFR2_EL1.BBM and .FWB, and the SMMU's alike. A TLB conflict abort that level 2 of BBM permits is handled
    // in traps.cpp.
    void detect() {
        const u64 features = FLEX_READ(id_aa64mmfr2_el1);
        replaces_directly_ = field(features, 55, 52) >= 2 && smmu_.replaces_directly();
        forces_write_back_ = stage2::no_access_passes_caches(field(features, 43, 40) != 0, smmu_.can_force_write_back(),
                                                             BOARD_DMA_IS_ALWAYS_COHERENT != 0);
        if (forces_write_back_) smmu_.force_write_back();
    }
    [[nodiscard]] bool replaces_directly() const { return replaces_directly_; }
    // HCR_EL2.FWB is to be set on every core before it runs EL1.
    [[nodiscard]] bool forces_write_back() const { return forces_write_back_; }
    [[nodiscard]] stage2::Attributes attributes() const {
        return forces_write_back_ ? stage2::kForced : stage2::kCombined;
    }

    static void core_forget(u64 address) { arch::tlbi_stage2(address); }
    static void core_forget_combined() { // entries that hold stage 1 and 2 in one
        arch::dsb_ish();
        arch::tlbi_stage1_vmid();
    }
    static void core_forget_all() { arch::tlbi_all_vmid(); }
    static void core_wait() {
        arch::dsb_ish();
        // Some cores (Cortex-A76 erratum 1286807 and kin) need one more TLBI and DSB before the first is
        // complete everywhere.
        arch::tlbi_stage1_vmid();
        arch::dsb_ish();
        arch::isb();
    }

    void device_forget(u16 vmid, u64 address, u64 bytes) { smmu_.forget(vmid, address, bytes); }
    void device_forget_all(u16 vmid) { smmu_.forget_all(vmid); }
    void device_wait() { smmu_.wait(); }

    void settle_caches(u64 address, u64 bytes) const {
        if (forces_write_back_ || !arch::caches_hide_memory()) return;
        const u64 line = arch::cache_line();
        for (u64 a = address; a < address + bytes; a += line) arch::clean_and_invalidate(a);
        arch::dsb();
    }

    static u64 read_memory(u64 address) {
        return __atomic_load_n(reinterpret_cast<const u64*>(address), __ATOMIC_RELAXED);
    }
    static void relax() { arch::yield(); }

private:
    Smmu smmu_;
    bool replaces_directly_ = false;
    bool forces_write_back_ = false;
};

} // namespace flex::monitor
