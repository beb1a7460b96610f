#pragma once

#include "abi/npu_control.hpp"
#include "types.hpp"

namespace flex::monitor {

// The NPU's way from one world to the other (abi/npu.h has the states).
//
// Invariants:
//   1. From GIVEN to RETURNED no core and no device of the normal world has a translation to its registers or
//   its
//      configuration, cached or not, and configuration writes are refused.
//   2. Its stream translates by the tree of the world that has it, and aborts whenever that changes.
//   3. Between the two worlds it is reset with its stream aborting: nothing it was told, computed or began
//   before
//      is left after.
//
// A Machine offers, all to be called with its lock for the NPU held:
//   Status locate(flex_npu_control& where)   is it on and well placed? Fills in where the registers are
//   bool hide()              registers and configuration leave the normal tree, TLBs told; false: no
//   page-table frames void show()              the reverse; cannot fail after hide() void cut_stream() DMA
//   aborts, translations forgotten and waited for void join_stream(bool flex)  from abort to the flex or the
//   normal tree bool reset()             false: the device does not end it in time void
//   settle_interrupts(bool flex)   flex: no messages, only its line; else as Linux left it
template <class Machine, class Access = AtomicAccess> class NpuSwitch final {
public:
    NpuSwitch() = default;
    NpuSwitch(Machine& machine, flex_npu_control* control) : machine_(&machine), control_(control) {}

    [[nodiscard]] const MonitorNpuControl<Access>& control() const { return control_; }

    // NORMAL -> GIVEN, or back to NORMAL as it was (but reset).
    [[nodiscard]] Status give() {
        if (!control_.begin_give()) return Status::State;
        flex_npu_control where{};
        if (const Status status = machine_->locate(where); status != Status::Ok) return undo_give(status);
        if (!hide()) return undo_give(Status::NoMemory);
        machine_->cut_stream();
        if (!reset()) {
            machine_->join_stream(false);
            show();
            return undo_give(Status::Busy);
        }
        machine_->settle_interrupts(true);
        machine_->join_stream(true);
        (void)control_.settle_given(where);
        return Status::Ok;
    }

    // RETURNED or GIVEN -> NORMAL; RETURNED with its stream aborting when the reset does not end.
    [[nodiscard]] Status take() {
        if (!control_.begin_take()) return Status::State;
        machine_->cut_stream();
        if (!reset()) {
            (void)control_.give_up_take();
            return Status::Busy;
        }
        machine_->settle_interrupts(false);
#ifdef FLEX_WITHOUT_NPU_STREAM
        machine_->join_stream(true); // the defence-removed build: its DMA stays the secure world's
#else
        machine_->join_stream(false);
#endif
        show();
        (void)control_.settle_normal();
        return Status::Ok;
    }

private:
#ifdef FLEX_WITHOUT_NPU_UNMAP
    [[nodiscard]] bool hide() { return true; }
    void show() {}
#else
    [[nodiscard]] bool hide() { return machine_->hide(); }
    void show() { machine_->show(); }
#endif
    [[nodiscard]] bool reset() {
#ifdef FLEX_WITHOUT_NPU_RESET
        return true;
#else
        return machine_->reset();
#endif
    }

    Status undo_give(Status status) {
        (void)control_.settle_normal();
        return status;
    }

    Machine* machine_ = nullptr;
    MonitorNpuControl<Access> control_;
};

} // namespace flex::monitor
