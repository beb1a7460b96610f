/* The program's system calls: Linux arm64 (asm-generic/unistd.h) and abi/syscall.h. Each file holds one
 * family. */
#ifndef FLEX_TOS_KERNEL_SYSTEM_CALLS_HPP
#define FLEX_TOS_KERNEL_SYSTEM_CALLS_HPP

#include "kernel/program.hpp"
#include "kernel/thread.hpp"

namespace flex::tos {

/* The six arguments, as they were when the call was made. */
struct Arguments {
    u64 a[6];
    u64 operator[](u32 i) const { return a[i]; }
};
using SystemCall = Next (*)(Thread&, const Arguments&);

struct CallEntry {
    u32 number;
    SystemCall call;
};
extern const Span<const CallEntry> kThreadCalls, kMemoryCalls, kFileCalls, kFileStateCalls, kSocketCalls,
    kPollCalls, kInformationCalls, kFlexCalls;

/* struct timespec */
struct TimeSpec {
    i64 seconds, nanoseconds;
    /* kNever - 1 at most; false: not a valid time */
    [[nodiscard]] bool to_ns(u64& ns) const;
};

/* A call that succeeds without doing anything. */
template <i64 kResult> Next answer(Thread& thread, const Arguments&) { return finish(thread, kResult); }

/* Files and sockets share these. */
Next socket_read(Thread& thread, u64 descriptor, u64 buffer, u64 bytes, bool dont_wait);
Next socket_write(Thread& thread, u64 descriptor, u64 buffer, u64 bytes, bool dont_wait);

} // namespace flex::tos

#endif
