#pragma once

#include "abi/frame_table.hpp"
#include "types.hpp"

namespace flex::monitor {

// A list of ranges from the normal world, copied once into the monitor's memory: the caller may change his
// own afterwards, to no effect. One exists; the monitor's lock protects it.
template <class Machine> class RangeList final {
public:
    // source: physical address of `count` (<= FLEX_LIST_MAX) words, checked to lie in frames the normal world
    // may reach.
    void copy(Machine& machine, u64 source, u64 count) {
        count_ = count;
#ifdef FLEX_WITHOUT_COPY_ONCE
        machine_ = &machine;
        source_ = source;
#else
        for (u64 i = 0; i < count; i++) words_[i] = machine.read_memory(source + i * sizeof(flex_range_t));
#endif
    }

    [[nodiscard]] u64 count() const { return count_; }

    [[nodiscard]] flex_range_t operator[](u64 i) const {
#ifdef FLEX_WITHOUT_COPY_ONCE
        return machine_->read_memory(source_ + i * sizeof(flex_range_t));
#else
        return words_[i];
#endif
    }

private:
    u64 count_ = 0;
#ifdef FLEX_WITHOUT_COPY_ONCE
    Machine* machine_ = nullptr;
    u64 source_ = 0;
#else
    flex_range_t words_[FLEX_LIST_MAX] = {};
#endif
};

} // namespace flex::monitor
