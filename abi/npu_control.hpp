/*
 * Who has the NPU, as C++ (header-only, freestanding, no hardware): the transitions of
 * flex_npu_control.state, each with its author.
 *
 * Flex-Monitor uses MonitorNpuControl, the trusted OS TrustedOsNpuControl, on the same page at the same time;
 * neither can name a transition that is the other's, and every one is a compare-and-swap. `Access`: as in
 * frame_table.hpp. Thread-safe and lock-free; does not own the page, which must stay mapped in both worlds as
 * the frame table is.
 */
#ifndef FLEX_ABI_NPU_CONTROL_HPP
#define FLEX_ABI_NPU_CONTROL_HPP

#include "abi/frame_table.hpp"
#include "abi/npu.h"

namespace flex {

enum class NpuState : flex_u32 {
    Absent = FLEX_NPU_ABSENT,
    Normal = FLEX_NPU_NORMAL,
    Moving = FLEX_NPU_MOVING,
    Given = FLEX_NPU_GIVEN,
    Held = FLEX_NPU_HELD,
    Returned = FLEX_NPU_RETURNED,
};

/* The control page lies behind a frame table of that many cells. */
constexpr flex_u64 npu_control_offset(flex_u64 frames) {
    return (frames + FLEX_FRAME_SIZE - 1) & ~(FLEX_FRAME_SIZE - 1);
}

template <class Access = AtomicAccess> class NpuControl {
public:
    NpuControl() = default;
    explicit NpuControl(flex_npu_control* control) : control_(control) {}

    /* A look; only a transition decides. */
    [[nodiscard]] NpuState state() const { return static_cast<NpuState>(Access::load(&control_->state)); }

protected:
    [[nodiscard]] bool move(NpuState from, NpuState to) const {
        return Access::swap(&control_->state, static_cast<flex_u32>(from), static_cast<flex_u32>(to));
    }

    flex_npu_control* control_ = nullptr;
};

template <class Access = AtomicAccess> class MonitorNpuControl final : public NpuControl<Access> {
public:
    using NpuControl<Access>::NpuControl;

    /* ABSENT -> NORMAL, once, before the normal world runs. */
    [[nodiscard]] bool appear() const { return this->move(NpuState::Absent, NpuState::Normal); }
    [[nodiscard]] bool begin_give() const { return this->move(NpuState::Normal, NpuState::Moving); }
    [[nodiscard]] bool begin_take() const {
        return this->move(NpuState::Returned, NpuState::Moving) ||
               this->move(NpuState::Given, NpuState::Moving);
    }
    /* MOVING -> GIVEN: the normal world cannot reach it, it is reset, and its stream is the flex tree's. The
     * trusted OS reads what `where` says after its own compare-and-swap. */
    [[nodiscard]] bool settle_given(const flex_npu_control& where) const {
        flex_npu_control& c = *this->control_;
        c.registers = where.registers, c.bytes = where.bytes;
        c.common = where.common, c.notify = where.notify, c.isr = where.isr, c.device = where.device;
        c.notify_multiplier = where.notify_multiplier;
        return this->move(NpuState::Moving, NpuState::Given);
    }
    /* MOVING -> NORMAL: nothing of the secure world is left in it. */
    [[nodiscard]] bool settle_normal() const { return this->move(NpuState::Moving, NpuState::Normal); }
    /* MOVING -> RETURNED: it did not end its reset on the way back; to be tried again. */
    [[nodiscard]] bool give_up_take() const { return this->move(NpuState::Moving, NpuState::Returned); }
};

template <class Access = AtomicAccess> class TrustedOsNpuControl final : public NpuControl<Access> {
public:
    using NpuControl<Access>::NpuControl;

    /* GIVEN -> HELD; `where` is then a copy of what the monitor filled in, stable until put_back(). */
    [[nodiscard]] bool hold(flex_npu_control& where) const {
        if (!this->move(NpuState::Given, NpuState::Held)) return false;
        where = *this->control_;
        return true;
    }
    /* HELD -> RETURNED: no core of the secure world reaches it any more. */
    [[nodiscard]] bool put_back() const { return this->move(NpuState::Held, NpuState::Returned); }
};

} // namespace flex

#endif
