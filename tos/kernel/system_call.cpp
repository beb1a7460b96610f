#include "kernel/system_calls.hpp"

#include "core/memory.hpp"
#include "kernel/console.hpp"

namespace flex::tos {

namespace {

/* Linux's numbers below this are looked up once and remembered when unknown. */
constexpr u64 kNumbers = 512;
u64 warned[kNumbers / 64];
bool warned_other;

SystemCall look_up(u64 number) {
    for (const auto family : {thread_call, memory_call, file_call, socket_call, poll_call, information_call, flex_call}) {
        if (const SystemCall call = family(number); call != nullptr) return call;
    }
    return nullptr;
}

} // namespace

void warn_unknown_call(u64 number) {
    if (number < kNumbers) {
        if ((warned[number / 64] >> (number % 64) & 1) != 0) return;
        warned[number / 64] |= u64{1} << (number % 64);
    } else {
        if (warned_other) return;
        warned_other = true;
    }
    print_both("tos: system call %lu is not known here\n", number);
}

Next system_call(Thread& thread) {
    Arguments arguments;
    copy_bytes(arguments.a, thread.registers.x, sizeof arguments.a);
    const u64 number = thread.registers.x[8];
    const SystemCall call = look_up(number);
    if (call != nullptr) return call(thread, arguments);
    warn_unknown_call(number);
    return finish(thread, kEnosys);
}

} // namespace flex::tos
