// flex-registers SECONDS: a process of the device's Linux that keeps patterns in all FP and SIMD registers and looks
// whether they stay there while the secure world borrows its core. Exit code 0: they did. What the registers hold is
// Linux' to keep over an SMC only as far as the secure world gives them back (Arm DEN0028, 2.6).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <unistd.h>

namespace {

constexpr int kRegisters = 32, kBytes = 16;

#define FLEX_PAIRS(operation, base)                                                                          \
    operation " q0, q1, [" base "]\n" operation " q2, q3, [" base ", 32]\n" operation " q4, q5, [" base      \
              ", 64]\n" operation " q6, q7, [" base ", 96]\n" operation " q8, q9, [" base                    \
              ", 128]\n" operation " q10, q11, [" base ", 160]\n" operation " q12, q13, [" base              \
              ", 192]\n" operation " q14, q15, [" base ", 224]\n" operation " q16, q17, [" base              \
              ", 256]\n" operation " q18, q19, [" base ", 288]\n" operation " q20, q21, [" base              \
              ", 320]\n" operation " q22, q23, [" base ", 352]\n" operation " q24, q25, [" base              \
              ", 384]\n" operation " q26, q27, [" base ", 416]\n" operation " q28, q29, [" base              \
              ", 448]\n" operation " q30, q31, [" base ", 480]\n"

/// Loads, waits long enough to be interrupted now and then, stores.
void hold(const unsigned char* in, unsigned char* out, unsigned long turns) {
    asm volatile(FLEX_PAIRS("ldp", "%1") "1: subs %0, %0, #1\n b.ne 1b\n" FLEX_PAIRS("stp", "%2")
                 : "+r"(turns)
                 : "r"(in), "r"(out)
                 : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13",
                   "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
                   "v28", "v29", "v30", "v31");
}

} // namespace

int main(int argc, char** argv) {
    const long seconds = argc > 1 ? std::atol(argv[1]) : 5;
    unsigned char in[kRegisters * kBytes], out[kRegisters * kBytes];
    long rounds = 0, changed = 0;
    for (const std::time_t end = std::time(nullptr) + seconds; std::time(nullptr) < end; ++rounds) {
        for (int i = 0; i < kRegisters * kBytes; ++i) in[i] = static_cast<unsigned char>(i * 7 + rounds + getpid());
        std::memset(out, 0, sizeof out);
        hold(in, out, 300000);
        for (int i = 0; i < kRegisters; ++i) {
            if (std::memcmp(in + i * kBytes, out + i * kBytes, kBytes) == 0) continue;
            ++changed;
            std::printf("v%d changed in round %ld\n", i, rounds);
        }
    }
    std::printf("%ld rounds, %ld registers changed\n", rounds, changed);
    return changed != 0 || rounds == 0;
}
