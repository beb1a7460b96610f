/*
 * The NPU as far as it needs no hardware: what of the control page is believed, and the life of one hold.
 * Not thread-safe: the kernel's lock is held.
 */
#ifndef FLEX_TOS_CORE_NPU_HPP
#define FLEX_TOS_CORE_NPU_HPP

#include "abi/npu.h"
#include "core/types.hpp"

namespace flex::tos {

/* Registers the program may be given: the board's NPU has 16 KiB. */
constexpr u64 kNpuBytesMax = u64{1} << 20;

/*
 * Pure: whole pages within [low, high), the board's PCI window, with every virtio structure inside. `where`
 * is a copy in secure memory.
 */
[[nodiscard]] bool npu_registers_valid(const flex_npu_control& where, u64 low, u64 high);

/*
 * One hold of the NPU by the program: from ACQUIRE to RELEASE. A recall by the normal world sets a time by
 * which it ends; if the program lets it pass, the hold is Lost: the NPU is gone, the program does not know
 * yet.
 */
class NpuHold {
public:
    static constexpr u64 kNoTime = ~u64{0};

    [[nodiscard]] bool held() const { return state_ == State::Held; }
    [[nodiscard]] bool lost() const { return state_ == State::Lost; }
    [[nodiscard]] bool none() const { return state_ == State::None; }
    [[nodiscard]] bool recalled() const { return held() && deadline_ != kNoTime; }

    void begin() {
        state_ = State::Held;
        deadline_ = kNoTime;
        rang_ = false;
    }
    /* Its interrupt has come: kept for a wait that has not begun. */
    void ring() { rang_ = held(); }
    /* Whether it had; then not any more. */
    [[nodiscard]] bool take_ring() {
        const bool rang = rang_;
        rang_ = false;
        return rang;
    }
    /* The normal world wants it back by `deadline` (ticks). A later recall shortens the time, but never
     * lengthens it. False: it is not held. */
    [[nodiscard]] bool recall(u64 deadline) {
        if (!held()) return false;
        /* kNoTime is no time to come */
        deadline_ = min(deadline_, min(deadline, kNoTime - 1));
        return true;
    }
    /* When it will be overdue; kNoTime: never as things are. */
    [[nodiscard]] u64 deadline() const { return held() ? deadline_ : kNoTime; }
    [[nodiscard]] bool overdue(u64 now) const { return recalled() && now >= deadline_; }
    void lose() { state_ = State::Lost; }
    void end() { state_ = State::None; }

private:
    enum class State : u8 { None, Held, Lost };
    State state_ = State::None;
    u64 deadline_ = kNoTime;
    bool rang_ = false;
};

} // namespace flex::tos

#endif
