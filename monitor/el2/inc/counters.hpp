#pragma once

#include "types.hpp"

namespace flex::monitor {

// What FLEX_HVC_STAT reports, by enum flex_monitor_stat. Any core adds at any time.
class Counters final {
public:
    void add(flex_monitor_stat which, u64 amount = 1) {
        __atomic_fetch_add(&values_[which], amount, __ATOMIC_RELAXED);
    }
    void set(flex_monitor_stat which, u64 value) {
        __atomic_store_n(&values_[which], value, __ATOMIC_RELAXED);
    }
    [[nodiscard]] u64 get(flex_monitor_stat which) const {
        return __atomic_load_n(&values_[which], __ATOMIC_RELAXED);
    }

private:
    u64 values_[FLEX_STAT_NPU_DENIED + 1] = {};
};

} // namespace flex::monitor
