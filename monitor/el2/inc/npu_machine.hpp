#pragma once

#include "hardware.hpp"
#include "npu_function.hpp"
#include "npu_switch.hpp"

namespace flex::monitor {

// The Machine of NpuSwitch on the board. Caller: holds the monitor's lock for PCI.
class NpuMachine final {
public:
    void init(const NpuFunction& function) { function_ = function; }

    Status locate(flex_npu_control& where);
    bool hide();
    void show();
    void cut_stream();
    void join_stream(bool flex);
    bool reset();
    void settle_interrupts(bool flex);
    // Whether it had raised its interrupt line, which is low now.
    [[nodiscard]] bool lower_interrupt();

    // Its register windows, as they were at the last switch.
    [[nodiscard]] bool has_registers_at(u64 address) const;

private:
    // Its configuration space and register windows, in the order in which they leave the normal tree.
    template <class Action> void for_each_region(Action action) const;

    NpuFunction function_;
    PciFilter<EcamConfig>::Windows windows_;
    u32 command_ = 0, msi_control_ = 0, msix_control_ = 0; // as the normal world left them
};

} // namespace flex::monitor
