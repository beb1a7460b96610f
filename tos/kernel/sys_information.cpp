/* Who and where the program is, random numbers. */
#include "core/memory.hpp"
#include "kernel/core.hpp"
#include "kernel/random.hpp"
#include "kernel/system_calls.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

namespace {

constexpr i64 kProcess = 1; /* as if init: pid of the one program */

Next system_getrandom(Thread& thread, const Arguments& a) {
    u8 bytes[256]; /* more comes by further calls, as for any short count; glibc and OpenSSL loop */
    const u64 count = min<u64>(a[1], sizeof bytes);
    if (!reached(thread, touch(a[0], count, kProtectWrite))) return thread.outcome;
    g_drbg.generate(bytes, count);
    const Access access = copy_to_user(a[0], bytes, count);
    forget(bytes, sizeof bytes);
    return finish(thread, access == Access::Good ? static_cast<i64>(count) : i64{kEfault});
}

Next system_uname(Thread& thread, const Arguments& a) {
    struct {
        char system[65] = "Linux", node[65] = "flexserve", release[65] = "5.10.0-flexserve",
             version[65] = "trusted OS";
        char machine[65] = "aarch64", domain[65] = "";
    } name;
    if (!reached(thread, store_user(a[0], name))) return thread.outcome;
    return finish(thread, 0);
}

/* struct sysinfo. Memory: what Flex-Mem could grow to is the normal world's to say; glibc sizes nothing by it
 * but qsort. */
Next system_sysinfo(Thread& thread, const Arguments& a) {
    struct {
        i64 uptime;
        u64 loads[3], total_ram, free_ram, shared_ram, buffer_ram, total_swap, free_swap;
        u16 processes, padding[3];
        u64 total_high, free_high;
        u32 unit, padding2;
    } info = {};
    info.uptime = static_cast<i64>(ticks_to_ns(now() - g_program.started) / 1'000'000'000);
    info.total_ram = g_frames.frames() * kPageBytes;
    info.free_ram = g_pool.frames() * kPageBytes;
    info.processes = 1;
    info.unit = 1;
    if (!reached(thread, store_user(a[0], info))) return thread.outcome;
    return finish(thread, 0);
}

/* RLIMIT_STACK is what glibc sizes thread stacks by; the rest is unlimited. */
Next system_prlimit(Thread& thread, const Arguments& a) {
    constexpr u64 kStackLimit = 3;
    if (a[2] != 0) return finish(thread, kEperm);
    const u64 limit[2] = {a[1] == kStackLimit ? kStackBytes : kNever,
                          a[1] == kStackLimit ? kStackBytes : kNever};
    if (a[3] != 0) {
        if (!reached(thread, copy_to_user(a[3], limit, sizeof limit))) return thread.outcome;
    }
    return finish(thread, 0);
}

/* As many cores as the normal world said it lends. */
Next system_getaffinity(Thread& thread, const Arguments& a) {
    const u64 mask = (u64{1} << g_program.cores_lent) - 1;
    if (a[1] < sizeof mask) return finish(thread, kEinval);
    if (!reached(thread, store_user(a[2], mask))) return thread.outcome;
    return finish(thread, sizeof mask);
}

Next system_getcpu(Thread& thread, const Arguments& a) {
    const u32 numbers[2] = {this_core().index, 0};
    for (u32 i = 0; i < 2; i++) {
        if (a[i] == 0) continue;
        if (!reached(thread, store_user(a[i], numbers[i]))) return thread.outcome;
    }
    return finish(thread, 0);
}

Next system_getcwd(Thread& thread, const Arguments& a) {
    const char root[2] = "/";
    if (a[1] < sizeof root) return finish(thread, kErange);
    if (!reached(thread, store_user(a[0], root))) return thread.outcome;
    return finish(thread, sizeof root);
}

const CallEntry kInformationCallsList[] = {
    {17, system_getcwd},       {122, answer<0>}, /* sched_setaffinity: every thread runs on every core */
    {123, system_getaffinity}, {160, system_uname},     {167, answer<0>}, /* prctl: names of threads */
    {168, system_getcpu},      {172, answer<kProcess>}, {173, answer<0>}, /* getppid */
    {174, answer<0>},          {175, answer<0>},        {176, answer<0>},        {177, answer<0>},
    {179, system_sysinfo},     {261, system_prlimit},   {278, system_getrandom},
};
} // namespace

const Span<const CallEntry> kInformationCalls(kInformationCallsList);

} // namespace flex::tos
