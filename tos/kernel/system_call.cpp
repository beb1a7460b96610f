#include "kernel/system_calls.hpp"

#include "abi/syscall.h"

#include "core/memory.hpp"
#include "kernel/console.hpp"

namespace flex::tos {

namespace {

/* Linux's numbers, then ours from FLEX_SYS_MEM_ALLOC on. */
constexpr u64 kLinuxNumbers = 512, kFirstOfOurs = FLEX_SYS_MEM_ALLOC, kNumbers = kLinuxNumbers + 16;
SystemCall calls[kNumbers];
u64 warned[kNumbers / 64 + 1];

/* Index in `calls`; kNumbers for a number that can be nobody's. */
u64 index_of(u64 number) {
    if (number < kLinuxNumbers) return number;
    const u64 ours = number - kFirstOfOurs;
    return number >= kFirstOfOurs && ours < kNumbers - kLinuxNumbers ? kLinuxNumbers + ours : kNumbers;
}

Next unknown_call(Thread& thread, u64 number, u64 index) {
    if ((warned[index / 64] >> (index % 64) & 1) == 0) {
        warned[index / 64] |= u64{1} << (index % 64);
        print_both("tos: system call %lu is not known here\n", number);
    }
    return finish(thread, kEnosys);
}

} // namespace

void collect_system_calls() {
    for (const auto& family : {kThreadCalls, kMemoryCalls, kFileCalls, kFileStateCalls, kSocketCalls,
                               kPollCalls, kInformationCalls, kFlexCalls}) {
        for (const CallEntry& entry : family) calls[index_of(entry.number)] = entry.call;
    }
}

Next system_call(Thread& thread) {
    Arguments arguments;
    copy_bytes(arguments.a, thread.registers.x, sizeof arguments.a);
    const u64 number = thread.registers.x[8];
    const u64 index = index_of(number);
    if (index == kNumbers || calls[index] == nullptr) return unknown_call(thread, number, index);
    return calls[index](thread, arguments);
}

} // namespace flex::tos
