// The monotonic clock without a call of the trusted OS: it is the system counter, which a program may read
// (CNTKCTL_EL1.EL0PCTEN). Linux has its vDSO for that; a server asks some fifty times a token. The linker sends
// all calls of clock_gettime here (--wrap).
#include <cstdint>
#include <ctime>

#include "port/port.h"

extern "C" {

int __real_clock_gettime(clockid_t clock, timespec* time);
int __wrap_clock_gettime(clockid_t clock, timespec* time);

int __wrap_clock_gettime(clockid_t clock, timespec* time) {
    static const bool counted = flex::port::under_trusted_os();
    if (clock != CLOCK_MONOTONIC || !counted) return __real_clock_gettime(clock, time);
    std::uint64_t ticks = 0, frequency = 0;
    // Without the barrier it may be read early (Arm ARM D12.2.2).
    asm volatile("isb\n\tmrs %0, cntpct_el0\n\tmrs %1, cntfrq_el0" : "=r"(ticks), "=r"(frequency)::"memory");
    constexpr std::uint64_t kSecond = 1'000'000'000;
    time->tv_sec = static_cast<time_t>(ticks / frequency);
    time->tv_nsec = static_cast<long>(ticks % frequency * kSecond / frequency);
    return 0;
}

} // extern "C"
