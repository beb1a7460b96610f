#pragma once

#include "types.hpp"

namespace flex::monitor {

// Where each core is to enter EL1. A core enters through the monitor, so the normal world's entry point is
// kept here while the firmware starts the core. The monitor's lock protects it.
class CoreRegistry final {
public:
    static constexpr unsigned kMost = 8;
    static constexpr u64 kAffinity = bits(39, 32, 0xff) | bits(23, 0, 0xffffff); // MPIDR_EL1 Aff3..Aff0

    struct Entry {
        u64 address = 0;
        u64 context = 0;
    };

    // False: more cores than the monitor has stacks for; the core can then never be started.
    bool add(u64 affinity) {
        if (count_ == kMost) return false;
        cores_[count_++] = {.affinity = affinity & kAffinity, .state = State::Off, .entry = {}};
        return true;
    }

    [[nodiscard]] unsigned count() const { return count_; }

    // Index of a core, or kMost when there is no such core.
    [[nodiscard]] unsigned find(u64 affinity) const {
        for (unsigned i = 0; i < count_; i++) {
            if (cores_[i].affinity == affinity) return i;
        }
        return kMost;
    }

    [[nodiscard]] u64 affinity(unsigned core) const { return cores_[core].affinity; }

    // Claims an off core for starting. False: it is on, or being started by someone else.
    [[nodiscard]] bool begin_start(unsigned core, Entry entry) {
        if (cores_[core].state != State::Off) return false;
        cores_[core].state = State::Starting;
        cores_[core].entry = entry;
        return true;
    }
    void abandon_start(unsigned core) { cores_[core].state = State::Off; }
    // The core itself, on its way to EL1.
    Entry finish_start(unsigned core) {
        cores_[core].state = State::On;
        return cores_[core].entry;
    }
    [[nodiscard]] bool is_starting(unsigned core) const { return cores_[core].state == State::Starting; }
    void set_off(unsigned core) { cores_[core].state = State::Off; }
    void set_on(unsigned core) { cores_[core].state = State::On; }

private:
    enum class State { Off, Starting, On };
    struct Core {
        u64 affinity = 0;
        State state = State::Off;
        Entry entry;
    };

    Core cores_[kMost];
    unsigned count_ = 0;
};

} // namespace flex::monitor
